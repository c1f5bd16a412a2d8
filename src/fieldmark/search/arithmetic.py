"""The vector of a query: a weighted sum of parts, moved by examples (Rocchio). All vectors have unit length."""

from collections.abc import Sequence

import numpy as np

ROCCHIO_MORE = 0.75
"""Weight of the mean of the examples that are wanted: Manning, Raghavan and Schütze, Introduction to Information
Retrieval, 2008, section 9.1.1, whose values for Rocchio's formula (1971) these are; the query itself weighs 1."""
ROCCHIO_LESS = 0.15
"""Weight of the mean of the examples that are not wanted (there, too)."""
_SHORTEST = 1e-4
"""A sum of unit vectors that is shorter than this has no direction but rounding's."""


def combine(vectors: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """Unit vector in the direction of the weighted sum, float32 (D,).

    Args:
        vectors: (n, D), unit length.
        weights: one per vector; negative ones lead away, 0 leaves a vector out.

    Raises:
        ValueError: not one weight per vector, or the sum vanishes.
    """
    if vectors.ndim != 2 or len(vectors) != len(weights):
        raise ValueError(f"{len(weights)} weights do not fit vectors of shape {vectors.shape}: one for each is needed")
    scale = max((abs(weight) for weight in weights), default=0.0) or 1.0
    return _unit(np.asarray(weights, np.float64) / scale @ vectors.astype(np.float64), "the parts cancel one another")


def rocchio(query: np.ndarray | None, more: np.ndarray, less: np.ndarray) -> np.ndarray:
    """A query moved towards some examples and away from others: q + 0.75 · mean(more) − 0.15 · mean(less), unit length.

    Args:
        query: (D,), unit length; None: the examples alone are the query.
        more, less: (n, D) and (m, D), unit length; either may be empty.

    Raises:
        ValueError: neither a query nor an example that is wanted, or the sum vanishes.
    """
    if query is None and len(more) == 0:
        raise ValueError("nothing says what to look for: give a picture, words, or an example that is wanted")
    moved = np.zeros(more.shape[1], np.float64) if query is None else query.astype(np.float64)
    if len(more):
        moved = moved + ROCCHIO_MORE * more.astype(np.float64).mean(0)
    if len(less):
        moved = moved - ROCCHIO_LESS * less.astype(np.float64).mean(0)
    return _unit(moved, "the query and its examples cancel one another")


def _unit(vector: np.ndarray, otherwise: str) -> np.ndarray:
    length = float(np.linalg.norm(vector))
    if not length > _SHORTEST:  # "not >" so that NaN is refused, too
        raise ValueError(f"{otherwise}: what is left has no direction; change the weights")
    return (vector / length).astype(np.float32)
