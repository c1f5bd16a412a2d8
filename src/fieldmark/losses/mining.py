"""Miners: which pairs or triplets of a batch a metric loss is given, chosen by pytorch-metric-learning."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldmark.data.seeds import seed_of

MinerName = Literal["none", "multi_similarity", "distance_weighted"]
MINERS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "multi_similarity": ("MultiSimilarityMiner", ("epsilon",)),
    "distance_weighted": ("DistanceWeightedMiner", ("cutoff", "nonzero_loss_cutoff")),
}
"""Name → the library's class and those of its options that may be set."""
TAKES_PAIRS = "indices_tuple"
"""The parameter by which that library's losses are given pairs (a, p, a', n) or triplets (a, p, n)."""


class MinedLoss(nn.Module):
    """A pair loss on the pairs that a miner chooses among a batch's embeddings.

    Chance, for the miners that draw, comes from ``generator`` at construction and from the number of batches seen. That
    number is a buffer: a run that is resumed from its state_dict draws what an unbroken one does. Torch's global
    generator is left as it was.
    """

    batches: Tensor

    def __init__(self, loss: nn.Module, miner: nn.Module, generator: torch.Generator) -> None:
        super().__init__()
        self.loss, self.miner = loss, miner
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.seed = int(torch.randint(2**31, (), generator=generator))

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        """embeddings (B, D_e), labels (B,) -> scalar; zero, with a graph, where the miner finds nothing."""
        device = embeddings.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed_of(self.seed, int(self.batches)))
            chosen = self.miner(embeddings, labels)  # runs without gradient
        self.batches += 1
        return self.loss(embeddings, labels, chosen)


def build_miner(name: str, options: Mapping[str, Any]) -> nn.Module:
    """The named miner.

    multi_similarity (arXiv 1904.06627, equations 11 and 12): negatives more similar than the least similar positive
    less ``epsilon`` (0.1), positives less similar than the most similar negative plus ``epsilon``.
    distance_weighted (arXiv 1706.07567, section 4): a triplet for each anchor and positive, its negative drawn so that
    distances from ``cutoff`` (0.5) to ``nonzero_loss_cutoff`` (1.4) are equally likely; embeddings need more than three
    numbers.

    Raises:
        ValueError: an unknown name or option.
        ModuleNotFoundError: pytorch-metric-learning is not installed.
    """
    if name not in MINERS:
        raise ValueError(f"unknown miner {name!r}: choose none, {' or '.join(MINERS)}")
    kind, known = MINERS[name]
    for option in options:
        if option not in known:
            raise ValueError(f"miner {name!r} has no option {option!r}. Its options: {', '.join(known)}")
    try:
        library = importlib.import_module("pytorch_metric_learning.miners")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"miners come from pytorch-metric-learning, which cannot be imported ({error.name} is missing): "
            "pip install pytorch-metric-learning, or set metric.miner to none"
        ) from error
    return getattr(library, kind)(**options)  # type: ignore[no-any-return]


def with_miner(
    name: str,
    loss: Callable[[Tensor, Tensor], Tensor],
    miner: str,
    options: Mapping[str, Any],
    generator: torch.Generator,
) -> MinedLoss:
    """The loss with a miner in front.

    Raises:
        ValueError: a loss that takes no pairs, or what `build_miner` refuses.
    """
    built = build_miner(miner, options)
    takes = isinstance(loss, nn.Module) and TAKES_PAIRS in inspect.signature(loss.forward).parameters
    if not takes:
        raise ValueError(
            f"metric loss {name!r} takes no mined pairs: choose multi_similarity, infonce or supcon "
            f"(or a module of your own whose forward has {TAKES_PAIRS}), or set metric.miner to none"
        )
    return MinedLoss(loss, built, generator)  # type: ignore[arg-type]
