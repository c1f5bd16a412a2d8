"""What a reward pays for: its correlation with properties of summaries, within the groups of one query.

GRPO makes likelier whatever goes along with the reward inside a group. These two say what that is before the policy
shows it: a reward that pays for brevity has a negative correlation with the length, one that pays for naming more of
the query a positive one with its grains. Not part of ELVA.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from fieldmark.policy.query_groups import QueryGroup


def reward_preferences(groups: Sequence[QueryGroup]) -> dict[str, float]:
    """Mean Pearson correlations, from -1 to 1, over the groups in which both sides differ; without any, left out.

    reward_by_tokens: with the number of sampled tokens. reward_by_grains: with the share of the query's grains (of a
    positive: of its facts) that a summary names word for word, where they are known.
    """
    lengths = [torch.tensor([float(s.completion.ids.numel()) for s in group.summaries]) for group in groups]
    named = [_grains_named(group) for group in groups]
    found = {}
    for name, sides in (("reward_by_tokens", lengths), ("reward_by_grains", named)):
        within = [
            value
            for group, side in zip(groups, sides, strict=True)
            if (value := _correlation(group.rewards, side)) is not None
        ]
        if within:
            found[name] = sum(within) / len(within)
    return found


def _grains_named(group: QueryGroup) -> Tensor:
    """(G,) shares; zeros if no grains are known."""
    grains = [statement.lower() for statement in group.statements]
    texts = [summary.text.lower() for summary in group.summaries]
    return torch.tensor([sum(grain in text for grain in grains) / max(1, len(grains)) for text in texts])


def _correlation(one: Tensor, other: Tensor) -> float | None:
    """Of two (G,); None if either is constant."""
    if bool((one == one[0]).all()) or bool((other == other[0]).all()):
        return None
    return float(torch.corrcoef(torch.stack([one.double(), other.double()]))[0, 1])
