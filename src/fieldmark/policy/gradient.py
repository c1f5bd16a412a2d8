"""The policy gradient of groups of completions: replay, GRPO's loss, divergence from a reference. SAGA's and ELVA's.

    L = −(1/|T|) Σ_g Σ_t [ A_g · ρ_t  −  β · KL_t ]        ρ_t = log π(y_t), or the clipped importance ratio

Where the gradient goes is up to the caller: to vision tokens that are leaves (SAGA), or to whatever in the backbone
needs one (ELVA: adapters and the row of [RET]).
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import VisionTokens
from fieldmark.policy.divergence import kl_k3, token_kl
from fieldmark.policy.grpo import grpo_loss, span_weights
from fieldmark.policy.replay import ReplayChunk, ReplayedStates, ReplayGroup, ReplayMethod, replay

KLEstimator = Literal["k3", "exact"]


@dataclass(frozen=True)
class ReplayConfig:
    """How completions are replayed with gradient."""

    method: ReplayMethod = "prefix"
    """prefix: shared prompt cache (fastest on CPU); packed: one masked row per prompt (allows checkpointing); unpacked:
    one row per completion (slow, obvious)."""
    prompts_per_chunk: int = 4
    """Prompts replayed at a time: bounds memory."""
    checkpoint: bool = False
    """Recompute the decoder's activations (packed only)."""


@dataclass(frozen=True, eq=False)
class PolicyGroup:
    """One prompt, its completions and what they earned: all that a policy gradient needs to know."""

    task: ReplayGroup
    """Prompt, pictures, and the G completions as drawn."""
    logprobs: tuple[Tensor, ...]
    """Per completion float32 (T,), at sampling, temperature 1."""
    advantages: Tensor
    """float32 (G,)."""
    spans: tuple[tuple[range, ...], ...] | None = None
    """Per completion the token positions that count; None counts all."""


@dataclass(frozen=True)
class Reference:
    """The policy that the trained one is held to, by β · KL."""

    policy: Callable[[], AbstractContextManager[object]]
    """Inside this context the backbone *is* the reference (the adapter is off): no second copy of the model."""
    weight: float
    """β."""
    estimator: KLEstimator = "k3"
    """See `policy.divergence`."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"the weight of the divergence must be a positive number, got {self.weight}")
        if self.estimator not in get_args(KLEstimator):
            raise ValueError(f"the divergence is one of {', '.join(get_args(KLEstimator))}, not {self.estimator!r}")


@dataclass(frozen=True)
class Backpropagated:
    """What a replay with gradient found."""

    loss: float
    """L without its divergence."""
    divergence: float
    """Mean KL per token, by the reference's estimator; 0 without reference."""
    replay_gap: float
    """Mean |log-prob of replay − log-prob at sampling|, both at temperature 1: float noise, else something is wrong."""
    clipped: float
    """Share of tokens whose importance ratio was cut; 0 without clip."""


def backpropagate(
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[PolicyGroup],
    num_tokens: int,
    how: ReplayConfig,
    *,
    temperature: float = 1.0,
    weight: float = 1.0,
    clip: float | tuple[float, float] | None = None,
    reference: Reference | None = None,
    attention_layer: int | None = None,
    on_chunk: Callable[[range, ReplayedStates], None] | None = None,
) -> Backpropagated:
    """Replay the groups and add the gradient of ``weight · L`` to whatever needs it.

    Args:
        vision: tokens of the pictures that the groups count: leaves, or detached.
        groups: contributing groups.
        num_tokens: |T| of the *whole* buffer, which may span several calls: losses of parts add up.
        temperature: of the replayed distribution (published: 1).
        clip: of the importance ratio to the log-probabilities at sampling, as ``grpo_loss``; None takes log π itself.
        reference: None leaves the divergence out.
        attention_layer: also capture this decoder layer's attention, for ``on_chunk``.
        on_chunk: called with the numbers of the groups of every chunk and their states, after its backward pass.

    Raises:
        ValueError: ``clip`` at another temperature than 1, or what ``replay`` and ``grpo_loss`` refuse.
    """
    if clip is not None and temperature != 1.0:
        raise ValueError(
            f"the importance ratio compares log-probabilities at temperature 1, the replay is at {temperature}: "
            "set the replay's temperature to 1, or clip to null"
        )
    loss = divergence = gap = clipped = 0.0
    count = 0
    for start in range(0, len(groups), how.prompts_per_chunk):
        chosen = groups[start : start + how.prompts_per_chunk]
        # First, because taking an adapter off and on must not come between a graph and its backward pass.
        anchor = None if reference is None else _as_reference(reference, backbone, vision, chosen, how, temperature)
        chunk = _replay(backbone, vision, chosen, how, temperature, attention_layer)
        rows = _rows(chunk, chosen)
        value = grpo_loss(
            rows.logprobs,
            rows.mask,
            rows.advantages,
            num_tokens,
            token_weights=rows.weights,
            old_logprobs=rows.sampled if clip is not None else None,
            clip=clip,
        )
        total = value
        if reference is not None and anchor is not None:
            kl = _divergence(reference.estimator, chunk, anchor, backbone, temperature).sum()
            total = value + reference.weight * kl / num_tokens
            divergence += float(kl.detach())
        (weight * total).backward()
        loss += float(value.detach())
        count += int(rows.mask.sum())
        gap += float((rows.logprobs.detach() - rows.sampled).abs()[rows.mask].sum())
        if clip is not None:
            clipped += _num_clipped(rows, clip)
        if on_chunk is not None:
            on_chunk(range(start, start + len(chosen)), chunk.states)
    tokens = max(1, count)
    return Backpropagated(loss, divergence / tokens, gap / tokens if temperature == 1.0 else 0.0, clipped / tokens)


