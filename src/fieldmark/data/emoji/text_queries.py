"""Text → picture: names, keywords, and names with a style, as queries with their grains.

| kind | text | grains |
|---|---|---|
| name | a name in one language, its skin tone after it | name, skin tone |
| keywords | two or more keywords, never the name; the skin tone after them | keywords, skin tone |
| style | an English name, skin tone and style | name, skin tone, style |

Such a query is answered by every picture all of whose grains hold. So "thumbs up" finds all skin tones, and "cat" a
cat's face, which bears that keyword. What more than `MAX_ANSWERS` emoji would answer, skin tones aside, gets more
keywords, and is left out if `MAX_KEYWORDS` do not help.
"""

from collections.abc import Sequence

import numpy as np

from fieldmark.data.emoji.catalogue import SplitView, style_grain
from fieldmark.data.emoji.concepts import Concept, Meaning
from fieldmark.data.multimodal.mbeir_writing import NewQuery

TASK = 0
"""M-BEIR's number of text → image."""
MAX_ANSWERS = 3
MAX_KEYWORDS = 5


def text_queries(
    view: SplitView, first: int, styles: Sequence[str], rng: np.random.Generator
) -> tuple[list[NewQuery], int]:
    """Queries for the pictures of `styles`, numbered from `first`; and how many were left out as too vague.

    For every emoji: name and keywords in English and in another language, drawn for it; and, of several styles, one.
    """
    catalogue, pictures = view.catalogue, view.with_fact(styles)
    english, *others = catalogue.languages
    queries: list[NewQuery] = []
    vague = 0
    for concept in view.concepts.values():
        other = [others[int(rng.integers(len(others)))]] if others else []
        plans = [(kind, language, "") for language in (english, *other) for kind in ("name", "keywords")]
        if len(styles) > 1:
            plans.append(("style", english, styles[int(rng.integers(len(styles)))]))
        for kind, language, style in plans:
            meaning = concept.meanings.get(language)
            listed = None if meaning is None else _listed(meaning, kind, rng)
            if meaning is None or listed is None:  # a name or keywords that the language does not have
                continue
            grains = _telling(view, meaning, *listed)
            if grains is None:
                vague += 1
                continue
            if style:
                grains = (*grains, style_grain(catalogue.titles[style]))
            answers = sorted(frozenset.intersection(*(pictures.get(grain, frozenset()) for grain in grains)))
            if answers:
                queries.append(_query(view, first + len(queries), answers, grains, kind, language, concept))
    return queries, vague


def _query(
    view: SplitView, number: int, answers: list[int], grains: tuple[str, ...], kind: str, language: str, of: Concept
) -> NewQuery:
    return NewQuery(
        number,
        view.split,
        TASK,
        dict.fromkeys(answers, 1),
        text=", ".join(grains),
        grains=grains,
        source={"kind": kind, "language": language, "emoji": of.hexcode},
    )


def _listed(meaning: Meaning, kind: str, rng: np.random.Generator) -> tuple[list[str], int] | None:
    """Grains to choose from, in the order to take them, and how many at least."""
    keywords = [meaning.keywords[int(i)] for i in rng.permutation(len(meaning.keywords))]
    if kind != "keywords":
        return [meaning.name, *keywords], 1
    return (keywords, 2) if len(keywords) >= 2 else None


def _telling(view: SplitView, meaning: Meaning, grains: list[str], least: int) -> tuple[str, ...] | None:
    """The first `least` grains, or as many as it takes until few emoji share them, and the skin tone; None if that
    takes too many."""
    tone = (meaning.tone,) if meaning.tone else ()
    for count in range(least, min(len(grains), MAX_KEYWORDS) + 1):
        chosen = (*grains[:count], *tone)
        meant = frozenset.intersection(*(view.by_fact[grain] for grain in chosen))
        if len({view.concepts[hexcode].base for hexcode in meant}) <= MAX_ANSWERS:
            return chosen
    return None
