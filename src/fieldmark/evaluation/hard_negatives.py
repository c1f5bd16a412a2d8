"""The candidates that a model confuses with what was asked for, found exactly (ELVA, arXiv 2606.20280, negatives)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fieldmark.evaluation.retrieval import top_k


@dataclass(frozen=True, eq=False)
class HardNegatives:
    """What was found for each query.

    candidates: per query, positions of its hard negatives, nearest first. removed: int64 (n,), candidates nearer than
    the threshold that were passed over, known positives not counted. lowest: float64 (n,), cosine of the last negative
    that was taken; NaN where there is none.
    """

    candidates: list[np.ndarray]
    removed: np.ndarray
    lowest: np.ndarray


def find_hard_negatives(
    queries: Tensor,
    candidates: Tensor,
    known: Sequence[Sequence[int]],
    count: int,
    threshold: float | None,
) -> HardNegatives:
    """The ``count`` nearest candidates of each query that are neither known to be right nor suspiciously near.

    A candidate whose cosine to the query is above ``threshold`` may well be right without anyone having said so: it is
    no negative. The ``count`` after those are taken; fewer where the pool ends.

    Args:
        queries: (n, D), candidates: (m, D); need not be normalised.
        known: per query, positions of candidates that are never taken: its positives, and itself.
        threshold: of the cosine; None removes none but the known ones.

    Raises:
        ValueError: shapes that do not fit, or a count below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}; ask for at least one negative")
    if len(known) != len(queries):
        raise ValueError(f"{len(queries)} queries, but known candidates of {len(known)}")
    found: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(queries)
    removed, lowest = np.zeros(len(queries), dtype=np.int64), np.full(len(queries), np.nan)
    waiting, pool = list(range(len(queries))), len(candidates)
    depth = min(pool, 2 * count + max((len(one) for one in known), default=0))
    while waiting:
        nearest = top_k(queries[waiting], candidates, k=depth)
        unfinished = []
        for query, row, scores in zip(
            waiting, nearest.indices.cpu().numpy(), nearest.scores.cpu().numpy(), strict=True
        ):
            unknown = ~np.isin(row, np.asarray(known[query], dtype=np.int64))
            near = unknown & (scores > threshold) if threshold is not None else np.zeros_like(unknown)
            left = np.flatnonzero(unknown & ~near)[:count]
            if len(left) < count and depth < pool:
                unfinished.append(query)
                continue
            found[query], removed[query] = row[left], near.sum()
            lowest[query] = scores[left[-1]] if len(left) else np.nan
        waiting, depth = unfinished, min(pool, 4 * depth)
    return HardNegatives(found, removed, lowest)
