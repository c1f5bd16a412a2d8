"""Batches are functions of (seed, step); ids are the task's; what is held out is not trained on."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fieldmark.data.contrastive_batches import CandidatePlaces, Chosen, ContrastiveBatches, hold_out
from fieldmark.data.mined_negatives import QueryNegatives
from fieldmark.data.multimodal.json_lines import JsonLines, index_lines
from fieldmark.data.retrieval import Item, Query, RetrievalTask


def task(queries: int = 23, pool: int = 40) -> RetrievalTask:
    """Query i wants candidates i and, if i is even, i + 1; its source calls i + 2 wrong, and wrongly i, too."""
    asked = [
        Query(Item(f"q{i}", f"word {i}"), negatives=(f"c{i + 2}", f"c{i}") if i % 3 else ()) for i in range(queries)
    ]
    relevance = {f"q{i}": {f"c{i}": 1.0} | ({f"c{i + 1}": 0.5} if i % 2 == 0 else {}) for i in range(queries)}
    return RetrievalTask("words", asked, [Item(f"c{i}", f"thing {i}") for i in range(pool)], relevance)


def mined(**hard: list[str]) -> dict[str, QueryNegatives]:
    return {qid: QueryNegatives(qid, tuple(ids), ("c0",)) for qid, ids in hard.items()}


def test_every_query_once_an_epoch_whatever_the_batch_size():
    one, two = ContrastiveBatches(task(), 4, 2, seed=3), ContrastiveBatches(task(), 7, 2, seed=3)
    small = [e for step in range(23) for e in one.batch(step)]
    large = [e for step in range(12) for e in two.batch(step)]
    assert small[: len(large)] == large[: len(small)]
    for epoch in range(4):
        assert sorted(e.query for e in small[23 * epoch : 23 * (epoch + 1)]) == list(range(23))
    assert [e.query for e in small[:23]] != [e.query for e in small[23:46]]


def test_a_batch_is_a_function_of_seed_and_step():
    batches = ContrastiveBatches(task(), 5, 1, seed=3)
    later = batches.batch(9)
    assert [batches.batch(s) for s in (9, 0, 9)][::2] == [later, later]
    assert ContrastiveBatches(task(), 5, 1, seed=3).batch(9) == later
    assert ContrastiveBatches(task(), 5, 1, seed=4).batch(9) != later


def test_examples_hold_positives_and_negatives_of_their_own_query():
    batches = ContrastiveBatches(task(), 5, 3, seed=0, mined=mined(q0=["c7", "c1", "c9"], q1=["c3", "c8"]))
    seen: dict[int, set[int]] = {}
    for step in range(200):
        for e in batches.batch(step):
            assert e.positive in batches.positives[e.query]
            assert not set(e.negatives) & set(batches.positives[e.query])
            seen.setdefault(e.query, set()).add(e.positive)
            expected = {0: {7, 9}, 1: {3, 8}}.get(e.query, {e.query + 2} if e.query % 3 else set())
            assert set(e.negatives) == expected
    assert seen[0] == {0, 1} and seen[1] == {1}


def test_no_more_hard_negatives_than_asked_for_and_all_in_turn():
    batches = ContrastiveBatches(task(), 5, 1, seed=0, mined=mined(q0=["c7", "c9", "c11"]))
    drawn = [e.negatives for step in range(200) for e in batches.batch(step) if e.query == 0]
    assert {len(n) for n in drawn} == {1} and {n[0] for n in drawn} == {7, 9, 11}
    without = ContrastiveBatches(task(), 5, 0, seed=0, mined=mined(q0=["c7"]))
    assert all(e.negatives == () for e in without.batch(0))


def test_of_mined_negatives_the_nearest_are_drawn_from() -> None:
    given = mined(q0=["c7", "c9", "c11", "c2"])
    found = set()
    batches = ContrastiveBatches(task(), 5, 1, seed=0, mined=given, mined_depth=2)
    for step in range(40):
        found |= {n for e in batches.batch(step) if e.query == 0 for n in e.negatives}
    assert {7, 9} <= found and not found & {11, 2}


@pytest.mark.parametrize(
    ("change", "arguments", "named"),
    [
        ({}, {"batch_size": 1}, "batch_size is 1"),
        ({}, {"batch_size": 24}, "only 23 training queries"),
        ({}, {"hard_negatives": -1}, "hard_negatives is -1"),
        ({"queries": [Query(Item("q0", "x"))] * 9}, {}, "names none: mine them.*--mined, or set hard_negatives to 0"),
        ({}, {"mined": mined(q1=["c99"])}, "c99"),
        ({}, {"mined": mined(other=["c1"])}, "other queries"),
        ({"relevance": {}}, {}, "'q0' has no positive"),
        ({"candidates": [Item("c0", "x")]}, {}, "'q1' has no positive in the pool"),
        ({"candidates": [Item("c0", "x")] * 2}, {}, "'c0' stands in the pool twice"),
    ],
)
def test_bad_input_is_named(change, arguments, named):
    given = {"batch_size": 4, "hard_negatives": 2, "seed": 0} | arguments
    with pytest.raises(ValueError, match=named):
        ContrastiveBatches(replace(task(), **change), **given)


def test_places_of_a_pool_in_memory_and_of_one_on_disk(tmp_path):
    lines = tmp_path / "pool.jsonl"
    lines.write_text("".join(json.dumps({"did": f"c{i}", "txt": "x"}) + "\n" for i in range(40)))
    on_disk = JsonLines(index_lines(lines, "did"), lambda record: Item(record["did"], record["txt"]))
    for pool in (task(), replace(task(), candidates=on_disk)):
        places = CandidatePlaces(pool)
        assert (places["c3"], places.get("c39"), places.get("c40")) == (3, 39, None)
        with pytest.raises(ValueError, match="no candidate 'c40'"):
            places["c40"]


def test_what_the_pool_lacks_of_positives_and_named_negatives_is_left_out():
    small = replace(task(20), candidates=[Item(f"c{i}", "x") for i in range(20)])
    batches = ContrastiveBatches(small, 5, 2, seed=0)
    assert batches.positives[18] == (18, 19) and batches.positives[19] == (19,)
    drawn = {e.query: e.negatives for step in range(4) for e in batches.batch(step)}
    assert drawn[17] == (19,) and drawn[19] == ()


def test_chosen_is_a_view():
    view = Chosen("abcdef", [4, 0, 2])
    assert list(view) == ["e", "a", "c"] and view[-1] == "c" and list(view[1:]) == ["a", "c"] and len(view) == 3
    with pytest.raises(IndexError):
        view[3]


def test_what_is_held_out_is_not_trained_on():
    queries = [Query(Item(f"q{i}", f"word {i // 2}", Path("a.png") if i > 59 else None)) for i in range(80)]
    relevance = {f"q{i}": {f"c{i % 40}": 1.0} for i in range(80)}
    whole = replace(task(), queries=queries, relevance=relevance)
    train, held = hold_out(whole, 5, 10, seed=1)
    words = [{(q.item.text, q.item.image) for q in part.queries} for part in (train, held)]
    assert not words[0] & words[1] and len(train.queries) + len(held.queries) == 80
    assert 5 <= len(held.queries) <= 6 and len(held.candidates) == 10
    assert {one for grades in held.relevance.values() for one in grades} <= {c.id for c in held.candidates}
    assert held.relevance.keys() == {q.id for q in held.queries}
    again, other = hold_out(whole, 5, 10, seed=1)[1], hold_out(whole, 5, 10, seed=2)[1]
    assert list(again.queries) == list(held.queries) != list(other.queries)
    ContrastiveBatches(train, 4, 0, seed=0).batch(0)


def test_a_tenth_at_most_is_held_out():
    assert len(hold_out(task(40), 100, 1, seed=0)[1].queries) == 4
    assert len(hold_out(task(2), 100, 1, seed=0)[1].queries) == 1


def test_nothing_to_hold_out():
    same = replace(task(), queries=[Query(Item(f"q{i}", "word")) for i in range(20)])
    with pytest.raises(ValueError, match="one distinct query"):
        hold_out(same, 5, 5, seed=0)
    with pytest.raises(ValueError, match="got 0 and 5"):
        hold_out(task(), 0, 5, seed=0)
