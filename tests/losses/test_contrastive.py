"""InfoNCE against a double loop in plain Python, forward and backward; which candidates are no negatives."""

import math

import pytest
import torch

from fieldmark.losses.contrastive import NO_ID, info_nce, not_negatives


def slow_info_nce(queries, candidates, targets, temperature, excluded):
    """One query and one candidate at a time, in float64, as the equation stands."""
    total = 0.0
    for i in range(len(queries)):
        scores = []
        for j in range(len(candidates)):
            q, c = queries[i].double(), candidates[j].double()
            scores.append((q * c).sum() / (q.norm() * c.norm()) / temperature)
        among = [torch.exp(s) for j, s in enumerate(scores) if not excluded[i][j]]
        total = total - torch.log(torch.exp(scores[targets[i]]) / sum(among))
    return total / len(queries)


def slow_not_negatives(candidate_ids, targets, positives):
    rows = []
    for i, target in enumerate(targets):
        row = []
        for j, one in enumerate(candidate_ids):
            known = one in positives[i]
            repeated = one in candidate_ids[:j]
            row.append(j != target and (known or repeated))
        rows.append(row)
    return rows


def batch(b: int, n: int, size: int = 8, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(b, size, generator=generator) * 3
    candidates = torch.randn(n, size, generator=generator)
    targets = torch.randperm(n, generator=generator)[:b]
    excluded = torch.rand(b, n, generator=generator) < 0.3
    excluded[torch.arange(b), targets] = False
    return queries, candidates, targets, excluded


@pytest.mark.parametrize(("b", "n"), [(1, 1), (4, 4), (5, 12)])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
@pytest.mark.parametrize("masked", [False, True])
def test_equals_the_double_loop_forward_and_backward(b, n, temperature, masked):
    queries, candidates, targets, excluded = batch(b, n)
    if not masked:
        excluded = torch.zeros_like(excluded)
    fast = [queries.clone().requires_grad_(), candidates.clone().requires_grad_()]
    slow = [queries.clone().requires_grad_(), candidates.clone().requires_grad_()]
    loss = info_nce(*fast, targets, temperature=temperature, excluded=excluded if masked else None).loss
    expected = slow_info_nce(*slow, targets.tolist(), temperature, excluded.tolist())
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5, abs=1e-6)
    loss.backward()
    expected.backward()
    for one, other in zip(fast, slow, strict=True):
        assert torch.allclose(one.grad, other.grad, rtol=1e-4, atol=1e-5)


def test_known_value():
    """Two orthogonal pairs at τ = 1: log(1 + e⁻¹) each."""
    eye = torch.eye(2)
    found = info_nce(eye, eye, torch.tensor([0, 1]), temperature=1.0)
    assert found.loss.item() == pytest.approx(math.log(1 + math.exp(-1)), rel=1e-6) and found.correct == 2
    assert info_nce(eye, eye, torch.tensor([1, 0]), temperature=1.0).correct == 0


def test_an_excluded_candidate_gets_no_gradient_and_a_negative_does():
    queries, candidates, targets, _ = batch(3, 6)
    excluded = torch.zeros(3, 6, dtype=torch.bool)
    outsider = next(j for j in range(6) if j not in targets.tolist())
    leaf = candidates.clone().requires_grad_()
    info_nce(queries, leaf, targets, excluded=excluded).loss.backward()
    assert leaf.grad[outsider].abs().sum() > 0
    excluded[:, outsider] = True
    leaf = candidates.clone().requires_grad_()
    info_nce(queries, leaf, targets, excluded=excluded).loss.backward()
    assert leaf.grad[outsider].abs().sum() == 0


def test_parts_of_a_batch_add_up_to_it():
    queries, candidates, targets, excluded = batch(6, 9)
    whole = info_nce(queries, candidates, targets, excluded=excluded)
    parts = [
        info_nce(queries[p], candidates, targets[p], excluded=excluded[p], denominator=6)
        for p in (slice(0, 2), slice(2, 6))
    ]
    assert sum(p.loss for p in parts).item() == pytest.approx(whole.loss.item(), rel=1e-6)
    assert sum(p.correct for p in parts) == whole.correct


def test_bfloat16_embeddings_are_compared_in_float32_under_autocast():
    queries, candidates, targets, _ = batch(4, 8)
    queries, candidates = queries.bfloat16(), candidates.bfloat16()
    expected = info_nce(queries.float(), candidates.float(), targets).loss
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(info_nce(queries, candidates, targets).loss, expected)


IDS = [7, 3, 7, 9, 5, 3, 4]
"""Columns 0, 1, 3 are the positives of queries 0, 1, 2; 2 repeats the first, 5 the second."""
TARGETS = [0, 1, 3]
POSITIVES = [[7, NO_ID], [3, 5], [9, 4]]


def test_known_positives_and_repeated_candidates_are_no_negatives():
    found = not_negatives(torch.tensor(IDS), torch.tensor(TARGETS), torch.tensor(POSITIVES)).tolist()
    assert found == [
        [False, False, True, False, False, True, False],
        [False, False, True, False, True, True, False],
        [False, False, True, False, False, True, True],
    ]
    assert found == slow_not_negatives(IDS, TARGETS, POSITIVES)


@pytest.mark.parametrize("seed", range(20))
def test_equals_the_obvious_loops_on_random_ids(seed):
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, 8, (14,), generator=generator)
    targets = torch.randint(0, 14, (5,), generator=generator)
    others = torch.randint(NO_ID, 8, (5, 2), generator=generator)
    positives = torch.cat([ids[targets][:, None], others], 1)
    found = not_negatives(ids, targets, positives)
    assert found.tolist() == slow_not_negatives(ids.tolist(), targets.tolist(), positives.tolist())


def test_two_queries_with_one_positive_do_not_push_it_away():
    """Without the mask, each query's own positive would be its negative in the other's column."""
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(2, 4, generator=generator)
    shared = torch.randn(1, 4, generator=generator).repeat(2, 1).requires_grad_()
    targets = torch.tensor([0, 1])
    excluded = not_negatives(torch.tensor([6, 6]), targets, torch.tensor([[6], [6]]))
    assert info_nce(queries, shared, targets, excluded=excluded).loss.item() == 0.0
    assert info_nce(queries, shared, targets).loss.item() == pytest.approx(math.log(2), rel=1e-5)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"candidates": torch.ones(4, 3)}, r"\(4, 3\)"),
        ({"targets": torch.tensor([0])}, r"\(1,\)"),
        ({"targets": torch.tensor([0, 4])}, r"\[0, 4\]"),
        ({"excluded": torch.zeros(2, 3, dtype=torch.bool)}, r"\(2, 3\)"),
        ({"excluded": torch.ones(2, 4, dtype=torch.bool)}, "own positive is excluded"),
    ],
)
def test_bad_input_is_named(change, named):
    given = {"queries": torch.ones(2, 8), "candidates": torch.ones(4, 8), "targets": torch.tensor([0, 1])} | change
    with pytest.raises(ValueError, match=named):
        info_nce(**given)


def test_ids_of_another_batch_are_refused():
    with pytest.raises(ValueError, match="not among its positives"):
        not_negatives(torch.tensor([1, 2]), torch.tensor([0]), torch.tensor([[2]]))
    with pytest.raises(ValueError, match="are needed"):
        not_negatives(torch.tensor([1, 2]), torch.tensor([0, 1]), torch.tensor([[1]]))
