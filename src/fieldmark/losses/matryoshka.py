"""Nested sizes: one embedding whose first d numbers are an embedding too (Matryoshka, arXiv 2205.13147)."""

from collections.abc import Callable, Mapping, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

Inner = Callable[[Tensor, Tensor], Tensor]


def check_dimensions(dimensions: Sequence[int], embedding_size: int) -> tuple[int, ...]:
    """The sizes in ascending order.

    Raises:
        ValueError: a size that is no whole number in [1, embedding_size], or one named twice.
    """
    chosen = tuple(dimensions)
    wrong = [d for d in chosen if isinstance(d, bool) or not isinstance(d, int) or not 1 <= d <= embedding_size]
    if wrong:
        raise ValueError(
            f"dimensions {list(chosen)} contain {wrong[0]!r}: the embedding has {embedding_size} numbers, "
            f"choose sizes from 1 to {embedding_size}"
        )
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"dimensions {list(chosen)} name a size twice: remove one")
    return tuple(sorted(chosen))


def truncate(embeddings: Tensor, size: int) -> Tensor:
    """First `size` numbers of each embedding (n, D_e), normalised again: (n, size), float32 or wider.

    Raises:
        ValueError: a size outside 1..D_e.
    """
    check_dimensions((size,), embeddings.shape[-1])
    wide = embeddings if embeddings.dtype.itemsize >= 4 else embeddings.float()
    return F.normalize(wide[..., :size], dim=-1)


class NestedLoss(nn.Module):
    """Mean of a metric loss over sizes of one embedding.

    Every size has a loss of its own, with own proxies if the loss has any: a proxy is a point of a space, and the
    spaces differ.
    """

    def __init__(self, losses: Mapping[int, Inner]) -> None:
        """losses: size → loss of embeddings (B, size) and labels (B,), in the order in which they are computed."""
        super().__init__()
        self.sizes = tuple(losses)
        self._functions: dict[int, Inner] = dict(losses)
        self.modules_by_size = nn.ModuleDict({str(d): f for d, f in losses.items() if isinstance(f, nn.Module)})

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D_e), labels (B,) -> scalar: the mean over the sizes."""
        total = embeddings.new_zeros(())
        for size, loss in self._functions.items():
            total = total + loss(truncate(embeddings, size), labels)
        return total / len(self._functions)
