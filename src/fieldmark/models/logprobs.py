"""Log-probabilities of given tokens without ever holding all logits.

One token's logits over a vocabulary of 151,936 take 0.6 MB in float32, and a replay has tens of thousands of
tokens.
"""

from typing import Any

import torch
from torch import Tensor

DEFAULT_CHUNK_BYTES = 64 * 2**20


def token_logprobs(
    hidden: Tensor,
    targets: Tensor,
    weight: Tensor,
    *,
    temperature: float = 1.0,
    chunk_size: int | None = None,
) -> Tensor:
    """log softmax(hidden weight^T / temperature) at `targets`: float32 (n,).

    hidden: (n, D). targets: int64 (n,). weight: (V, D), the output head's.
    chunk_size: rows whose logits exist at one time; default 64 MB worth of them.
    With a frozen head (weight.requires_grad False) the backward pass needs neither logits nor a weight
    gradient; a head that is trained falls back to plain autograd and its memory.
    """
    if hidden.dim() != 2 or targets.shape != hidden.shape[:1]:
        raise ValueError(f"need hidden (n, D) and targets (n,), got {tuple(hidden.shape)} and {tuple(targets.shape)}")
    if temperature <= 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    if chunk_size is None:
        chunk_size = max(1, DEFAULT_CHUNK_BYTES // (4 * weight.shape[0]))
    if weight.requires_grad and torch.is_grad_enabled():
        logits = torch.nn.functional.linear(hidden, weight).float() / temperature
        return logits.log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    return _FrozenHeadLogprobs.apply(hidden, targets, weight, temperature, chunk_size)


class _FrozenHeadLogprobs(torch.autograd.Function):
    """d log p(y) / d h = (W[y] - sum_v p(v) W[v]) / temperature does not depend on what comes from above.

    So it is computed in the forward pass, while the chunk's probabilities are at hand, and kept as (n, D):
    two products with W in all, where recomputing the logits in the backward pass takes three.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, targets: Tensor, weight: Tensor, temperature: float, chunk_size: int
    ) -> Tensor:
        logprobs = torch.empty(len(hidden), dtype=torch.float32, device=hidden.device)
        wanted = ctx.needs_input_grad[0]
        slope = torch.empty_like(hidden) if wanted else None
        for start in range(0, len(hidden), chunk_size):
            rows = slice(start, start + chunk_size)
            logits = (hidden[rows] @ weight.T).float()
            if temperature != 1.0:
                logits = logits.div_(temperature)
            normaliser = logits.logsumexp(-1, keepdim=True)
            logprobs[rows] = (logits.gather(-1, targets[rows, None]) - normaliser)[:, 0]
            if slope is not None:
                expected = logits.sub_(normaliser).exp_().to(weight.dtype) @ weight
                slope[rows] = (weight.index_select(0, targets[rows]) - expected).div_(temperature)
        if slope is not None:
            ctx.save_for_backward(slope)
        return logprobs

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return slope * gradients[0][:, None].to(slope.dtype), None, None, None, None
