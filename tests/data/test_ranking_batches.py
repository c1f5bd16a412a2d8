"""Queries with their positives and negatives: drawn alike whenever asked, hard ones first, never a positive."""

import pytest

from fieldmark.data.mined_negatives import QueryNegatives
from fieldmark.data.ranking_batches import RankingBatches
from fieldmark.data.retrieval import Item, Query, RetrievalTask

POOL = [Item(f"c{i}", f"candidate {i}") for i in range(30)]
QUERIES = [Query(Item(f"q{i}", f"query {i}")) for i in range(7)]
RELEVANCE = {f"q{i}": {f"c{i}": 1.0, f"c{i + 10}": 0.5} for i in range(7)}
TASK = RetrievalTask("letters", QUERIES, POOL, RELEVANCE)
MINED = {
    f"q{i}": QueryNegatives(f"q{i}", tuple(f"c{20 + (i + k) % 10}" for k in range(4)), ("c3", "c19", "c18"))
    for i in range(5)
}


def batches(task=TASK, **changes) -> RankingBatches:
    options = {"batch_size": 3, "seed": 2, "positives": 1, "hard": 0, "random": 5, "mined": None}
    return RankingBatches(task, **{**options, **changes})


def test_every_epoch_holds_every_query_once():
    drawn = batches()
    queries = [e.query for step in range(7) for e in drawn.batch(step)]  # three epochs
    for epoch in range(3):
        assert sorted(queries[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert queries[:7] != queries[7:14]
    assert batches().batch(5) == drawn.batch(5)
    assert batches(seed=3).batch(0) != drawn.batch(0)


def test_random_negatives_are_of_the_pool_and_never_right():
    drawn = batches(random=28)  # all that are not right
    for example in drawn.batch(0) + drawn.batch(1):
        right = {example.query, example.query + 10}
        assert set(example.positives) <= right and len(example.positives) == 1
        assert set(example.negatives) == set(range(30)) - right
        assert len(example.negatives) == 28
    few = [e for step in range(14) for e in batches(positives=2).batch(step) if e.query == 4]
    assert all(set(e.positives) == {4, 14} and len(set(e.negatives)) == 5 for e in few)
    assert len({e.negatives for e in few}) == len(few) > 3  # anew each epoch
    assert batches(positives=2).most_candidates == 3 * 7


def test_mined_negatives_are_taken_as_stored_without_what_is_right():
    drawn = batches(hard=2, random=2, mined=MINED)
    assert drawn.queries == [0, 1, 2, 3, 4] and drawn.num_queries == 5
    example = next(e for step in range(2) for e in drawn.batch(step) if e.query == 3)
    assert example.negatives == (23, 24, 19)  # c3 is right
    assert drawn.num_short == 1
    assert drawn.most_candidates == 3 * (1 + 4)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hard": 4}, "hard to 0 and random to 9"),
        ({"random": 29}, "too few for 29"),
        ({"random": 0}, "hard . random is 0"),
        ({"positives": 0}, "positives is 0"),
        ({"batch_size": 8}, "only 7 training queries"),
        ({"mined": {"x": MINED["q0"]}}, "of other queries"),
        ({"mined": MINED, "hard": 50, "random": 50}, "mined fewer, at most 7"),
        ({"mined": {"q1": QueryNegatives("q1", ("c99",), ())}, "hard": 1, "batch_size": 1}, "no candidate 'c99'"),
        ({"mined": {"q1": QueryNegatives("q1", ("c1",), ())}, "hard": 1, "batch_size": 1}, "no negative left"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(ValueError, match=message):
        batches(**changes)


def test_a_query_without_positives_is_refused():
    with pytest.raises(ValueError, match="'q2' has no positive"):
        batches(RetrievalTask("letters", QUERIES, POOL, {**RELEVANCE, "q2": {}}))
