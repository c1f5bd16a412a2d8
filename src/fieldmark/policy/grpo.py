"""GRPO: group-relative advantages and the token-normalised policy loss. Pure functions.

    A_g    = (r_g − mean r) / (std r + ε)
    L_GRPO = −(1/|T|) Σ_g Σ_t A_g · log π_θ(y_t | y_<t, S)        |T| = all sampled tokens of the buffer

SAGA (arXiv 2606.15134, Algorithm 1, blocks B and C) is on-policy with one update per rollout: no importance
ratio, no clipping, no reference model. Ratio and clip are options here, the divergence from a reference stands in
``policy.divergence``, since ELVA (arXiv 2606.20280) needs them.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

Baseline = Literal["group_mean", "leave_one_out"]
Scale = Literal["std", "none"]
ADVANTAGE_EPS = 1e-4
_MAX_LOG_RATIO = 20.0


def group_advantages(
    rewards: Tensor, *, eps: float = ADVANTAGE_EPS, baseline: Baseline = "group_mean", scale: Scale = "std"
) -> Tensor:
    """Advantages of one group of rollouts.

    Args:
        rewards: (G,) finite rewards.
        eps: added to the standard deviation. It matters only for rewards that differ by very little, and
            keeps their differences from being blown up. 1e-4 is TRL's value.
        baseline: ``group_mean``, or ``leave_one_out``: the mean of the *other* rollouts, which is unbiased
            (RLOO).
        scale: ``std`` divides by the sample standard deviation (denominator G − 1, as TRL, verl and DAPO do);
            ``none`` leaves the rewards' own scale (Dr. GRPO).

    Returns:
        (G,) float32; exactly zero if all rewards are equal.

    Raises:
        ValueError: for fewer than two rewards, a wrong shape, a non-finite reward, or an unknown option.
    """
    if baseline not in get_args(Baseline):
        raise ValueError(f"unknown baseline {baseline!r}; use one of {', '.join(get_args(Baseline))}")
    if scale not in get_args(Scale):
        raise ValueError(f"unknown scale {scale!r}; use one of {', '.join(get_args(Scale))}")
    if rewards.ndim != 1 or rewards.numel() < 2:
        raise ValueError(f"a group needs at least two rewards in one row, got shape {tuple(rewards.shape)}")
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError(f"rewards must be finite, got {rewards.tolist()}")
    values = rewards.double()
    if bool((values == values[0]).all()):  # rounding of the mean must not make a gradient out of nothing
        return torch.zeros_like(rewards, dtype=torch.float32)
    size = values.numel()
    centred = values - values.mean()
    if baseline == "leave_one_out":  # r_g − mean of the others
        centred = centred * (size / (size - 1))
    if scale == "std":
        centred = centred / (values.std() + eps)
    return centred.float()


def grpo_loss(
    logprobs: Tensor,
    mask: Tensor,
    advantages: Tensor,
    num_tokens: int,
    *,
    token_weights: Tensor | None = None,
    old_logprobs: Tensor | None = None,
    clip: float | tuple[float, float] | None = None,
) -> Tensor:
    """Token-normalised policy loss of some rows of a buffer.

    The denominator belongs to the *whole* buffer and is passed in, so losses of micro-batches add up to the
    buffer's.

    Args:
        logprobs: (R, T) log π_θ of the sampled tokens, with gradient. Padding may hold anything, NaN
            included.
        mask: (R, T) bool, true for sampled tokens.
        advantages: (R,).
        num_tokens: |T|, number of sampled tokens in the whole buffer (or the sum of all token weights).
        token_weights: (R, T) weights of the tokens, for instance ``span_weights``; None weighs every token
            with 1.
        old_logprobs: (R, T) log-probabilities at sampling time. Given, the loss uses the importance ratio
            ``exp(logprobs − old)`` in place of log π, whose gradient at ratio 1 is the same.
        clip: PPO's ratio clip, one number or (below, above) as in DAPO; needs ``old_logprobs``.

    Returns:
        Scalar; zero with a gradient of zeros if no token counts. Tokens with advantage or weight 0 take no
        part.

    Raises:
        ValueError: for wrong shapes, ``num_tokens`` < 1, ``clip`` without ``old_logprobs``, or a token that
            counts and whose log-probability is not finite.
    """
    if logprobs.ndim != 2:
        raise ValueError(f"logprobs must be (R, T), got shape {tuple(logprobs.shape)}")
    for name, tensor in (("mask", mask), ("token_weights", token_weights), ("old_logprobs", old_logprobs)):
        if tensor is not None and tensor.shape != logprobs.shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}, logprobs {tuple(logprobs.shape)}")
    if advantages.shape != logprobs.shape[:1]:
        raise ValueError(f"advantages have shape {tuple(advantages.shape)} for {logprobs.shape[0]} rows")
    if num_tokens < 1:
        raise ValueError(f"num_tokens is the number of tokens of the whole buffer and at least 1, got {num_tokens}")
    if clip is not None and old_logprobs is None:
        raise ValueError("clip needs old_logprobs: without them there is no ratio to clip")
    weights = advantages.detach()[:, None] * (1.0 if token_weights is None else token_weights.detach())
    counts = mask.bool() & (weights != 0)
    weights = torch.where(counts, weights, 0.0)
    values = _finite(logprobs, counts, "logprobs")
    if old_logprobs is None:
        return -(weights * values).sum() / num_tokens
    log_ratio = values - _finite(old_logprobs.detach(), counts, "old_logprobs")
    # the bound keeps exp finite; an infinite ratio has the gradient 0 · ∞ where the clip is chosen
    ratio = log_ratio.clamp(max=_MAX_LOG_RATIO).exp()
    objective = weights * ratio
    if clip is not None:
        below, above = (clip, clip) if isinstance(clip, int | float) else clip
        if not (0 < below <= 1 and 0 < above < math.inf):
            raise ValueError(f"clip must lie in (0, 1] below and be positive above, got {clip}")
        objective = torch.minimum(objective, weights * ratio.clamp(1 - below, 1 + above))
    return -torch.where(counts, objective, 0.0).sum() / num_tokens


def span_weights(spans: Sequence[Sequence[range]], length: int) -> Tensor:
    """Token weights that are 1 inside the given ranges and 0 elsewhere.

    Args:
        spans: for each row, ranges of token positions (such as ``Rollout.decision_tokens``).
        length: T.

    Returns:
        (R, T) float32; its sum is the ``num_tokens`` to go with it.

    Raises:
        ValueError: if a range leaves the row.
    """
    weights = torch.zeros(len(spans), length)
    for row, ranges in enumerate(spans):
        for span in ranges:
            if span.start < 0 or span.stop > length:
                raise ValueError(f"token range {span} of row {row} does not fit into {length} tokens")
            weights[row, span.start : span.stop] = 1.0
    return weights


def _finite(values: Tensor, counts: Tensor, name: str) -> Tensor:
    """Values where they count, 0 elsewhere, with no gradient (not even NaN) from there."""
    chosen = torch.where(counts, values, 0.0)
    if not bool(torch.isfinite(chosen).all()):
        row, token = torch.nonzero(~torch.isfinite(chosen))[0].tolist()
        raise ValueError(
            f"{name} of row {row}, token {token} is {chosen[row, token].item()}; the model's logits overflowed"
        )
    return chosen
