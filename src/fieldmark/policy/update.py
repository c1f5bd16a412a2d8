"""The policy gradient of a buffer of groups, down to the vision tokens (SAGA, Algorithm 1, block C; maps for D)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.policy.alignment import teacher_maps
from fieldmark.policy.grpo import grpo_loss, span_weights
from fieldmark.policy.replay import ReplayGroup, ReplayMethod, replay
from fieldmark.policy.rollouts import RolloutGroup


@dataclass(frozen=True)
class ReplayConfig:
    """How completions are replayed with gradient."""

    method: ReplayMethod = "prefix"
    """prefix: shared prompt cache (fastest on CPU); packed: one masked row per pair (allows checkpointing); unpacked:
    one row per completion (slow, obvious)."""
    prompts_per_chunk: int = 4
    """Pairs replayed at a time: bounds memory."""
    checkpoint: bool = False
    """Recompute the decoder's activations (packed only)."""


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
    total, gap, count = 0.0, 0.0, 0
    teachers: list[TeacherMap] = []
    tasks = [
        ReplayGroup(backbone.chat_prompt(g.prompt.text, 2), g.pair, tuple(r.ids for r in g.rollouts)) for g in groups
    ]
    chunks = replay(
        backbone,
        leaves,
        tasks,
        method=how.method,
        temperature=config.replay_temperature,
        attention_layer=attention_layer,
        prompts_per_chunk=how.prompts_per_chunk,
        checkpoint=how.checkpoint,
    )
    for chunk in chunks:
        chosen = [groups[i] for i in chunk.groups]
        rollouts = [r for g in chosen for r in g.rollouts]
        logprobs = torch.nn.utils.rnn.pad_sequence([row for rows in chunk.logprobs for row in rows], batch_first=True)
        length = logprobs.shape[1]
        mask = (
            torch.arange(length, device=logprobs.device)
            < torch.tensor([r.num_tokens for r in rollouts], device=logprobs.device)[:, None]
        )
        advantages = torch.cat([g.advantages for g in chosen]).to(logprobs.device)
        weights = None
        if config.tokens == "decision":
            weights = span_weights([r.decision_tokens for r in rollouts], length).to(logprobs.device)
        loss = grpo_loss(logprobs, mask, advantages, num_tokens, token_weights=weights)
        (weight * loss).backward()
        total += float(loss.detach())
        if config.replay_temperature == 1.0:
            sampled = torch.nn.utils.rnn.pad_sequence([r.logprobs for r in rollouts], batch_first=True).to(
                logprobs.device
            )
            gap += float((logprobs.detach() - sampled).abs()[mask].sum())
            count += int(mask.sum())
        if chunk.attention is not None:
            teachers += _teachers(chosen, chunk.attention, chunk.image_spans)
    return PolicyUpdate(total, gap / max(1, count), tuple(teachers))


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
