"""Rewards of a ranking: what a rollout's embedding is worth (ELVA, arXiv 2606.20280).

Pure functions of cosine similarities between a query's embedding and its candidates, in batches: leading dimensions are
rollouts (and queries that have equally many candidates). Sorted descending, s_(k) stands at rank k, the positive at r:

    R_margin = max(0, cos(q,p) − max_i cos(q,n_i) − δ)
    R_rank   = s_(r) / (1 + log r) − γ Σ_{k≠r} s_(k) (log k − 1)
    R        = α R_margin + ε R_rank

What the publication leaves open, and what is done here:

- *The base of the logarithm* is a parameter, e by default. log k < 1 for k below the base, so the sum **rewards**
  negatives that are alike to the query at these ranks: with the natural logarithm at ranks 1 (above the positive!) and
  2, with base 10 at ranks 1 to 9. Base 2 rewards rank 1 only; at rank 2 it is neutral.
- *The sign of the first term*: where cos(q,p) is negative, dividing by a larger 1 + log r makes a worse rank earn more.
- *γ and δ* are not published. The weights log k − 1 of 100 negatives sum to about 270, so γ is 0.01 here: then both
  terms of R_rank are of one order. δ is 0.05, the temperature of the contrastive stages.
- *Several positives*: the one that is nearest to the query counts, as in Recall@K; the others are not ranked.
- *Ties*: a negative with the positive's cosine stands before it. An embedding that cannot tell the two earns nothing.

The bounded alternative, ``ranking="ndcg"``, is nDCG over all ranks. A negative's gain is its similarity to the positive
(0 where that is negative), the positive's gain is 1:

    nDCG = Σ_k g_(k) / log2(1 + k)  over the same sum in the best order;  in [0, 1]

Equal cosines are taken in the worst order. The gains should not be the policy's own: a policy that makes all candidates
alike would make every order a good one.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from fieldmark.policy.rewards import Reward, resolve_reward

RankingKind = Literal["elva", "ndcg", "none"]

RANKING_ARGUMENTS: Mapping[str, str] = {
    "positive": "float tensor (P,), cosines of the rollout's embedding to the positives",
    "negatives": "float tensor (N,), to the negatives",
    "similarity_to_positive": "float tensor (N,), cosines of the negatives to the positive, or None if not asked for",
    "rank": "int, rank of the nearest positive",
    "margin_reward": "float, R_margin",
    "ranking_reward": "float, R_rank or nDCG, whichever is configured",
    "query": "Query, with its instruction and its grains",
    "text": "str, the sampled summary; of the positive, where its summaries learn (candidates.learn)",
    "num_tokens": "int, number of sampled tokens",
    "forced": "bool, whether the summary had to be ended",
}
"""What a user's own reward on rankings may ask for."""

_TOLERANCE = 1e-3  # rounding of cosines of normalised half-precision embeddings


