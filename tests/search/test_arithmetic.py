"""Sums of vectors against sums that are written out."""

import numpy as np
import pytest

from fieldmark.search.arithmetic import ROCCHIO_LESS, ROCCHIO_MORE, combine, rocchio

X, Y, Z = np.eye(3, dtype=np.float32)
NONE = np.zeros((0, 3), np.float32)


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def test_parts_are_added_with_their_weights_and_normalised() -> None:
    found = combine(np.stack([X, Y, Z]), [2.0, -0.5, 0.0])
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, unit(np.array([2.0, -0.5, 0.0])), atol=1e-7)
    np.testing.assert_array_equal(combine(X[None], [7.0]), X)
    np.testing.assert_allclose(combine(np.stack([X, Y]), [1e-300, -1e-300]), unit(X - Y), atol=1e-7)
    np.testing.assert_allclose(combine(np.stack([X, Y]), [1e300, 1e300]), unit(X + Y), atol=1e-7)


@pytest.mark.parametrize("weights", [[1.0, -1.0], [0.0, 0.0], [1.0, -1.0 + 1e-6]])
def test_parts_that_cancel_have_no_direction(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="cancel one another"):
        combine(np.stack([X, X]), weights)
    with pytest.raises(ValueError, match="cancel one another"):
        combine(NONE, [])


def test_one_weight_for_each_vector() -> None:
    with pytest.raises(ValueError, match=r"2 weights do not fit vectors of shape \(1, 3\)"):
        combine(X[None], [1.0, 2.0])


def test_rocchio_is_its_formula() -> None:
    found = rocchio(X, np.stack([Y, Z]), np.stack([X, Y, Y]))
    wanted = X + ROCCHIO_MORE * (Y + Z) / 2 - ROCCHIO_LESS * (X + 2 * Y) / 3
    np.testing.assert_allclose(found, unit(wanted), atol=1e-7)
    np.testing.assert_array_equal(rocchio(X, NONE, NONE), X)
    np.testing.assert_allclose(rocchio(None, np.stack([Y, Z]), NONE), unit(Y + Z), atol=1e-7)
    np.testing.assert_allclose(
        rocchio(None, np.stack([Y]), np.stack([X])), unit(ROCCHIO_MORE * Y - ROCCHIO_LESS * X), atol=1e-7
    )


def test_rocchio_needs_something_that_is_wanted() -> None:
    with pytest.raises(ValueError, match="nothing says what to look for"):
        rocchio(None, NONE, np.stack([X]))
    with pytest.raises(ValueError, match="cancel"):
        rocchio(X, np.stack([-X / ROCCHIO_MORE]), NONE)
