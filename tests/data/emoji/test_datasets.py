from collections.abc import Iterator
from dataclasses import replace

import pytest

from fieldmark.data.emoji.catalogue import Catalogue
from fieldmark.data.emoji.datasets import POOL_NUMBER, make_datasets
from fieldmark.data.multimodal.mbeir_writing import NewCollection, NewQuery

SEEN = ("noto", "twemoji", "fluent")
HELD_OUT = "openmoji"


@pytest.fixture(scope="module")
def halves(catalogue: Catalogue) -> Catalogue:
    """Every other family is for testing; the flags, alike in one style, together."""
    families = list(dict.fromkeys(c.family for c in catalogue.concepts if c.group != "symbols"))
    split = {
        c.hexcode: "train" if c.group == "symbols" or families.index(c.family) % 2 else "test"
        for c in catalogue.concepts
    }
    return replace(catalogue, split=split)


@pytest.fixture(scope="module")
def made(halves: Catalogue) -> dict[str, NewCollection]:
    collections, _ = make_datasets(halves, SEEN, HELD_OUT, ("train", "test"), seed=0)
    return {one.name: one for one in collections}


def searched(made: dict[str, NewCollection]) -> Iterator[tuple[NewCollection, NewQuery, set[int]]]:
    """Each query with its pool."""
    for collection in made.values():
        pools = {key: {c.number for c in pool} for key, pool in collection.pools.items()}
        for query in collection.queries:
            yield collection, query, pools[query.task, query.split]


def test_which_data_sets_there_are(made: dict[str, NewCollection]) -> None:
    tasks = {name: {(q.task, q.split) for q in one.queries} for name, one in made.items()}
    both = ("train", "test")
    assert tasks == {
        "emoji": {(k, s) for k in (0, 3) for s in both},
        **{f"emoji-{style}": {(k, s) for k in (4, 7) for s in both} for style in SEEN},
        "emoji-openmoji": {(k, "test") for k in (0, 3, 4, 7)},
    }
    assert [one.number for one in made.values()] == [POOL_NUMBER + k for k in range(5)]
    assert {one.candidates_of for one in made.values()} == {POOL_NUMBER}


def test_positives_lie_in_the_pool_and_numbers_are_unique(made: dict[str, NewCollection]) -> None:
    for _, query, pool in searched(made):
        assert query.positives.keys() <= pool
    for one in made.values():
        assert len({q.number for q in one.queries}) == len(one.queries)


def test_the_querys_style_is_never_in_its_pool(made: dict[str, NewCollection], halves: Catalogue) -> None:
    count = 0
    for collection, query, pool in searched(made):
        if query.task not in (4, 7):
            continue
        count += 1
        style = (query.image or "").split("/")[0]
        assert collection.name == f"emoji-{style}"
        styles = {halves.pictures[n].style for n in pool}
        assert styles == set(SEEN) - {style}
        assert query.image not in {halves.pictures[n].path for n in pool}
    assert count > 100


def test_held_out_style_and_concepts_are_not_trained_with(made: dict[str, NewCollection], halves: Catalogue) -> None:
    first = len(halves.pictures)
    for _, query, pool in searched(made):
        assert halves.split[(query.source or {})["emoji"]] == query.split
        pictures = [halves.pictures[n] for n in pool if n < first]
        means = [halves.texts[n - first].means for n in pool if n >= first]
        assert {halves.split[p.hexcode] for p in pictures} <= {query.split}
        assert {halves.split[h] for hexcodes in means for h in hexcodes} <= {query.split}
        if query.split == "train":
            assert HELD_OUT not in {p.style for p in pictures}
            assert not (query.image or "").startswith(HELD_OUT)
            assert "OpenMoji" not in (query.text or "")


def test_pools_are_whole(made: dict[str, NewCollection], halves: Catalogue) -> None:
    tested = [c.hexcode for c in halves.concepts if halves.split[c.hexcode] == "test"]
    assert len(made["emoji"].pools[0, "test"]) == 3 * len(tested)
    assert len(made["emoji-openmoji"].pools[0, "test"]) == len(tested)
    assert len(made["emoji-openmoji"].pools[4, "test"]) == 3 * len(tested)
    assert made["emoji-openmoji"].pools[3, "test"] == made["emoji"].pools[3, "test"]


def test_without_a_held_out_style_all_are_seen(halves: Catalogue) -> None:
    collections, _ = make_datasets(halves, (*SEEN, HELD_OUT), None, ("train", "test"), seed=0)
    tasks = {one.name: {(q.task, q.split) for q in one.queries} for one in collections}
    assert tasks["emoji-openmoji"] == tasks["emoji-noto"]


def test_seed_decides(halves: Catalogue, made: dict[str, NewCollection]) -> None:
    again, _ = make_datasets(halves, SEEN, HELD_OUT, ("train", "test"), seed=0)
    other, _ = make_datasets(halves, SEEN, HELD_OUT, ("train", "test"), seed=1)
    assert again == list(made.values()) != other
