"""Two maps of one set of points, before and after a training, that can be compared by eye (t-SNE).

The two embedders' spaces have no axes in common, and a joint fit would only draw two islands, one for each embedder.
So each is fitted alone, and they are *aligned*: both start from the same layout, the two first principal components of
the points before; and the finished second map is moved, turned or mirrored, and scaled onto the first (Procrustes),
which changes no neighbourhood in it. What still differs between the maps differs between the embeddings.

t-SNE keeps near points near. It says little about distances between groups, nor about their sizes. `trustworthiness`
says how far a map can be believed.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import orthogonal_procrustes
from sklearn.manifold import TSNE, trustworthiness
from torch import Tensor

from fieldmark.evaluation.retrieval import unit_rows

LEAST_POINTS = 5
_START = 1e-4
"""Standard deviation of the starting layout, as for a start from principal components: small, so that only its order
counts (Kobak and Berens 2019)."""


@dataclass(frozen=True, eq=False)
class AlignedMaps:
    """Attributes:
    before, after: (n, 2) float64, centred, in one unit: the spread of ``before`` is 1.
    trust_before, trust_after: trustworthiness from 0 to 1: 1 if all neighbours in the map are neighbours in the space.
    moved: (n,) distance between a point's two places, in that unit.
    perplexity: how many neighbours a point had.
    """

    before: np.ndarray
    after: np.ndarray
    trust_before: float
    trust_after: float
    moved: np.ndarray
    perplexity: float


def aligned_maps(before: Tensor, after: Tensor, *, seed: int = 0, perplexity: float = 30.0) -> AlignedMaps:
    """Map the same points under two embedders. The same input and seed give the same maps.

    Args:
        before, after: (n, D) and (n, D'), row i of both is one point; cosine distance counts.
        perplexity: lowered to a third of the points where they are few.

    Raises:
        ValueError: fewer than five points, or not the same number.
    """
    if len(before) != len(after) or len(before) < LEAST_POINTS:
        raise ValueError(
            f"{len(before)} points before and {len(after)} after: a pair of maps needs the same points, {LEAST_POINTS} "
            "at least"
        )
    spaces = [unit_rows(one, name).double().cpu().numpy() for one, name in ((before, "before"), (after, "after"))]
    perplexity = min(perplexity, (len(before) - 1) / 3)
    start = _principal(spaces[0])
    first, second = (_centred(_tsne(one, start, perplexity, seed)) for one in spaces)
    first = first / _spread(first)
    second = second / _spread(second)
    turn, _ = orthogonal_procrustes(second, first)
    second = second @ turn
    neighbours = max(1, min(15, (len(before) - 1) // 2))
    trust = [
        float(trustworthiness(space, shown, n_neighbors=neighbours, metric="cosine"))
        for space, shown in zip(spaces, (first, second), strict=True)
    ]
    return AlignedMaps(first, second, trust[0], trust[1], np.linalg.norm(second - first, axis=1), float(perplexity))


def _principal(points: np.ndarray) -> np.ndarray:
    """Two principal components (n, 2), their signs fixed, scaled for a start."""
    left, values, right = np.linalg.svd(points - points.mean(0), full_matrices=False)
    signs = np.sign(right[np.arange(2), np.abs(right[:2]).argmax(1)])
    layout = left[:, :2] * values[:2] * signs
    return layout / max(float(layout[:, 0].std()), np.finfo(float).tiny) * _START


def _tsne(points: np.ndarray, start: np.ndarray, perplexity: float, seed: int) -> np.ndarray:
    fitted = TSNE(2, perplexity=perplexity, metric="cosine", init=start.astype(np.float32), random_state=seed)
    return np.asarray(fitted.fit_transform(points), dtype=np.float64)


def _centred(layout: np.ndarray) -> np.ndarray:
    return layout - layout.mean(0)


def _spread(layout: np.ndarray) -> float:
    """Root of the mean squared distance from the middle."""
    return max(float(np.sqrt((layout**2).sum(1).mean())), np.finfo(float).tiny)
