"""Several processes that share a batch: one loss over all their embeddings, one gradient.

Each process embeds its own part of the batch, sees everyone's embeddings (`gather_rows`), and computes the loss of its
own queries over the size of the *whole* batch. The processes' losses then add up to the loss of the batch, and so do
their gradients (`sum_gradients`). With one process each of these is the identity.

Collectives wait for each other: every process must call them in the same order. Started by torchrun, or any program
that sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT.
"""

import hashlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

_Value = TypeVar("_Value")
_BUCKET = 2**24
"""Numbers that are summed across processes at a time (64 MiB of float32)."""
_SHOWN = 200


@dataclass(frozen=True)
class World:
    """Which process this is, of how many."""

    rank: int
    size: int

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def share(self, values: Sequence[_Value]) -> Sequence[_Value]:
        """This process's part: every ``size``-th, from its rank on."""
        return values[self.rank :: self.size]


def world() -> World:
    """The processes at hand; one, unless `process_group` or the caller has joined several."""
    if dist.is_available() and dist.is_initialized():
        return World(dist.get_rank(), dist.get_world_size())
    return World(0, 1)


@contextmanager
def process_group(device: str) -> Iterator[World]:
    """Joins the processes that a launcher has started, for the block: nccl for CUDA devices, else gloo.

    Of a machine's CUDA devices, "cuda" is then each process's own (LOCAL_RANK).

    Without a launcher (no WORLD_SIZE), or in a group that the caller has joined, nothing happens.

    Raises:
        ValueError: the launcher's variables are incomplete.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1 or (dist.is_available() and dist.is_initialized()):
        yield world()
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ValueError(f"WORLD_SIZE is {size}, but {', '.join(missing)} not set: start with torchrun")
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    dist.init_process_group("nccl" if cuda else "gloo")
    try:
        yield world()
    finally:
        dist.destroy_process_group()


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, (sum of n, ...), those of rank 0 first. Differentiable.

    Processes may have different numbers of rows, of one width and dtype. The gradient of a process's rows is the sum
    of what every process's loss says about them. All processes call it, and all or none go backward through it.
    """
    if world().size == 1:
        return rows
    return _GatherRows.apply(rows)  # type: ignore[no-any-return,no-untyped-call]


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        here = world()
        own = torch.tensor([len(rows)], device=rows.device)
        lengths = [torch.zeros_like(own) for _ in range(here.size)]
        dist.all_gather(lengths, own)
        ctx.lengths = [int(n) for n in lengths]
        # Padded to one length: not every backend gathers different ones.
        padded = rows.new_zeros(max(ctx.lengths), *rows.shape[1:])
        padded[: len(rows)] = rows.detach()
        parts = [torch.empty_like(padded) for _ in range(here.size)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:n] for part, n in zip(parts, ctx.lengths, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        return total.split(ctx.lengths)[world().rank]


def sum_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Every process's gradients become the sum of all processes', in place.

    A parameter that had no gradient in any process keeps none. Call it after backward, before clipping.

    Args:
        parameters: in the same order in every process; those that need no gradient are passed over.
    """
    if world().size == 1:
        return
    trained = [p for p in parameters if p.requires_grad]
    if not trained:
        return
    used = torch.tensor([p.grad is not None for p in trained], dtype=torch.int32, device=trained[0].device)
    dist.all_reduce(used, dist.ReduceOp.MAX)
    for p, anywhere in zip(trained, used.tolist(), strict=True):
        if anywhere and p.grad is None:
            p.grad = torch.zeros_like(p)
    bucket: list[Tensor] = []
    gradients = [p.grad for p in trained if p.grad is not None]
    for number, gradient in enumerate(gradients):
        bucket.append(gradient)
        following = gradients[number + 1] if number + 1 < len(gradients) else None
        full = sum(g.numel() for g in bucket) >= _BUCKET
        if following is None or full or following.dtype != gradient.dtype:
            flat = torch.cat([g.flatten() for g in bucket])
            dist.all_reduce(flat)
            for g, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                g.copy_(summed.view_as(g))
            bucket = []


def sum_numbers(*numbers: float) -> tuple[float, ...]:
    """Each number summed over the processes."""
    if world().size == 1:
        return numbers
    total = torch.tensor(numbers, dtype=torch.float64, device=_collective_device())
    dist.all_reduce(total)
    return tuple(total.tolist())


def require_same(what: str, value: str) -> None:
    """All processes must have been given the same thing.

    Raises:
        ValueError: in every process, if one has another value.
    """
    if world().size == 1:
        return
    # As bytes of one length: torch's way of sending objects would pickle them. The digest covers what is cut off.
    content = value.encode()
    row = hashlib.sha256(content).digest() + content[:_SHOWN].ljust(_SHOWN, b"\0")
    gathered = gather_rows(torch.frombuffer(bytearray(row), dtype=torch.uint8)[None].to(_collective_device())).cpu()
    rows = [bytes(one.tolist()) for one in gathered]
    if len(set(rows)) > 1:
        texts = [one[32:].rstrip(b"\0").decode(errors="replace") for one in rows]
        raise ValueError(
            f"the processes differ in {what}: {', '.join(f'{text!r} in process {i}' for i, text in enumerate(texts))}; "
            "start all of them with the same options, files and versions"
        )


def _collective_device() -> torch.device:
    """Where tensors must lie to be sent: the current accelerator for nccl."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")
