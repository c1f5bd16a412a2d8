"""From patch tokens to one embedding: attention (SAGA), mean and max."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

PoolerKind = Literal["attention", "mean", "max"]


@dataclass(frozen=True)
class Pooled:
    """embedding: (n, D_e), L2-normalised. For the attention pooler also its distribution over patches:
    attention (n, N), zero on padding, and log_attention (n, N), -inf on padding; None for the others.
    """

    embedding: Tensor
    attention: Tensor | None
    log_attention: Tensor | None


class Pooler(nn.Module):
    """Pools patch tokens X (N, D), arXiv 2606.15134 section 3:

        attention:  β = softmax(q W_k Xᵀ / √D),  z = normalise(W_o (β X))
        mean, max:  z = normalise(W_o pool(X)),  without W_o if embedding_size is None

    Start: W_k is the identity and q small (entries of size 0.02), so β is close to uniform, while the
    gradient of both is not zero (q = 0 would leave W_k without any). W_o has orthonormal rows (columns, if
    D_e > D), and is the identity when D_e = D: untrained, every pooler is mean pooling (max for "max"),
    rotated and cut.
    """

    def __init__(
        self,
        kind: PoolerKind,
        width: int,
        embedding_size: int | None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if kind not in ("attention", "mean", "max"):
            raise ValueError(f"pooler {kind!r} is not one of 'attention', 'mean', 'max'")
        if kind == "attention" and embedding_size is None:
            embedding_size = width
        self.kind: PoolerKind = kind
        self.width = width
        self.embedding_size = width if embedding_size is None else embedding_size
        self.projection: nn.Linear | None = None
        if embedding_size is not None:
            self.projection = nn.utils.skip_init(nn.Linear, width, embedding_size, bias=False)
            with torch.no_grad():
                if embedding_size == width:
                    nn.init.eye_(self.projection.weight)
                else:
                    nn.init.orthogonal_(self.projection.weight, generator=generator)
        if kind == "attention":
            self.query = nn.Parameter(torch.randn(width, generator=generator) * 0.02)
            self.key = nn.utils.skip_init(nn.Linear, width, width, bias=False)
            nn.init.eye_(self.key.weight)

    @property
    def has_projection(self) -> bool:
        return self.projection is not None

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Pooled:
        """tokens: (n, N, D), mask: bool (n, N), True on real tokens (None: all). Computed in float32."""
        if tokens.dim() != 3 or tokens.shape[-1] != self.width:
            raise ValueError(f"need tokens (n, N, {self.width}), got {tuple(tokens.shape)}")
        tokens = tokens.float()
        attention = log_attention = None
        if self.kind == "attention":
            # q (W_k x) = (W_kᵀ q) x: one vector, instead of projecting every patch
            scores = tokens @ (self.query @ self.key.weight) / math.sqrt(self.width)
            if mask is not None:
                scores = scores.masked_fill(~mask, float("-inf"))
            log_attention = scores.log_softmax(-1)
            attention = log_attention.exp()
            pooled = torch.einsum("nk,nkd->nd", attention, tokens)
        elif self.kind == "mean":
            pooled = (
                tokens.mean(1)
                if mask is None
                else tokens.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)
            )
        else:
            pooled = (tokens if mask is None else tokens.masked_fill(~mask[..., None], float("-inf"))).amax(1)
        if self.projection is not None:
            pooled = self.projection(pooled)
        return Pooled(nn.functional.normalize(pooled, dim=-1), attention, log_attention)


def build_pooler(
    kind: PoolerKind, width: int, embedding_size: int | None = None, generator: torch.Generator | None = None
) -> Pooler:
    """A `Pooler`. embedding_size None: no projection for "mean" and "max", D for "attention"."""
    return Pooler(kind, width, embedding_size, generator)
