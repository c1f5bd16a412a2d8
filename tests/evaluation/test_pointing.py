"""The pointing game against counting by hand."""

import numpy as np
import pytest

from fieldmark.evaluation.pointing import Pointing, pointing


def test_shares_hits_and_chance() -> None:
    maps = [np.array([[0.1, 0.9], [0.2, 0.3]]), np.array([[5.0, 1.0], [1.0, 1.0]])]
    targets = [np.array([0.0, 0.4, 0.0, 0.2]), np.array([0.05, 0.6, 0.0, 0.35])]
    found = pointing(maps, targets)
    assert found.maps == 2
    assert found.share == pytest.approx((0.4 + 0.05) / 2) and found.area == pytest.approx((0.15 + 0.25) / 2)
    assert found.best == pytest.approx((0.4 + 0.6) / 2)
    assert found.hits == pytest.approx((1 + 0) / 2) and found.chance == pytest.approx(0.5)
    assert found.lift == pytest.approx(0.225 / 0.2)
    assert found.as_json()["lift"] == found.lift and found.as_json()["maps"] == 2


def test_a_patch_drawn_by_lot_reaches_chance() -> None:
    rng = np.random.default_rng(0)
    targets = [rng.random(30) * (rng.random(30) < 0.3) for _ in range(4000)]
    found = pointing([rng.random(30) for _ in targets], targets)
    assert found.share == pytest.approx(found.area, rel=0.05) and found.hits == pytest.approx(found.chance, rel=0.05)
    assert found.lift == pytest.approx(1, abs=0.05)


def test_targets_that_cannot_be_seen_are_left_out() -> None:
    maps, targets = [np.eye(2), np.eye(2)], [np.zeros(4), np.array([1.0, 0, 0, 0])]
    assert pointing(maps, targets) == Pointing(1, 1.0, 0.25, 1.0, 1.0, 0.25)
    with pytest.raises(ValueError, match="nothing to point at"):
        pointing(maps[:1], targets[:1])


@pytest.mark.parametrize(
    ("maps", "targets", "says"),
    [([np.ones(4)], [], "1 maps, but 0"), ([np.ones(4)], [np.ones(3)], "4 patches .* over 3")],
)
def test_what_does_not_fit_is_told(maps: list[np.ndarray], targets: list[np.ndarray], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        pointing(maps, targets)
