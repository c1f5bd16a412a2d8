"""How far the policy has gone from its reference: KL(π ‖ π_ref) at each sampled token, estimated or exact.

    k3      exp(d) − d − 1,  d = log π_ref(y_t) − log π(y_t)         one number a token, from two log-probabilities
    exact   Σ_v π(v) (log π(v) − log π_ref(v))                       over the whole vocabulary

Their values agree: over tokens drawn from π, the mean of k3 is the exact divergence, with noise. **Their gradients do
not.** As a loss, k3 has in expectation the gradient of the *reverse* divergence KL(π_ref ‖ π):

    E_π[∇ k3] = E_π[(1 − π_ref/π) ∇ log π] = −Σ_v π_ref(v) ∇ log π(v) = ∇ KL(π_ref ‖ π)

Both vanish where the policies agree and are the same to first order around it, so with β as in GRPO they differ little;
far away k3 pulls harder where the policy has forgotten what the reference would say. k3 is what GRPO (and ELVA) use.
"""

from typing import Any

import torch
from torch import Tensor

from fieldmark.models.logprobs import DEFAULT_CHUNK_BYTES

_MAX_LOG_RATIO = 20.0


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """Estimate of KL(π ‖ π_ref) from tokens sampled by π, same shape as given: ``exp(d) − d − 1``, d = log
    π_ref − log π.

    Unbiased and never negative (Schulman's k3); its mean over samples is the divergence. d is bounded at 20.
    """
    difference = (reference_logprobs - logprobs).clamp(max=_MAX_LOG_RATIO)
    return torch.expm1(difference) - difference


def kl_exact(log_probabilities: Tensor, reference_log_probabilities: Tensor) -> Tensor:
    """KL(π ‖ π_ref) of whole next-token distributions: (..., V) normalised log-probabilities → (...).

    Tokens that π gives probability 0 (−∞) add nothing.
    """
    possible = torch.isfinite(log_probabilities)
    logp = torch.where(possible, log_probabilities, 0.0)
    difference = torch.where(possible, logp - torch.where(possible, reference_log_probabilities, 0.0), 0.0)
    return (torch.where(possible, logp.exp(), 0.0) * difference).sum(-1)


def token_kl(
    hidden: Tensor,
    reference_hidden: Tensor,
    weight: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """`kl_exact` of the distributions that hidden states predict, without ever holding all logits: float32 (n,).

    Args:
        hidden: (n, D), of the policy, with gradient.
        reference_hidden: (n, D), of the reference; taken as constant.
        weight: (V, D), the output head of both. It must be frozen.
        temperature: of both distributions.
        chunk_size: rows whose logits exist at one time; default 64 MB worth of both.

    Raises:
        ValueError: shapes that do not fit, a temperature that is not positive, or a head that is trained.
    """
    if hidden.dim() != 2 or reference_hidden.shape != hidden.shape:
        raise ValueError(
            f"need hidden (n, D) of policy and reference, got {tuple(hidden.shape)} and {tuple(reference_hidden.shape)}"
        )
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if weight.requires_grad:
        raise ValueError("the exact divergence needs a frozen output head: freeze it, or take the k3 estimator")
    if chunk_size is None:
        chunk_size = max(1, DEFAULT_CHUNK_BYTES // (8 * weight.shape[0]))
    return _FrozenHeadKL.apply(hidden, reference_hidden.detach(), weight, temperature, chunk_size)  # type: ignore[no-any-return,no-untyped-call]


class _FrozenHeadKL(torch.autograd.Function):
    """d KL / d h = Σ_v π(v) (log π(v) − log π_ref(v) − KL) W[v] / temperature, taken while the logits are at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, reference: Tensor, weight: Tensor, temperature: float, chunk_size: int
    ) -> Tensor:
        divergence = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        slope = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        for start in range(0, len(hidden), chunk_size):
            rows = slice(start, start + chunk_size)
            logp, logq = (
                ((states[rows] @ weight.T).float() / temperature).log_softmax(-1) for states in (hidden, reference)
            )
            divergence[rows] = kl_exact(logp, logq)
            if slope is not None:
                pull = logp.exp() * (logp - logq - divergence[rows, None])
                slope[rows] = (pull.to(weight.dtype) @ weight).div_(temperature)
        if slope is not None:
            ctx.save_for_backward(slope)
        return divergence

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * gradients[0][:, None].to(slope.dtype), None, None, None, None
