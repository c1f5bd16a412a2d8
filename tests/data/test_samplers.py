"""Balanced batches and pairs: who is drawn how often, and that the seed alone decides."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch

from fieldmark.data.samplers import ClassBalancedBatches, Pair, sample_pairs

SIZES = [9, 12, 4, 5, 30, 8, 7, 4]


def labels_of(sizes: list[int], seed: int = 0) -> np.ndarray:
    """Classes with these sizes, shuffled."""
    return np.random.default_rng(seed).permutation(np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize("kind", [list, np.asarray, torch.tensor])
def test_batches_are_balanced(kind: type) -> None:
    labels = labels_of(SIZES)
    sampler = ClassBalancedBatches(kind(labels.tolist()), 12, 4, seed=3)
    for step in range(30):
        batch = sampler.batch(step)
        assert batch.dtype == np.int64 and batch.shape == (12,)
        assert sorted(Counter(labels[batch].tolist()).values()) == [4, 4, 4]
        assert len(set(batch.tolist())) == 12
        assert (labels[batch].reshape(3, 4) == labels[batch].reshape(3, 4)[:, :1]).all()  # class by class


def test_no_picture_twice_in_an_epoch_and_as_many_batches_as_can_be() -> None:
    labels = labels_of(SIZES)
    sampler = ClassBalancedBatches(labels, 12, 4, seed=1)
    groups = [n // 4 for n in SIZES]  # 2 3 1 1 7 2 1 1: the class of 30 cannot be in every batch twice
    best = max(t for t in range(1, 20) if sum(min(g, t) for g in groups) >= 3 * t)
    assert sampler.batches_per_epoch == best == 5
    seen: Counter[int] = Counter()
    for epoch in range(60):
        drawn = np.concatenate([sampler.batch(epoch * best + i) for i in range(best)]).tolist()
        assert len(set(drawn)) == len(drawn)
        seen.update(drawn)
    assert len(seen) == sum(SIZES)  # what is left out differs from epoch to epoch


def test_equal_classes_are_read_completely() -> None:
    labels = labels_of([8] * 10)
    sampler = ClassBalancedBatches(labels, 20, 4, seed=0)
    assert sampler.batches_per_epoch == 4
    for epoch in range(3):
        drawn = np.concatenate([sampler.batch(epoch * 4 + i) for i in range(4)])
        assert sorted(drawn.tolist()) == list(range(80))


def test_batches_are_a_pure_function_of_seed_and_step() -> None:
    labels = labels_of(SIZES)
    one, two = ClassBalancedBatches(labels, 12, 4, seed=5), ClassBalancedBatches(labels, 12, 4, seed=5)
    forward = [one.batch(step).tolist() for step in range(20)]
    backward = [two.batch(step).tolist() for step in reversed(range(20))][::-1]
    assert forward == backward
    other = ClassBalancedBatches(labels, 12, 4, seed=6)
    assert forward != [other.batch(step).tolist() for step in range(20)]
    one.batch(0)[:] = -1  # what is handed out is the caller's own
    assert one.batch(0).tolist() == forward[0]


def test_small_classes_repeat_and_single_pictures_are_left_out() -> None:
    labels = np.array([0] * 8 + [1] * 3 + [2] + [3] * 2 + [7])
    sampler = ClassBalancedBatches(labels, 12, 4, seed=0)
    assert sampler.left_out == (2, 7)
    for step in range(10):
        batch = sampler.batch(step)
        assert Counter(labels[batch].tolist()) == {0: 4, 1: 4, 3: 4}
        assert set(batch[labels[batch] == 1].tolist()) == {8, 9, 10}  # all of them, one twice
        assert sorted(Counter(batch[labels[batch] == 3].tolist()).values()) == [2, 2]


@pytest.mark.parametrize(
    ("labels", "batch_size", "per_class", "message"),
    [
        ([0, 0, 1, 1], 4, 1, "images_per_class must be at least 2"),
        ([0, 0, 1, 1], 5, 2, "multiple of images_per_class=2, got 5"),
        ([0, 0, 1, 1], 0, 2, "multiple of"),
        ([0, 1, 2], 4, 2, "no class has two pictures"),
        ([0, 0, 1, 1, 2], 6, 2, "needs 3 classes with two pictures, but there are 2: lower batch_size to at most 4"),
        ([], 4, 2, "labels must be whole numbers"),
        ([0.5, 0.5], 4, 2, "labels must be whole numbers"),
        ([[0, 0], [1, 1]], 4, 2, "labels must be whole numbers"),
    ],
)
def test_impossible_batches(labels: list, batch_size: int, per_class: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassBalancedBatches(labels, batch_size, per_class, seed=0)


def test_negative_steps_are_refused() -> None:
    with pytest.raises(ValueError, match="step"):
        ClassBalancedBatches([0, 0, 1, 1], 4, 2, seed=0).batch(-1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def embeddings_for(labels: np.ndarray, seed: int = 0) -> torch.Tensor:
    return torch.randn(len(labels), 6, generator=generator(seed))


def check_pairs(pairs: list[Pair], labels: np.ndarray, count: int) -> None:
    assert len(pairs) == count
    assert sum(pair.same for pair in pairs) == count // 2  # the extra one is different
    assert len({frozenset((pair.a, pair.b)) for pair in pairs}) == count
    for i, pair in enumerate(pairs):
        assert pair.a != pair.b
        assert pair.same == (labels[pair.a] == labels[pair.b]) == (i % 2 == 1)


@pytest.mark.parametrize("different", ["random", "hard"])
@pytest.mark.parametrize("count", [1, 2, 7, 48])
def test_pairs_are_half_same_half_different(different: str, count: int) -> None:
    labels = labels_of([4] * 16)
    pairs = sample_pairs(labels, count, generator(), different, embeddings_for(labels))
    check_pairs(pairs, labels, count)
    assert pairs == sample_pairs(torch.tensor(labels), count, generator(), different, embeddings_for(labels))
    if count > 2:
        assert pairs != sample_pairs(labels, count, generator(1), different, embeddings_for(labels))


@pytest.mark.parametrize("different", ["random", "hard"])
def test_all_pairs_that_there_are(different: str) -> None:
    labels = np.array([0, 0, 0, 1, 1, 2])  # 4 same, 11 different
    pairs = sample_pairs(labels, 8, generator(), different, embeddings_for(labels))
    check_pairs(pairs, labels, 8)
    with pytest.raises(ValueError, match=r"10 pairs need 5 same-class ones.*have only 4"):
        sample_pairs(labels, 10, generator(), different, embeddings_for(labels))
    many = np.array([0] * 40 + [1])
    with pytest.raises(ValueError, match=r"82 pairs need 41 different-class ones.*only 40"):
        sample_pairs(many, 82, generator(), different, embeddings_for(many))
    check_pairs(sample_pairs(many, 80, generator(), different, embeddings_for(many)), many, 80)


def slow_hard_pairs(labels: np.ndarray, rows: torch.Tensor, anchors: list[int]) -> list[tuple[int, int]]:
    """For each anchor the nearest picture of another class that it is not paired with, by a plain loop."""
    used: set[frozenset[int]] = set()
    pairs = []
    for a in anchors:
        free = [b for b in range(len(labels)) if labels[b] != labels[a] and frozenset((a, b)) not in used]
        b = max(free, key=lambda b: float(torch.nn.functional.cosine_similarity(rows[a], rows[b], dim=0)))
        used.add(frozenset((a, b)))
        pairs.append((a, b))
    return pairs


def test_hard_pairs_are_the_nearest_ones() -> None:
    labels = labels_of([3] * 8)
    rows = embeddings_for(labels) * torch.linspace(0.1, 9, 24)[:, None]  # lengths must not matter
    pairs = sample_pairs(labels, 40, generator(4), "hard", rows)
    anchors = torch.randperm(24, generator=generator(4)).tolist()
    expected = [frozenset(pair) for pair in slow_hard_pairs(labels, rows, anchors[:20])]
    assert [frozenset((pair.a, pair.b)) for pair in pairs if not pair.same] == expected


def test_hard_pairs_go_on_with_the_next_nearest() -> None:
    labels = labels_of([9] * 3)
    rows = embeddings_for(labels)
    pairs = sample_pairs(labels, 100, generator(), "hard", rows)
    check_pairs(pairs, labels, 100)
    generated = generator()
    anchors = torch.randperm(27, generator=generated).tolist() + torch.randperm(27, generator=generated).tolist()
    expected = {frozenset(pair) for pair in slow_hard_pairs(labels, rows, anchors[:50])}
    assert {frozenset((pair.a, pair.b)) for pair in pairs if not pair.same} == expected


def test_random_pairs_are_uniform() -> None:
    labels = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2])
    different = [frozenset(p) for p in itertools.combinations(range(9), 2) if labels[p[0]] != labels[p[1]]]
    seen: Counter[frozenset[int]] = Counter()
    same_classes: Counter[int] = Counter()
    first: Counter[bool] = Counter()
    for seed in range(3000):
        pairs = sample_pairs(labels, 5, generator(seed))  # 3 of 26: drawn; tested against the list of all
        seen.update(frozenset((p.a, p.b)) for p in pairs if not p.same)
        same_classes.update(int(labels[p.a]) for p in pairs if p.same)
        first.update(p.a < p.b for p in pairs)
    assert set(seen) == set(different)
    expected = 3000 * 3 / len(different)
    assert max(abs(n - expected) for n in seen.values()) < 6 * expected**0.5
    assert min(same_classes.values()) > 1500  # classes, not pairs, are drawn evenly (the last has a single pair)
    assert abs(first[True] - 7500) < 6 * 3750**0.5  # no order of classes or positions can be learnt


def test_a_large_collection_needs_no_square_of_memory() -> None:
    labels = np.repeat(np.arange(1000), 100)
    pairs = sample_pairs(labels, 200, generator())
    check_pairs(pairs, labels, 200)


@pytest.mark.parametrize(
    ("labels", "arguments", "message"),
    [
        ([0, 1, 2, 3], {}, "no class has two pictures"),
        ([5, 5, 5, 5], {}, "all pictures are of one class"),
        ([0, 0, 1, 1], {"num_pairs": 0}, "num_pairs must be at least 1"),
        ([0, 0, 1, 1], {"different": "odd"}, 'different must be "random" or "hard"'),
        ([0, 0, 1, 1], {"different": "hard"}, "needs embeddings"),
        ([0, 0, 1, 1], {"different": "hard", "embeddings": torch.zeros(3, 2)}, r"embeddings must be \(4, d\)"),
        (
            [0, 0, 1, 1],
            {"different": "hard", "embeddings": torch.full((4, 2), torch.nan)},
            "the encoder has diverged",
        ),
    ],
)
def test_impossible_pairs(labels: list[int], arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sample_pairs(labels, **{"num_pairs": 2, "generator": generator(), **arguments})


def test_one_different_pair_needs_no_same_one() -> None:
    pairs = sample_pairs([0, 1], 1, generator())
    check_pairs(pairs, np.array([0, 1]), 1)
