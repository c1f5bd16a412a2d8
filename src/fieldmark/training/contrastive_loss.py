"""InfoNCE of a batch that several processes share, from the embeddings that each has made."""

from dataclasses import dataclass

import torch
from torch import Tensor

from fieldmark.losses.contrastive import info_nce, not_negatives
from fieldmark.training.distribution import gather_rows, sum_numbers, world


@dataclass(frozen=True, eq=False)
class BatchIds:
    """Who is whose positive in this process's part of a batch: B queries, N candidates.

    num_queries: B. candidates: int64 (N,), ids; the first B are the queries' positives in order, hard negatives follow.
    positives: int64 (B, P), ids of all known positives of each query, filled up with `NO_ID`.
    """

    num_queries: int
    candidates: Tensor
    positives: Tensor


@dataclass(frozen=True)
class BatchFigures:
    """What the whole batch, of all processes, came to.

    loss: InfoNCE, mean over queries. correct: queries nearest to their own candidate. queries, candidates: their
    numbers.
    """

    loss: float
    correct: int
    queries: int
    candidates: int


def contrastive_loss(embeddings: Tensor, ids: BatchIds, temperature: float) -> tuple[Tensor, BatchFigures]:
    """This process's share of the batch's InfoNCE, and the figures of the whole batch.

    The share is the loss of the process's own queries against the candidates of all processes, over the number of all
    queries: the shares add up to the loss, and, after `sum_gradients`, their gradients to its gradient. Candidates of
    other processes are left out as negatives by the same rule as one's own (`not_negatives`).

    Args:
        embeddings: (B + N, D), queries first, then the candidates in the order of ``ids``.
        temperature: τ.
    """
    n, device = ids.num_queries, embeddings.device
    queries, own = embeddings[:n], embeddings[n:]
    assert len(own) == len(ids.candidates) and len(ids.positives) == n, "ids are of another batch"
    candidates = gather_rows(own)
    candidate_ids = gather_rows(ids.candidates.to(device))
    lengths = gather_rows(torch.tensor([n, len(own)], device=device)[None])
    first = int(lengths[: world().rank, 1].sum())
    targets = torch.arange(first, first + n, device=device)
    total = int(lengths[:, 0].sum())
    excluded = not_negatives(candidate_ids, targets, ids.positives.to(device))
    found = info_nce(queries, candidates, targets, temperature=temperature, excluded=excluded, denominator=total)
    loss, correct = sum_numbers(float(found.loss.detach()), found.correct)
    return found.loss, BatchFigures(loss, int(correct), total, len(candidates))
