"""Queries with a picture: what is it called, the same in other styles, the same but for skin tone or style.

| kind | query | grains |
|---|---|---|
| picture | a picture | which emoji it shows, in which skin tone, as far as the style draws skin tones |
| other style | a picture, "the same in another style" | the same |
| named style | a picture, "the same, but in the style of …" | the same, and the style |
| tone | a picture, "the same, but with dark skin tone" | which emoji, the wanted skin tone |
| tone and style | both | which emoji, the wanted skin tone, the style |

They are answered by pictures and texts of the wanted emoji itself, or of one that the style of the query draws just
so.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import TypeVar

import numpy as np

from fieldmark.data.emoji.catalogue import Picture, SplitView, style_grain
from fieldmark.data.emoji.concepts import Concept
from fieldmark.data.multimodal.mbeir_writing import NewQuery

NAMING, SAME, EDIT = 3, 4, 7
"""M-BEIR's numbers of image → text, image → image, image and text → image."""

T = TypeVar("T")

_OTHER_STYLE = ("the same in another style", "this, drawn by someone else", "the same emoji of another set")
_CHANGE = ("the same, but {}", "this, {}", "what the picture shows, {}")


def naming_queries(view: SplitView, first: int, styles: Collection[str]) -> list[NewQuery]:
    """Each picture of `styles` → its names in all languages, and its keywords. Numbered from `first`."""
    found: list[NewQuery] = []
    for picture in _pictures(view, styles):
        answers = _answers(picture.shows, view.naming)
        found.append(_plain_query(view, first + len(found), NAMING, picture, answers))
    return found


def same_queries(view: SplitView, first: int, style: str, pool: Collection[str]) -> list[NewQuery]:
    """Each picture of a style → the same emoji in the styles of the pool."""
    showing = view.showing(pool)
    found: list[NewQuery] = []
    for picture in _pictures(view, [style]):
        if answers := _answers(picture.shows, showing):
            found.append(_plain_query(view, first + len(found), SAME, picture, answers))
    return found


def edit_queries(
    view: SplitView, first: int, style: str, pool: Sequence[str], rng: np.random.Generator
) -> list[NewQuery]:
    """Each picture of a style, with words about what is to be different → pictures in the styles of the pool."""
    showing, catalogue = view.showing(pool), view.catalogue
    found: list[NewQuery] = []
    for picture in _pictures(view, [style]):
        own = view.concepts[picture.hexcode]
        for kind, wanted, wanted_style in _edits(view, own, pool, rng):
            answers = _answers(picture.shows if wanted is own else {wanted.hexcode}, showing)
            grains = catalogue.picture_grains(wanted) if wanted is not own else _visible(view, picture)
            changes = [] if wanted is own else [f"with {grains[-1]}"]
            if wanted_style:
                answers = [n for n in answers if catalogue.pictures[n].style == wanted_style]
                changes.append(style_grain(catalogue.titles[wanted_style]))
                grains = (*grains, changes[-1])
            text = _draw(_CHANGE, rng).format(" and ".join(changes)) if changes else _draw(_OTHER_STYLE, rng)
            if not answers:  # after all draws, so that one missing picture does not change all that follows
                continue
            found.append(
                NewQuery(
                    first + len(found),
                    view.split,
                    EDIT,
                    dict.fromkeys(answers, 1),
                    text=text,
                    image=picture.path,
                    grains=grains,
                    source={"kind": kind, "emoji": own.hexcode, "style": style, "wanted": wanted.hexcode},
                )
            )
    return found


def _edits(
    view: SplitView, own: Concept, pool: Sequence[str], rng: np.random.Generator
) -> list[tuple[str, Concept, str]]:
    """Kind, wanted emoji, wanted style ("" for any)."""
    edits = [("other style", own, "")]
    several = len(pool) > 1
    if several:
        edits.append(("named style", own, _draw(pool, rng)))
    others = [one for one in view.catalogue.tones.get(own.base, ()) if one is not own]
    if others:
        edits.append(("tone", _draw(others, rng), ""))
        if several:
            edits.append(("tone and style", _draw(others, rng), _draw(pool, rng)))
    return edits


def _plain_query(view: SplitView, number: int, task: int, picture: Picture, answers: Sequence[int]) -> NewQuery:
    return NewQuery(
        number,
        view.split,
        task,
        dict.fromkeys(answers, 1),
        image=picture.path,
        grains=_visible(view, picture),
        source={"kind": "picture", "emoji": picture.hexcode, "style": picture.style},
    )


def _visible(view: SplitView, picture: Picture) -> tuple[str, ...]:
    """Which emoji a picture shows, in which skin tone; the latter only if the style draws others differently."""
    entity, *tone = view.catalogue.picture_grains(view.concepts[picture.hexcode])
    everywhere = all(tone == list(view.catalogue.picture_grains(view.concepts[one])[1:]) for one in picture.shows)
    return (entity, *tone) if everywhere else (entity,)


def _pictures(view: SplitView, styles: Collection[str]) -> list[Picture]:
    return [view.catalogue.pictures[number] for number in view.pictures(styles)]


def _answers(hexcodes: Collection[str], found: Mapping[str, list[int]]) -> list[int]:
    """Numbers of the candidates of any of the emoji."""
    return sorted({number for hexcode in hexcodes for number in found.get(hexcode, ())})


def _draw(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]
