"""Every set of answers is compared with the plain rule: pictures of the pool of which every grain is a fact."""

from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from fieldmark.data.emoji.catalogue import Catalogue, SplitView, style_grain
from fieldmark.data.emoji.packages import STYLES
from fieldmark.data.emoji.text_queries import MAX_ANSWERS, MAX_KEYWORDS, text_queries
from fieldmark.data.multimodal.mbeir_writing import NewQuery

ALL = tuple(STYLES)


def made(catalogue: Catalogue, styles: tuple[str, ...] = ALL, seed: int = 0) -> tuple[list[NewQuery], int]:
    return text_queries(SplitView(catalogue, "test"), 7, styles, np.random.default_rng(seed))


def by_kind(queries: list[NewQuery], kind: str, language: str = "en") -> dict[str, NewQuery]:
    """Emoji → its query."""
    sources = [(q, q.source or {}) for q in queries]
    return {s["emoji"]: q for q, s in sources if s["kind"] == kind and s["language"] == language}


@pytest.mark.parametrize("styles", [ALL, ("noto", "fluent"), ("openmoji",)])
def test_answered_by_what_has_every_grain(catalogue: Catalogue, styles: tuple[str, ...]) -> None:
    facts = {c.number: set(c.facts) for c in catalogue.picture_candidates}
    pool = [n for n, picture in enumerate(catalogue.pictures) if picture.style in styles]
    queries, _ = made(catalogue, styles)
    assert len(queries) > 100
    for query in queries:
        expected = [n for n in pool if set(query.grains) <= facts[n]]
        assert sorted(query.positives) == expected, query
        assert query.text == ", ".join(query.grains)
        own = (query.source or {})["emoji"]
        assert any(own in catalogue.pictures[n].shows for n in query.positives)


def test_numbered_on(catalogue: Catalogue) -> None:
    queries, _ = made(catalogue)
    assert [q.number for q in queries] == list(range(7, 7 + len(queries)))


def test_names(catalogue: Catalogue) -> None:
    queries, _ = made(catalogue)
    names = by_kind(queries, "name")
    shown = {c: {p.hexcode for p in map(catalogue.pictures.__getitem__, names[c].positives)} for c in names}
    assert names["1F44D-1F3FF"].grains == ("thumbs up", "dark skin tone")
    assert shown["1F44D-1F3FF"] == {"1F44D-1F3FF"}
    assert names["1F44D"].text == "thumbs up"
    assert len(shown["1F44D"]) == 6, "all skin tones are thumbs up"
    assert shown["1F408"] == {"1F408", "1F431"}, "a cat face has the keyword cat"
    assert len(names["1F44D-1F3FF"].positives) == len(ALL)


def test_one_picture_for_two_flags_answers_both(catalogue: Catalogue) -> None:
    flags = by_kind(made(catalogue)[0], "name")["1F1EB-1F1F7"]
    drawn = {(catalogue.pictures[n].style, catalogue.pictures[n].hexcode) for n in flags.positives}
    assert drawn == {(style, "1F1EB-1F1F7") for style in ALL} | {("twemoji", "1F1E8-1F1F5")}


def test_keywords_leave_the_name_out(catalogue: Catalogue) -> None:
    keywords = by_kind(made(catalogue)[0], "keywords")
    meanings = {c.hexcode: c.meanings["en"] for c in catalogue.concepts}
    for hexcode, query in keywords.items():
        assert meanings[hexcode].name not in query.grains
        assert len(query.grains) >= 2 + bool(meanings[hexcode].tone)
        if meanings[hexcode].tone:
            assert query.grains[-1] == meanings[hexcode].tone
    assert "1F1E6" not in keywords, "the letter has none"


def test_other_language(catalogue: Catalogue) -> None:
    queries, _ = made(catalogue)
    german = by_kind(queries, "name", "de")
    assert german["1F44D-1F3FF"].text == "Daumen hoch, dunkle Hautfarbe"
    english_only = replace(catalogue, languages=("en",))
    assert {(q.source or {})["language"] for q in made(english_only)[0]} == {"en"}


def test_styles_are_named_where_there_are_several(catalogue: Catalogue) -> None:
    styled = by_kind(made(catalogue)[0], "style")
    drawn = defaultdict(set)
    for query in styled.values():
        styles = {catalogue.pictures[n].style for n in query.positives}
        assert len(styles) == 1
        drawn[styles.pop()].add(query.grains[-1])
    assert dict(drawn) == {style: {style_grain(title)} for style, title in catalogue.titles.items()}
    assert not by_kind(made(catalogue, ("noto",))[0], "style")


def test_vague_ones_get_more_keywords_or_are_left_out(catalogue: Catalogue) -> None:
    """Of five animals "animal" and the subgroup say too little; when nothing else is left, there is no query."""
    assert MAX_ANSWERS == 3
    base = {c.hexcode: c.base for c in catalogue.concepts}
    facts = catalogue.facts
    for seed in range(5):
        queries, vague = made(catalogue, seed=seed)
        assert vague == 1 and "1F408" not in by_kind(queries, "keywords", "de"), "Tier, Tiere: all five"
        for query in queries:
            grains = {g for g in query.grains if not g.startswith("in the style")}
            assert len({base[h] for h in base if grains <= facts[h]}) <= MAX_ANSWERS
    dull = tuple(
        replace(c, meanings={"en": replace(c.meanings["en"], keywords=("animal", "animals"))})
        if c.group == "animals-nature"
        else replace(c, meanings={"en": c.meanings["en"]})
        for c in catalogue.concepts
    )
    queries, vague = made(replace(catalogue, concepts=dull, languages=("en",)))
    assert vague == 5
    assert not {"1F408", "1F415"} & by_kind(queries, "keywords").keys()


def test_no_text_grows_without_end(catalogue: Catalogue) -> None:
    words = tuple(f"word {n}" for n in range(20))
    dull = tuple(
        replace(c, meanings={"en": replace(c.meanings["en"], keywords=words)})
        if c.group == "animals-nature"
        else replace(c, meanings={"en": c.meanings["en"]})
        for c in catalogue.concepts
    )
    queries, vague = made(replace(catalogue, concepts=dull, languages=("en",)))
    assert vague == 5
    assert max(len(q.grains) for q in queries) <= MAX_KEYWORDS + 2


def test_same_seed_same_queries(catalogue: Catalogue) -> None:
    assert made(catalogue) == made(catalogue)
    assert made(catalogue, seed=1) != made(catalogue)
