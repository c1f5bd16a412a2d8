"""SAGA's policy update: groups of pairs, down to the vision tokens (Algorithm 1, block C); teacher maps for block D."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.policy.alignment import teacher_maps
from fieldmark.policy.gradient import PolicyGroup, ReplayConfig, backpropagate
from fieldmark.policy.replay import ReplayedStates, ReplayGroup
from fieldmark.policy.rollouts import RolloutGroup


@dataclass(frozen=True)
class TeacherMap:
    """Where the supervisor looked while it described picture ``image``: (N,) over its patches, sums to 1."""

    image: int
    attention: Tensor


@dataclass(frozen=True)
class PolicyUpdate:
    """What a replay found: the loss, the replayed log-probabilities' distance from sampling, teacher maps."""

    loss: float
    replay_gap: float
    """Mean |log-prob of replay − log-prob at sampling|, both at temperature 1: float noise, else something is wrong."""
    teachers: tuple[TeacherMap, ...]


def count_tokens(groups: Sequence[RolloutGroup], config: RolloutConfig) -> int:
    """|T|: tokens of all groups that carry an advantage; the denominator of the policy loss."""
    if config.tokens == "all":
        return sum(group.num_tokens for group in groups)
    return sum(len(span) for group in groups for r in group.rollouts for span in r.decision_tokens)


def backpropagate_policy(
    backbone: Backbone,
    leaves: VisionTokens,
    groups: Sequence[RolloutGroup],
    num_tokens: int,
    config: RolloutConfig,
    how: ReplayConfig,
    *,
    weight: float = 1.0,
    attention_layer: int | None = None,
) -> PolicyUpdate:
    """Replay the groups and add the gradient of ``weight · L_GRPO`` to the leaves.

    Args:
        leaves: vision tokens that the groups' pairs count, as leaves.
        groups: contributing groups of these pictures.
        num_tokens: |T| of the *whole* buffer, which may span several micro-batches: losses of parts add up.
        attention_layer: decoder layer to take teacher maps from, of rollouts with positive advantage (reward 1 in a
            mixed group); None takes none.
    """
    teachers: list[TeacherMap] = []

    def collect(numbers: range, states: ReplayedStates) -> None:
        if states.attention is not None:
            teachers.extend(_teachers([groups[i] for i in numbers], states.attention, states.image_spans))

    found = backpropagate(
        backbone,
        leaves,
        [_as_policy_group(backbone, group, config) for group in groups],
        num_tokens,
        how,
        temperature=config.replay_temperature,
        weight=weight,
        attention_layer=attention_layer,
        on_chunk=collect,
    )
    return PolicyUpdate(found.loss, found.replay_gap, tuple(teachers))


def _as_policy_group(backbone: Backbone, group: RolloutGroup, config: RolloutConfig) -> PolicyGroup:
    rollouts = group.rollouts
    return PolicyGroup(
        ReplayGroup(backbone.chat_prompt(group.prompt.text, 2), group.pair, tuple(r.ids for r in rollouts)),
        tuple(r.logprobs for r in rollouts),
        group.advantages,
        tuple(r.decision_tokens for r in rollouts) if config.tokens == "decision" else None,
    )


def _teachers(
    groups: Sequence[RolloutGroup],
    attention: Sequence[Sequence[Tensor]],
    image_spans: Sequence[Sequence[range]],
) -> list[TeacherMap]:
    found = []
    for group, rows, spans in zip(groups, attention, image_spans, strict=True):
        patches = [torch.arange(span.start, span.stop) for span in spans]
        for rollout, advantage, row in zip(group.rollouts, group.advantages.tolist(), rows, strict=True):
            if advantage > 0:
                maps = teacher_maps(row, rollout, patches[0], patches[1])
                found += [TeacherMap(i, m) for i, m in zip(group.pair, maps, strict=True) if m is not None]
    return found
