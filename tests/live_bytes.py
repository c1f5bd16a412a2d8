"""Counts the bytes of tensors that are alive, storage by storage, and their peak by phase: not the process's size.

Every operation, also those of the backward pass, reports what it returned; a storage counts from its first appearance
until nothing holds it any more. What existed before (weights) does not count, nor does a kernel's own scratch memory.
"""

import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """``live`` and ``peak`` in bytes; ``phases``: name -> highest `live` while that phase ran."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.phases: dict[str, int] = {}
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in tree_leaves((args, kwargs or {})):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor, 0)
        result = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._meet(tensor, None)
        return result

    def _meet(self, tensor: torch.Tensor, size: int | None) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._known:
            return
        size = storage.nbytes() if size is None else size
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._leave, key, size)

    def _leave(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.live -= size

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        before, self.peak = self.peak, self.live
        try:
            yield
        finally:
            self.phases[name] = max(self.phases.get(name, 0), self.peak)
            self.peak = max(before, self.peak)
