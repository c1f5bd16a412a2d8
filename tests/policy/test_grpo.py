"""GRPO against loops, its invariances, and that it is never NaN."""

import math

import pytest
import torch
from torch.testing import assert_close

from fieldmark.policy.grpo import group_advantages, grpo_loss, span_weights


def buffer(rows: int = 6, length: int = 9, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logprobs = -torch.rand(rows, length, generator=generator) * 4
    lengths = torch.randint(1, length + 1, (rows,), generator=generator)
    mask = torch.arange(length) < lengths[:, None]
    return logprobs.requires_grad_(), mask, torch.randn(rows, generator=generator)


def test_advantages_by_hand() -> None:
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0])
    values = rewards.tolist()
    mean = sum(values) / 8
    std = math.sqrt(sum((r - mean) ** 2 for r in values) / 7)
    expected = torch.tensor([(r - mean) / (std + 0.01) for r in values])
    assert_close(group_advantages(rewards, eps=0.01), expected)
    loo = torch.tensor([r - (sum(values) - r) / 7 for r in values])
    assert_close(group_advantages(rewards, baseline="leave_one_out", scale="none"), loo)
    assert_close(group_advantages(rewards, scale="none"), rewards - mean)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, 1e8])
@pytest.mark.parametrize("size", [2, 3, 7, 8])
@pytest.mark.parametrize("baseline", ["group_mean", "leave_one_out"])
@pytest.mark.parametrize("scale", ["std", "none"])
def test_equal_rewards_give_exactly_zero(value: float, size: int, baseline: str, scale: str) -> None:
    rewards = torch.full((size,), value)
    advantages = group_advantages(rewards, baseline=baseline, scale=scale)  # type: ignore[arg-type]
    assert advantages.tolist() == [0.0] * size
    logprobs = torch.randn(size, 5, requires_grad=True)
    grpo_loss(logprobs, torch.ones(size, 5, dtype=torch.bool), advantages, 5 * size).backward()
    assert logprobs.grad is not None
    assert logprobs.grad.abs().max() == 0


def test_tiny_differences_are_not_blown_up() -> None:
    noise = group_advantages(torch.tensor([0.5, 0.5 + 1e-6, 0.5, 0.5]))
    assert noise.abs().max() < 0.02


def test_advantages_refuse() -> None:
    for wrong in (torch.tensor([1.0]), torch.zeros(2, 2), torch.tensor([1.0, math.nan])):
        with pytest.raises(ValueError, match="rewards"):
            group_advantages(wrong)
    with pytest.raises(ValueError, match="baseline"):
        group_advantages(torch.ones(2), baseline="median")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="scale"):
        group_advantages(torch.ones(2), scale="range")  # type: ignore[arg-type]


def loop_loss(logprobs, mask, advantages, num_tokens, weights=None, old=None, clip=None):  # type: ignore[no-untyped-def]
    total = torch.zeros(())
    for g in range(logprobs.shape[0]):
        for t in range(logprobs.shape[1]):
            if not mask[g, t]:
                continue
            a = advantages[g] * (1 if weights is None else weights[g, t])
            if old is None:
                total = total + a * logprobs[g, t]
                continue
            ratio = torch.exp(logprobs[g, t] - old[g, t])
            options = [a * ratio]
            if clip is not None:
                options.append(a * ratio.clamp(1 - clip[0], 1 + clip[1]))
            total = total + torch.stack(options).min()
    return -total / num_tokens


@pytest.mark.parametrize("variant", ["plain", "weights", "ratio", "clip", "clip_weights"])
def test_loss_and_gradient_equal_the_loop(variant: str) -> None:
    logprobs, mask, advantages = buffer()
    generator = torch.Generator().manual_seed(1)
    weights = torch.rand(mask.shape, generator=generator).round() if "weights" in variant else None
    noise = torch.randn(mask.shape, generator=generator) * 0.5
    old = (logprobs + noise).detach() if variant in ("ratio", "clip", "clip_weights") else None
    clip = (0.2, 0.28) if "clip" in variant else None
    count = int(mask.sum())
    fast = grpo_loss(logprobs, mask, advantages, count, token_weights=weights, old_logprobs=old, clip=clip)
    (fast_gradient,) = torch.autograd.grad(fast, logprobs)
    slow = loop_loss(logprobs, mask, advantages, count, weights, old, clip)
    (slow_gradient,) = torch.autograd.grad(slow, logprobs)
    assert_close(fast, slow)
    assert_close(fast_gradient, slow_gradient)
    assert fast_gradient.abs().max() > 0


