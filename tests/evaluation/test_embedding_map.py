"""Maps are the same for the same input, keep neighbours, and can be laid over each other."""

import numpy as np
import pytest
import torch

from fieldmark.evaluation.embedding_map import aligned_maps


def clusters(seed=0, each=12, spread=0.15):
    """Three groups in ten dimensions."""
    generator = torch.Generator().manual_seed(seed)
    middles = torch.eye(10)[:3].repeat_interleave(each, 0)
    return middles + spread * torch.randn(3 * each, 10, generator=generator)


def purity(points, each=12):
    """Share of points whose nearest neighbour on the map is of their group."""
    distance = np.linalg.norm(points[:, None] - points[None], axis=-1)
    np.fill_diagonal(distance, np.inf)
    return float((distance.argmin(1) // each == np.arange(len(points)) // each).mean())


def test_same_input_same_maps_and_groups_stay_together():
    first, second = (aligned_maps(clusters(), clusters(1), seed=3) for _ in range(2))
    assert np.array_equal(first.before, second.before) and np.array_equal(first.after, second.after)
    assert purity(first.before) > 0.95 and purity(first.after) > 0.95
    assert min(first.trust_before, first.trust_after) > 0.8
    assert first.perplexity == pytest.approx(35 / 3)


def test_a_turned_space_gives_the_same_picture():
    """What a training does to all points alike, a turn of the space, must not look like a change."""
    points = clusters()
    turn = torch.linalg.qr(torch.randn(10, 10, generator=torch.Generator().manual_seed(5))).Q
    turned = aligned_maps(points, points @ turn)
    other = aligned_maps(points, clusters(9)[torch.randperm(36, generator=torch.Generator().manual_seed(1))])
    assert np.median(turned.moved) < 0.25 < 0.7 < np.median(other.moved)


def test_the_unit_is_the_spread_before():
    found = aligned_maps(clusters(), 8 * clusters())  # lengths do not count
    for points in (found.before, found.after):
        assert np.allclose(points.mean(0), 0, atol=1e-6) and np.sqrt((points**2).sum(1).mean()) == pytest.approx(1)
    assert np.allclose(found.moved, 0, atol=1e-6)


def test_too_few_or_unequal_points_are_named():
    with pytest.raises(ValueError, match="4 points before and 4 after"):
        aligned_maps(clusters()[:4], clusters()[:4])
    with pytest.raises(ValueError, match="36 points before and 35 after"):
        aligned_maps(clusters(), clusters()[1:])