@dataclass(frozen=True, eq=False)
class _Rows:
    """A chunk as rows, one per completion, padded: (R, T) and advantages (R,)."""

    logprobs: Tensor
    sampled: Tensor
    mask: Tensor
    weights: Tensor | None
    advantages: Tensor


def _rows(chunk: ReplayChunk, groups: Sequence[PolicyGroup]) -> _Rows:
    logprobs = pad_sequence([row for rows in chunk.logprobs for row in rows], batch_first=True)
    device, length = logprobs.device, logprobs.shape[1]
    lengths = torch.tensor([len(ids) for group in groups for ids in group.task.completions], device=device)
    spans = [group.spans for group in groups]
    counting = [row for one in spans if one is not None for row in one]
    return _Rows(
        logprobs,
        pad_sequence([row for group in groups for row in group.logprobs], batch_first=True).to(device),
        torch.arange(length, device=device) < lengths[:, None],
        span_weights(counting, length).to(device) if counting else None,
        torch.cat([group.advantages for group in groups]).to(device),
    )


def _replay(
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[PolicyGroup],
    how: ReplayConfig,
    temperature: float,
    attention_layer: int | None = None,
) -> ReplayChunk:
    """All groups in one chunk."""
    (chunk,) = replay(
        backbone,
        vision,
        [group.task for group in groups],
        method=how.method,
        temperature=temperature,
        attention_layer=attention_layer,
        prompts_per_chunk=len(groups),
        checkpoint=how.checkpoint,
    )
    return chunk


def _as_reference(
    reference: Reference,
    backbone: Backbone,
    vision: VisionTokens,
    groups: Sequence[PolicyGroup],
    how: ReplayConfig,
    temperature: float,
) -> ReplayChunk:
    with torch.no_grad(), reference.policy():
        return _replay(backbone, vision.detach(), groups, how, temperature)


def _divergence(
    estimator: KLEstimator, chunk: ReplayChunk, anchor: ReplayChunk, backbone: Backbone, temperature: float
) -> Tensor:
    """Per token of the chunk, (N,)."""
    if estimator == "exact":
        return token_kl(
            chunk.states.predicting, anchor.states.predicting, backbone.head.weight, temperature=temperature
        )
    ours, theirs = (torch.cat([row for rows in one.logprobs for row in rows]) for one in (chunk, anchor))
    return kl_k3(ours, theirs)


def _num_clipped(rows: _Rows, clip: float | tuple[float, float]) -> int:
    """Tokens where the bound took the ratio's place: raised too far for good, lowered too far for bad rollouts."""
    below, above = clip if isinstance(clip, tuple) else (clip, clip)
    ratio = (rows.logprobs.detach() - rows.sampled).exp()
    good, bad = (rows.advantages > 0)[:, None], (rows.advantages < 0)[:, None]
    return int((rows.mask & ((good & (ratio > 1 + above)) | (bad & (ratio < 1 - below)))).sum())
