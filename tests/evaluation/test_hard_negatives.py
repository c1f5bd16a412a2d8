"""Hard negatives against a sort of everything."""

import numpy as np
import pytest
import torch

from fieldmark.evaluation.hard_negatives import find_hard_negatives


def slow(queries, candidates, known, count, threshold):
    """All cosines of a query, sorted; then one candidate after the other."""
    cosine = torch.nn.functional.cosine_similarity(queries[:, None], candidates[None], dim=2)
    found, removed = [], []
    for i, row in enumerate(cosine):
        taken, passed = [], 0
        for j in row.argsort(descending=True, stable=True).tolist():
            if j in known[i]:
                continue
            if threshold is not None and row[j] > threshold:
                passed += 1
            elif len(taken) < count:
                taken.append(j)
        found.append(taken)
        removed.append(passed)
    return found, removed


def rows(n: int, seed: int, size: int = 6) -> torch.Tensor:
    return torch.randn(n, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("threshold", [None, 0.9, 0.5, 0.0, -0.5])
@pytest.mark.parametrize("count", [1, 5, 300])
def test_equals_the_sort_of_everything(threshold, count):
    """At 0 half of the pool is passed over: the search has to go deeper than it began."""
    queries, candidates = rows(9, 0), rows(200, 1)
    known = [
        [int(j) for j in torch.randperm(200, generator=torch.Generator().manual_seed(i))[: i % 4]] for i in range(9)
    ]
    found = find_hard_negatives(queries, candidates, known, count, threshold)
    expected, removed = slow(queries, candidates, known, count, threshold)
    assert [one.tolist() for one in found.candidates] == expected
    assert found.removed.tolist() == removed


def test_the_lowest_cosine_is_told():
    queries, candidates = torch.eye(2), torch.tensor([[1.0, 0.0], [3.0, 4.0], [0.0, 1.0]])
    found = find_hard_negatives(queries, candidates, [[0], [0, 1, 2]], 1, 0.9)
    assert [one.tolist() for one in found.candidates] == [[1], []]
    assert found.lowest[0] == pytest.approx(0.6) and np.isnan(found.lowest[1])


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="count is 0"):
        find_hard_negatives(rows(2, 0), rows(3, 1), [[], []], 0, None)
    with pytest.raises(ValueError, match="2 queries, but known candidates of 1"):
        find_hard_negatives(rows(2, 0), rows(3, 1), [[]], 1, None)
