"""Groups of summaries of one query: what was written, how it ranks the candidates, what that earned (ELVA, section 3).

`score_query` turns sampled summaries and candidates' embeddings into a `QueryGroup`, `score_positive` those of a
query's positive. The counterpart of `policy.rollouts` for pairs: sampler, advantages, replay and loss are the same,
prompt and reward are not.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from fieldmark.data.retrieval import Item, Query
from fieldmark.models.backbone import PromptTokens
from fieldmark.models.universal_embedder import Summary
from fieldmark.policy.gradient import PolicyGroup
from fieldmark.policy.grpo import Baseline, Scale, group_advantages
from fieldmark.policy.ranking_rewards import RankingRewardConfig, RankingRewards, ranking_rewards
from fieldmark.policy.replay import ReplayGroup
from fieldmark.policy.rewards import Reward


@dataclass(frozen=True, eq=False)
class QueryGroup:
    """G summaries of one query, or of its positive."""

    query: Query
    prompt: PromptTokens
    images: tuple[int, ...]
    """Pictures of what is summed up, as the caller counts them."""
    summaries: tuple[Summary, ...]
    ranking: RankingRewards
    """(G,) each: the built-in rewards, also where a function of one's own takes their place. Of a positive: means over
    the query's summaries, the rank as well."""
    rewards: Tensor
    """float32 (G,), what counts."""
    advantages: Tensor
    """float32 (G,)."""
    positive: Item | None = None
    """The query's positive, if it is what is summed up."""

    @property
    def statements(self) -> tuple[str, ...]:
        """What is known to be true of what is summed up; empty if nothing is."""
        return self.query.grains if self.positive is None else self.positive.facts

    @property
    def contributes(self) -> bool:
        """Whether the rewards differ: only then there is a gradient."""
        return bool(self.rewards.max() > self.rewards.min())

    @property
    def num_tokens(self) -> int:
        """All sampled tokens of the group."""
        return sum(summary.completion.ids.numel() for summary in self.summaries)

    def permuted(self, generator: torch.Generator) -> "QueryGroup":
        """The control: the same summaries and the same rewards, handed out at random within the group."""
        order = torch.randperm(len(self.summaries), generator=generator)
        return replace(self, rewards=self.rewards[order], advantages=self.advantages[order])

    def for_policy(self) -> PolicyGroup:
        """What the policy gradient needs of it."""
        completions = [summary.completion for summary in self.summaries]
        task = ReplayGroup(self.prompt, self.images, tuple(c.ids for c in completions))
        return PolicyGroup(task, tuple(c.logprobs for c in completions), self.advantages)


@dataclass(frozen=True, eq=False)
class Candidates:
    """Embeddings of one query's candidates, L2-normalised, float32.

    S is G if every rollout has candidates of its own, and 1 if all share them.
    """

    positives: Tensor
    """(S, P, D)."""
    negatives: Tensor
    """(S, N, D)."""
    similarity_to_positive: Tensor | None = None
    """(N,), cosines of the negatives to the nearest positive by a model that is not being trained; nDCG's gains."""


def similarity_to_positive(positives: Tensor, negatives: Tensor) -> Tensor:
    """Cosines (N,) of negatives (N, D) to the nearest of positives (P, D)."""
    return (negatives @ positives.T).amax(-1)