def test_on_policy_ratio_has_the_same_gradient() -> None:
    logprobs, mask, advantages = buffer()
    count = int(mask.sum())
    plain = torch.autograd.grad(grpo_loss(logprobs, mask, advantages, count), logprobs)[0]
    ratio = grpo_loss(logprobs, mask, advantages, count, old_logprobs=logprobs.detach(), clip=0.2)
    assert_close(torch.autograd.grad(ratio, logprobs)[0], plain)


@pytest.mark.parametrize("chunk", [1, 2, 4, 6])
def test_micro_batches_add_up(chunk: int) -> None:
    logprobs, mask, advantages = buffer()
    count = int(mask.sum())
    whole = grpo_loss(logprobs, mask, advantages, count)
    (gradient,) = torch.autograd.grad(whole, logprobs)
    total = 0.0
    for rows in torch.arange(6).split(chunk):
        width = int(mask[rows].sum(1).max())  # another padding, too
        part = grpo_loss(logprobs[rows, :width], mask[rows, :width], advantages[rows], count)
        part.backward()
        total += part.item()
    assert total == pytest.approx(whole.item(), abs=1e-6)
    assert_close(logprobs.grad, gradient)


def test_padding_and_silent_rows_may_hold_anything() -> None:
    logprobs, mask, advantages = buffer()
    advantages[2] = 0
    count = int(mask.sum())
    clean = torch.autograd.grad(grpo_loss(logprobs, mask, advantages, count), logprobs)[0]
    dirty = logprobs.detach().clone()
    dirty[~mask] = math.nan
    dirty[2] = -math.inf
    dirty.requires_grad_()
    for old in (None, dirty.detach()):
        loss = grpo_loss(dirty, mask, advantages, count, old_logprobs=old, clip=None if old is None else 0.2)
        (gradient,) = torch.autograd.grad(loss, dirty)
        assert torch.isfinite(loss)
        assert_close(gradient, clean)


def test_far_off_policy_stays_finite() -> None:
    logprobs = torch.zeros(2, 3, requires_grad=True)
    old = torch.full((2, 3), -500.0)
    mask = torch.ones(2, 3, dtype=torch.bool)
    loss = grpo_loss(logprobs, mask, torch.tensor([1.0, -1.0]), 6, old_logprobs=old, clip=0.2)
    loss.backward()
    assert torch.isfinite(loss)
    assert logprobs.grad is not None
    assert torch.isfinite(logprobs.grad).all()


def test_loss_refuses() -> None:
    logprobs, mask, advantages = buffer()
    with pytest.raises(ValueError, match="num_tokens"):
        grpo_loss(logprobs, mask, advantages, 0)
    with pytest.raises(ValueError, match="mask has shape"):
        grpo_loss(logprobs, mask[:, 1:], advantages, 5)
    with pytest.raises(ValueError, match="advantages"):
        grpo_loss(logprobs, mask, advantages[1:], 5)
    with pytest.raises(ValueError, match="needs old_logprobs"):
        grpo_loss(logprobs, mask, advantages, 5, clip=0.2)
    with pytest.raises(ValueError, match="clip must"):
        grpo_loss(logprobs, mask, advantages, 5, clip=-0.2, old_logprobs=logprobs.detach())
    bad = logprobs.detach().clone()
    bad[3, 0] = math.nan
    with pytest.raises(ValueError, match="row 3, token 0 is nan"):
        grpo_loss(bad, mask, advantages, 5)


def test_nothing_counts() -> None:
    logprobs = torch.randn(2, 3, requires_grad=True)
    loss = grpo_loss(logprobs, torch.zeros(2, 3, dtype=torch.bool), torch.ones(2), 7)
    loss.backward()
    assert loss.item() == 0
    assert logprobs.grad is not None
    assert logprobs.grad.abs().max() == 0


def test_span_weights() -> None:
    weights = span_weights([[range(1, 3), range(4, 5)], [range(0), range(2, 4)]], 5)
    assert weights.tolist() == [[0, 1, 1, 0, 1], [0, 0, 1, 1, 0]]
    with pytest.raises(ValueError, match="does not fit"):
        span_weights([[range(3, 6)]], 5)
