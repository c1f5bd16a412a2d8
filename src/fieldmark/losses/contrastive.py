"""InfoNCE between queries and candidates, with the candidates that are no negatives left out (ELVA, stages 1 and 2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fieldmark.losses.precision import full_float32

NO_ID = -1
"""Fills up rows of ids of different lengths; no candidate has it."""


@dataclass(frozen=True, eq=False)
class Contrast:
    """InfoNCE of a batch, and what one wants to see beside it.

    loss: scalar float32, with gradient.
    correct: int, queries that are nearer to their own candidate than to every negative.
    """

    loss: Tensor
    correct: int


def info_nce(
    queries: Tensor,
    candidates: Tensor,
    targets: Tensor,
    *,
    temperature: float = 0.05,
    excluded: Tensor | None = None,
    denominator: int | None = None,
) -> Contrast:
    """InfoNCE (van den Oord et al. 2018, equation 4) with the cosine over a temperature as the score.

        L = −(1/n) Σ_i log( exp(s_i,t(i)) / Σ_{j not excluded for i} exp(s_ij) ),   s_ij = cos(q_i, c_j) / τ

    Every candidate of the batch, the hard negatives of other queries included, is a negative of every query unless it
    is excluded. Computed in float32 whatever the surrounding precision.

    Args:
        queries: (B, D), need not be normalised.
        candidates: (N, D), positives and hard negatives in any order.
        targets: int64 (B,), t(i): the row of ``candidates`` that is query i's positive.
        temperature: τ; 0.05 in ELVA.
        excluded: bool (B, N), True where candidate j is no negative of query i; see `not_negatives`.
        denominator: n; B if not given. A process that holds a part of the batch gives the size of the whole, so that
            the processes' losses add up to that of the batch.

    Raises:
        ValueError: shapes that do not fit, targets outside the candidates or excluded, a temperature not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if queries.ndim != 2 or candidates.ndim != 2 or queries.shape[1] != candidates.shape[1] or not len(queries):
        raise ValueError(
            f"queries are {tuple(queries.shape)}, candidates {tuple(candidates.shape)}: (B, D) and (N, D) are needed"
        )
    if targets.shape != queries.shape[:1]:
        raise ValueError(f"targets are {tuple(targets.shape)} for {len(queries)} queries: one each is needed")
    if bool((targets < 0).any()) or bool((targets >= len(candidates)).any()):
        raise ValueError(f"targets must be rows of the {len(candidates)} candidates, got {targets.tolist()}")
    with full_float32(queries.device):
        scores = F.normalize(queries.float(), dim=1) @ F.normalize(candidates.float(), dim=1).T / temperature
    if excluded is not None:
        if excluded.shape != scores.shape or excluded.dtype != torch.bool:
            raise ValueError(f"excluded is {tuple(excluded.shape)} {excluded.dtype}; bool {tuple(scores.shape)} fits")
        if bool(excluded.gather(1, targets[:, None]).any()):
            raise ValueError("a query's own positive is excluded: nothing would be left to pull it to")
        scores = scores.masked_fill(excluded, -torch.inf)
    loss = F.cross_entropy(scores, targets, reduction="sum") / (denominator or len(queries))
    with torch.no_grad():
        own = scores.gather(1, targets[:, None])
        best_other = scores.scatter(1, targets[:, None], -torch.inf).amax(1, keepdim=True)
    return Contrast(loss, int((own > best_other).sum()))


def not_negatives(candidate_ids: Tensor, targets: Tensor, positives: Tensor) -> Tensor:
    """Which candidates of a batch are no negatives of which query, by their ids: bool (B, N) for `info_nce`.

    Excluded for query i is every column but its target that holds
    - any of its known positives: as another query's positive, as another's hard negative, or its own once more;
    - a candidate that stands in an earlier column too: the softmax counts every candidate once.

    Args:
        candidate_ids: int64 (N,), of the candidates in the batch.
        targets: int64 (B,), the column of each query's positive.
        positives: int64 (B, P), ids of all known positives of each query, filled up with `NO_ID`.

    Raises:
        ValueError: shapes that do not fit, or a target whose id is not among the query's positives.
    """
    if candidate_ids.ndim != 1 or positives.ndim != 2 or targets.shape != positives.shape[:1]:
        raise ValueError(
            f"ids are {tuple(candidate_ids.shape)}, targets {tuple(targets.shape)}, positives "
            f"{tuple(positives.shape)}: (N,), (B,) and (B, P) are needed"
        )
    if not bool((positives == candidate_ids[targets][:, None]).any(1).all()):
        raise ValueError("a query's target is not among its positives: targets and ids are of different batches")
    order = torch.argsort(candidate_ids, stable=True)
    again = torch.zeros_like(candidate_ids, dtype=torch.bool)
    again[order[1:]] = candidate_ids[order][1:] == candidate_ids[order][:-1]
    # By way of the distinct ids: queries may have hundreds of positives, and (B, N, P) would not fit.
    distinct, column = candidate_ids.unique(return_inverse=True)
    place = torch.searchsorted(distinct, positives).clamp_max(len(distinct) - 1)
    query, which = (distinct[place] == positives).nonzero(as_tuple=True)
    known = torch.zeros(len(targets), len(distinct), dtype=torch.bool, device=targets.device)
    known[query, place[query, which]] = True
    excluded = known[:, column] | again
    return excluded.scatter(1, targets[:, None], False)