class RankingScorer:
    """Scores queries by one configuration.

    Raises:
        ValueError: a reward function that does not exist, or asks for what does not exist.
    """

    def __init__(self, config: RankingRewardConfig, baseline: Baseline = "group_mean", scale: Scale = "std") -> None:
        self.config, self.baseline, self.scale = config, baseline, scale
        self._own: Reward | None = None if config.function is None else config.own_reward()

    def score_query(
        self,
        query: Query,
        prompt: PromptTokens,
        images: Sequence[int],
        summaries: Sequence[Summary],
        candidates: Candidates,
    ) -> QueryGroup:
        """Rewards and advantages of G summaries.

        Args:
            prompt, images: what was summarised; pictures as the caller counts them.

        Raises:
            ValueError: fewer than two summaries, candidates of another width, no positive or negative, or a reward
                that is no finite number. Whatever else a reward raises propagates.
        """
        rollouts = torch.stack([summary.embedding for summary in summaries]).to(candidates.positives.device)
        positive, negatives = (_cosines(rollouts, one) for one in (candidates.positives, candidates.negatives))
        alike = candidates.similarity_to_positive
        spread = None if alike is None else alike.to(negatives.device).expand_as(negatives)
        ranking = ranking_rewards(self.config, positive, negatives, spread)
        forced = torch.tensor([summary.forced for summary in summaries])
        rewards = ranking.total.cpu() - self.config.unfinished * forced
        if self._own is not None:
            values = [
                self._own_value(query, one, positive[g], negatives[g], alike, ranking, (g,))
                for g, one in enumerate(summaries)
            ]
            rewards = torch.tensor(values)
        return self._group(query, prompt, images, summaries, ranking, rewards)

    def score_positive(
        self,
        query: Query,
        positive: Item,
        prompt: PromptTokens,
        images: Sequence[int],
        summaries: Sequence[Summary],
        asked: Sequence[Summary],
        candidates: Candidates,
    ) -> QueryGroup:
        """Rewards and advantages of G summaries of a query's positive. Not part of ELVA.

        Each takes the positive's place in the rankings of all of the query's summaries, and earns their mean reward.

        Args:
            prompt, images: of the positive.
            asked: the query's own summaries.
            candidates: the query's; its positives are not read, and each of ``asked`` meets its own negatives.

        Raises:
            ValueError: as `score_query`.
        """
        rollouts = torch.stack([one.embedding for one in asked]).to(candidates.negatives.device)
        placed = torch.stack([one.embedding for one in summaries]).to(rollouts)
        cosines = (rollouts @ placed.T).clamp(-1, 1)[..., None]  # (asked, G, 1)
        negatives = _cosines(rollouts, candidates.negatives)[:, None].expand(-1, len(placed), -1)
        alike = candidates.similarity_to_positive
        spread = None if alike is None else alike.to(negatives.device).expand_as(negatives)
        each = ranking_rewards(self.config, cosines, negatives, spread)
        forced = torch.tensor([one.forced for one in summaries])
        rewards = each.total.mean(0).cpu() - self.config.unfinished * forced
        if self._own is not None:
            values = [
                [
                    self._own_value(query, one, cosines[q, g], negatives[q, g], alike, each, (q, g))
                    for g, one in enumerate(summaries)
                ]
                for q in range(len(asked))
            ]
            rewards = torch.tensor(values).mean(0)
        mean = RankingRewards(each.total.mean(0), each.margin.mean(0), each.ranking.mean(0), each.rank.float().mean(0))
        return replace(self._group(query, prompt, images, summaries, mean, rewards), positive=positive)

    def _own_value(
        self,
        query: Query,
        summary: Summary,
        positive: Tensor,
        negatives: Tensor,
        alike: Tensor | None,
        ranking: RankingRewards,
        place: tuple[int, ...],
    ) -> float:
        """What the user's function gives for one ranking. place: in ``ranking``."""
        assert self._own is not None
        return self._own(
            positive=positive,
            negatives=negatives,
            similarity_to_positive=alike,
            rank=int(ranking.rank[place]),
            margin_reward=float(ranking.margin[place]),
            ranking_reward=float(ranking.ranking[place]),
            query=query,
            text=summary.text,
            num_tokens=summary.completion.ids.numel(),
            forced=summary.forced,
        )

    def _group(
        self,
        query: Query,
        prompt: PromptTokens,
        images: Sequence[int],
        summaries: Sequence[Summary],
        ranking: RankingRewards,
        rewards: Tensor,
    ) -> QueryGroup:
        rewards = rewards.float().cpu()
        advantages = group_advantages(rewards, baseline=self.baseline, scale=self.scale)
        return QueryGroup(query, prompt, tuple(images), tuple(summaries), ranking, rewards, advantages)


def _cosines(rollouts: Tensor, candidates: Tensor) -> Tensor:
    """(G, n) cosines of rollouts (G, D) to candidates (S, n, D), S = G or 1."""
    if candidates.dim() != 3 or candidates.shape[0] not in (1, len(rollouts)):
        raise ValueError(f"candidates have shape {tuple(candidates.shape)}: need (1 or {len(rollouts)}, number, width)")
    if candidates.shape[-1] != rollouts.shape[-1]:
        raise ValueError(
            f"the query is embedded in {rollouts.shape[-1]} numbers, its candidates in {candidates.shape[-1]}: they "
            "come from different models"
        )
    if len(candidates) == 1:
        return (rollouts @ candidates[0].T).clamp(-1, 1)
    return torch.einsum("gd,gnd->gn", rollouts, candidates).clamp(-1, 1)
