"""Ranks before and after against counting by hand."""

import numpy as np
import pytest
import torch

from fieldmark.data.retrieval import Item, Query
from fieldmark.evaluation.rank_changes import EmbeddedTask, rank_changes

GRAINS = ("red", "long", "barred")


def pool(count=40, seed=0):
    rng = np.random.default_rng(seed)
    facts = [tuple(grain for grain in GRAINS if rng.random() < 0.6) or ("other",) for _ in range(count)]
    return [Item(str(i), "x", facts=one) for i, one in enumerate(facts)]


def asking(*grains, id="q"):
    return Query(Item(id, ", ".join(grains)), grains=grains)


def embedded(queries, candidates, seed):
    generator = torch.Generator().manual_seed(seed)
    return EmbeddedTask(*(torch.randn(count, 6, generator=generator) for count in (queries, candidates)))


def rank_by_hand(one, query, place, hidden=()):
    unit = [torch.nn.functional.normalize(part, dim=1) for part in (one.queries, one.candidates)]
    scores = (unit[1] @ unit[0][query]).tolist()
    better = [
        i for i, score in enumerate(scores)
        if i not in hidden and (score > scores[place] or (score == scores[place] and i < place))
    ]  # fmt: skip
    return 1 + len(better)


def test_against_counting_by_hand():
    candidates = pool()
    queries = [asking(*GRAINS, id="a"), asking("red", id="b"), asking("red", "long", "red", id="c")]
    before, after = embedded(3, 40, 1), embedded(3, 40, 2)
    excluded = (np.array([0, 2, 2]), np.array([3, 5, 6]))
    found = rank_changes(queries, candidates, before, after, excluded=excluded)
    assert [one.query for one in found] == [0, 2]  # a single grain has no near misses
    for one in found:
        hidden = excluded[1][excluded[0] == one.query].tolist()
        wanted = set(queries[one.query].grains)
        lacks = {i: wanted - set(item.facts) for i, item in enumerate(candidates) if i not in hidden}
        matches = [i for i, missing in lacks.items() if not missing]
        assert one.num_matches == len(matches) > 1
        for embeddings, rank in ((before, one.match_before), (after, one.match_after)):
            assert rank == min(rank_by_hand(embeddings, one.query, i, hidden) for i in matches)
        assert one.gain == pytest.approx(np.log2(one.match_before / one.match_after))
        assert [miss.grain for miss in one.near_misses] == list(dict.fromkeys(queries[one.query].grains))
        for miss in one.near_misses:
            near = [i for i, missing in lacks.items() if missing == {miss.grain}]
            assert miss.num_candidates == len(near) > 0
            assert miss.before == min(rank_by_hand(before, one.query, i, hidden) for i in near)
            assert miss.after == min(rank_by_hand(after, one.query, i, hidden) for i in near)


def test_what_has_no_match_or_no_near_miss_is_left_out():
    candidates = [Item("0", "x", facts=("red", "long")), Item("1", "x", facts=("red",)), Item("2", "x", facts=("no",))]
    queries = [asking("red", "long"), asking("red", "never")]
    (found,) = rank_changes(queries, candidates, embedded(2, 3, 1), embedded(2, 3, 2))
    assert found.query == 0 and [miss.grain for miss in found.near_misses] == ["long"]
    assert rank_changes(queries[1:], candidates, embedded(1, 3, 1), embedded(1, 3, 2)) == []


def test_ties_go_to_the_lower_place():
    candidates = [Item(str(i), "x", facts=facts) for i, facts in enumerate((("a",), ("a", "b"), ("a", "b")))]
    same = EmbeddedTask(torch.ones(1, 4), torch.ones(3, 4))
    (found,) = rank_changes([asking("a", "b")], candidates, same, same)
    assert (found.match_before, found.near_misses[0].before) == (2, 1)


def test_embeddings_of_another_task_are_refused():
    with pytest.raises(ValueError, match="after: 2 queries and 39 candidates"):
        rank_changes([asking(*GRAINS)] * 2, pool(), embedded(2, 40, 1), embedded(2, 39, 1))