@dataclass(frozen=True)
class RankingRewardConfig:
    """Which reward a rollout gets. Greek letters are the publication's."""

    ranking: RankingKind = "elva"
    """R_rank: elva (as published), ndcg (bounded), none (ablation)."""
    margin: bool = True
    """Whether R_margin counts; false is an ablation."""
    negative_ranking: bool = True
    """Whether the order of the negatives counts; false (ablation) takes the sum from elva, the negatives' gains from
    ndcg."""
    alpha: float = 0.4
    """α, weight of R_margin (published: 0.4)."""
    epsilon: float = 0.6
    """ε, weight of R_rank (published: 0.6)."""
    delta: float = 0.05
    """δ, the margin. Not published."""
    gamma: float = 0.01
    """γ, weight of the negatives' order in R_rank. Not published; 1 over the number of negatives balances the terms."""
    log_base: float = math.e
    """Base of the logarithm in R_rank. Negatives at ranks below it are rewarded for being alike to the query."""
    unfinished: float = 0.0
    """Taken off the reward of a summary that did not end in [RET] by itself. Not published; a policy whose longer
    summaries earn more may else learn to write without end."""
    function: str | None = None
    """A reward of your own instead of all this, as "package.module:function"."""
    options: dict[str, Any] = field(default_factory=dict)
    """Fixed values of further parameters of that function."""

    def __post_init__(self) -> None:
        if self.ranking not in get_args(RankingKind):
            raise ValueError(f"ranking must be one of {', '.join(get_args(RankingKind))}, got {self.ranking!r}")
        for name in ("alpha", "epsilon", "delta", "gamma", "unfinished"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be a finite number of at least 0, got {getattr(self, name)}")
        if not 1 < self.log_base < math.inf:
            raise ValueError(f"log_base must be a finite number above 1, got {self.log_base}")
        if self.function is None and self.options:
            raise ValueError(f"options {sorted(self.options)} belong to a function: set function, or remove them")
        if self.function is None and not (self.margin and self.alpha) and not (self.ranking != "none" and self.epsilon):
            raise ValueError("neither margin nor ranking counts: every rollout would earn 0 and nothing be learned")

    @property
    def needs_similarity_to_positive(self) -> bool:
        """Whether the reward reads how alike the negatives are to the positive."""
        if self.function is not None:
            return "similarity_to_positive" in self.own_reward().arguments
        return self.ranking == "ndcg" and self.negative_ranking

    def own_reward(self) -> Reward:
        """The user's function, checked against ``RANKING_ARGUMENTS``.

        Raises:
            ValueError: there is none, or it asks for what does not exist.
        """
        if self.function is None:
            raise ValueError("no reward function is configured: set function to 'package.module:function'")
        return resolve_reward(self.function, RANKING_ARGUMENTS, self.options, named={})


@dataclass(frozen=True)
class RankingRewards:
    """Rewards of rollouts, (...) each."""

    total: Tensor
    """R."""
    margin: Tensor
    """R_margin, not weighted; 0 where it is switched off."""
    ranking: Tensor
    """R_rank or nDCG, not weighted; 0 where it is switched off."""
    rank: Tensor
    """r: rank of the nearest positive among it and the negatives, 1 = first; int64, or the mean of several."""


def ranking_rewards(
    config: RankingRewardConfig, positive: Tensor, negatives: Tensor, similarity_to_positive: Tensor | None = None
) -> RankingRewards:
    """R = α R_margin + ε R_rank of every rollout (ELVA, section 3).

    A user's own function is not called here: it sees one rollout at a time (``RankingRewardConfig.own_reward``).

    Args:
        positive: (..., P) cosines of queries to their positives.
        negatives: (..., N) to their negatives.
        similarity_to_positive: (..., N), cosines of the negatives to the positive; for nDCG.

    Raises:
        ValueError: no positive or negative, shapes that do not fit, values that are no cosines, or nDCG without
            ``similarity_to_positive``.
    """
    best = _checked(positive, negatives)
    margin = ranking = torch.zeros_like(best)
    if config.margin:
        margin = margin_reward(positive, negatives, config.delta)
    if config.ranking == "elva":
        gamma = config.gamma if config.negative_ranking else 0.0
        ranking = elva_ranking_reward(positive, negatives, gamma, config.log_base)
    elif config.ranking == "ndcg":
        gains = similarity_to_positive if config.negative_ranking else torch.zeros_like(negatives)
        if gains is None:
            raise ValueError("nDCG needs similarity_to_positive: pass the negatives' cosines to the positive")
        ranking = ndcg_reward(positive, negatives, gains)
    total = config.alpha * margin + config.epsilon * ranking
    return RankingRewards(total, margin, ranking, positive_rank(positive, negatives))


def positive_rank(positive: Tensor, negatives: Tensor) -> Tensor:
    """r (...), int64: 1 + the number of negatives at least as near as the nearest positive."""
    best = _checked(positive, negatives)
    return 1 + (negatives.to(best.dtype) >= best[..., None]).sum(-1)


def margin_reward(positive: Tensor, negatives: Tensor, delta: float) -> Tensor:
    """R_margin (...): how far the nearest positive is ahead of the nearest negative, beyond δ; never below 0."""
    best = _checked(positive, negatives)
    return (best - negatives.to(best.dtype).amax(-1) - delta).clamp_min(0)


def elva_ranking_reward(positive: Tensor, negatives: Tensor, gamma: float, log_base: float = math.e) -> Tensor:
    """R_rank (...) as published; see the module's text for what its sum rewards."""
    best = _checked(positive, negatives)
    rank = positive_rank(positive, negatives)
    ordered = negatives.to(best.dtype).sort(dim=-1, descending=True).values
    # the j-th negative stands at rank j, or j + 1 once the positive has come
    place = torch.arange(1, ordered.shape[-1] + 1, device=ordered.device)
    place = place + (place >= rank[..., None])
    scale = math.log(log_base)
    spread = (ordered * (place.to(best.dtype).log() / scale - 1)).sum(-1)
    return best / (1 + rank.to(best.dtype).log() / scale) - gamma * spread


def ndcg_reward(positive: Tensor, negatives: Tensor, similarity_to_positive: Tensor) -> Tensor:
    """Graded nDCG (...) over all ranks, in [0, 1]: gain 1 of the nearest positive, max(0, similarity) of negatives."""
    best = _checked(positive, negatives)
    if similarity_to_positive.shape != negatives.shape:
        raise ValueError(
            f"similarity_to_positive has shape {tuple(similarity_to_positive.shape)}, the negatives have "
            f"{tuple(negatives.shape)}: one value per negative is needed"
        )
    _check_cosines("similarity_to_positive", similarity_to_positive)
    gains = similarity_to_positive.to(best.dtype).clamp(0, 1)
    gains = torch.cat((gains, torch.ones_like(best)[..., None]), -1)
    scores = torch.cat((negatives.to(best.dtype), best[..., None]), -1)
    # Smallest gain first, then stably by score: among equal scores the order is the worst one.
    worst, order = gains.sort(dim=-1, stable=True)
    order = scores.gather(-1, order).sort(dim=-1, descending=True, stable=True).indices
    place = torch.arange(1, gains.shape[-1] + 1, device=gains.device, dtype=best.dtype)
    discount = 1 / torch.log2(1 + place)
    return (worst.gather(-1, order) * discount).sum(-1) / (worst.flip(-1) * discount).sum(-1)


def _checked(positive: Tensor, negatives: Tensor) -> Tensor:
    """Cosine of the nearest positive (...), in float32 at least."""
    for name, values in (("positive", positive), ("negatives", negatives)):
        if values.ndim == 0 or values.shape[-1] == 0:
            raise ValueError(
                f"{name} has shape {tuple(values.shape)}: a ranking needs at least one, in the last dimension"
            )
        _check_cosines(name, values)
    if positive.shape[:-1] != negatives.shape[:-1]:
        raise ValueError(
            f"positive has shape {tuple(positive.shape)}, negatives {tuple(negatives.shape)}: all dimensions but the "
            "last must be the same rollouts"
        )
    return positive.to(torch.promote_types(positive.dtype, torch.float32)).amax(-1)


def _check_cosines(name: str, values: Tensor) -> None:
    if not values.is_floating_point() or not bool((values.abs() <= 1 + _TOLERANCE).all()):
        raise ValueError(
            f"{name} ({values.dtype}) must be cosines, from -1 to 1: normalise the embeddings, and do not divide by a "
            "temperature"
        )
