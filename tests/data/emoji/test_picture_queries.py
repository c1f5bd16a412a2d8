from collections import Counter, defaultdict
from dataclasses import replace

import numpy as np

from fieldmark.data.emoji.catalogue import DEFAULT_TONE, Catalogue, SplitView, style_grain
from fieldmark.data.emoji.picture_queries import edit_queries, naming_queries, same_queries
from fieldmark.data.multimodal.mbeir_writing import NewQuery

POOL = ("noto", "twemoji", "fluent")


def view(catalogue: Catalogue) -> SplitView:
    return SplitView(catalogue, "test")


def shown(catalogue: Catalogue, query: NewQuery) -> set[tuple[str, str]]:
    return {(catalogue.pictures[n].style, catalogue.pictures[n].hexcode) for n in query.positives}


def edits(catalogue: Catalogue, pool: tuple[str, ...] = POOL, seed: int = 0) -> list[NewQuery]:
    return edit_queries(view(catalogue), 0, "openmoji", pool, np.random.default_rng(seed))


def test_same_emoji_in_the_other_styles(catalogue: Catalogue) -> None:
    queries = same_queries(view(catalogue), 3, "openmoji", POOL)
    assert len(queries) == len(catalogue.concepts) and queries[0].number == 3
    for query in queries:
        own = (query.source or {})["emoji"]
        assert query.text is None and query.image == f"openmoji/{own}.png"
        flags = {"1F1EB-1F1F7", "1F1E8-1F1F5"}
        extra = {("twemoji", flag) for flag in flags} if own in flags else set()
        assert shown(catalogue, query) == {(style, own) for style in POOL} | extra


def test_picture_that_stands_for_two_finds_both(catalogue: Catalogue) -> None:
    (query,) = [
        q for q in same_queries(view(catalogue), 0, "twemoji", ("noto",)) if (q.source or {})["emoji"] == "1F1E8-1F1F5"
    ]
    assert shown(catalogue, query) == {("noto", "1F1E8-1F1F5"), ("noto", "1F1EB-1F1F7")}


def test_grains_of_a_picture(catalogue: Catalogue) -> None:
    grains = {(q.source or {})["emoji"]: q.grains for q in same_queries(view(catalogue), 0, "openmoji", POOL)}
    assert grains["1F44D-1F3FF"] == ("the emoji thumbs up", "dark skin tone")
    assert grains["1F44D"] == ("the emoji thumbs up", DEFAULT_TONE)
    assert grains["1F408"] == ("the emoji cat",)


def test_skin_tone_that_a_style_does_not_draw_is_no_grain(catalogue: Catalogue) -> None:
    thumbs = frozenset(c.hexcode for c in catalogue.tones["1F44D"])
    pictures = tuple(
        replace(p, shows=thumbs) if p.style == "openmoji" and p.hexcode in thumbs else p for p in catalogue.pictures
    )
    alike = replace(catalogue, pictures=pictures)
    (query,) = [q for q in same_queries(view(alike), 0, "openmoji", POOL) if (q.source or {})["emoji"] == "1F44D-1F3FF"]
    assert query.grains == ("the emoji thumbs up",)
    assert {hexcode for _, hexcode in shown(alike, query)} == thumbs
    for query in edits(alike):
        source = query.source or {}
        if source["emoji"] in thumbs and source["kind"] == "tone":
            assert len(query.grains) == 2, "what is asked for is asked for"


def test_answers_are_exactly_what_satisfies_the_grains(catalogue: Catalogue) -> None:
    """OpenMoji draws no two emoji alike here, so that no picture of a query stands for several."""
    facts = {c.number: set(c.facts) for c in catalogue.picture_candidates if not (c.image or "").startswith("openmoji")}
    queries = [*same_queries(view(catalogue), 0, "openmoji", POOL), *edits(catalogue)]
    for query in queries:
        assert sorted(query.positives) == [n for n in facts if set(query.grains) <= facts[n]], query


def test_names_satisfy_the_grains_of_their_picture(catalogue: Catalogue) -> None:
    facts = {c.number: set(c.facts) for c in catalogue.text_candidates}
    for query in naming_queries(view(catalogue), 0, ["noto", "fluent"]):
        assert all(set(query.grains) <= facts[n] for n in query.positives)


def test_names_of_a_picture(catalogue: Catalogue) -> None:
    first = len(catalogue.pictures)
    named = {
        (q.source or {})["emoji"]: {catalogue.texts[n - first].text for n in q.positives}
        for q in naming_queries(view(catalogue), 0, ["twemoji"])
    }
    assert named["1F44D-1F3FF"] == {
        "thumbs up: dark skin tone",
        "Daumen hoch: dunkle Hautfarbe",
        "hand, like, up, hands, dark skin tone",
    }
    assert named["1F1E6"] == {"letter A", "Buchstabe A"}
    assert named["1F1EB-1F1F7"] == named["1F1E8-1F1F5"] >= {"flag: France", "flag: Clipperton"}


def test_one_text_for_two_emoji_belongs_to_both(catalogue: Catalogue) -> None:
    """The two apples have the same keywords."""
    first = len(catalogue.pictures)
    queries = naming_queries(view(catalogue), 0, ["noto"])
    line = [n for n, t in enumerate(catalogue.texts, first) if t.text == "apple, fruit"]
    assert len(line) == 1
    assert {(q.source or {})["emoji"] for q in queries if line[0] in q.positives} == {"1F34E", "1F34F"}


def test_edits(catalogue: Catalogue) -> None:
    tones = {c.hexcode: c.meanings["en"].tone or DEFAULT_TONE for c in catalogue.concepts}
    base = {c.hexcode: c.base for c in catalogue.concepts}
    counts: Counter[str] = Counter()
    texts = defaultdict(set)
    for seed in range(6):
        for query in edits(catalogue, seed=seed):
            source = query.source or {}
            kind, own, wanted = source["kind"], source["emoji"], source["wanted"]
            counts[kind] += 1
            texts[kind].add(query.text)
            assert query.image == f"openmoji/{own}.png" and query.text
            assert base[own] == base[wanted]
            assert (own != wanted) == ("tone" in kind)
            styles = {style for style, _ in shown(catalogue, query)}
            if "style" in kind and kind != "other style":
                (style,) = styles
                assert query.grains[-1] == style_grain(catalogue.titles[style]) and query.grains[-1] in query.text
            else:
                assert styles == set(POOL)
            if "tone" in kind:
                assert tones[wanted] in query.grains and f"with {tones[wanted]}" in query.text
                assert {hexcode for _, hexcode in shown(catalogue, query)} == {wanted}
    toned = sum(len(members) for members in catalogue.tones.values())
    every = len(catalogue.concepts)
    assert counts == {
        "other style": 6 * every,
        "named style": 6 * every,
        "tone": 6 * toned,
        "tone and style": 6 * toned,
    }
    assert len(texts["other style"]) == 3


def test_one_style_in_the_pool_needs_no_name(catalogue: Catalogue) -> None:
    kinds = {(q.source or {})["kind"] for q in edits(catalogue, pool=("noto",))}
    assert kinds == {"other style", "tone"}


def test_same_seed_same_queries(catalogue: Catalogue) -> None:
    assert edits(catalogue) == edits(catalogue) != edits(catalogue, seed=1)
