"""The pictures of items, decoded and resized ahead of the step by the processes that serve labelled collections."""

import weakref
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.decode_workers import DecodeWorkers
from fieldmark.data.multimodal.item_pictures import ItemPictures
from fieldmark.data.reader import PictureReader


class ItemLoader:
    """Loads the pictures of batches of items; items without one give None.

    Args:
        pictures: the items.
        image_size: S, the side that pictures are resized to, whole (bicubic, antialiased).
        workers: processes that decode; 0 decodes here. They start with the first picture that
            `iterate` needs and live until `close`.
        prefetch: batches that the workers are ahead, at least 1.
        cache_bytes: memory for decoded pictures, kept if one of each item would fit; 0 keeps none.

    Raises:
        ValueError: a number is out of range.
    """

    def __init__(
        self, pictures: ItemPictures, image_size: int, *, workers: int = 0, prefetch: int = 2, cache_bytes: int = 0
    ) -> None:
        for name, value, least in (("image_size", image_size, 1), ("workers", workers, 0), ("prefetch", prefetch, 1)):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self._pictures = pictures
        self._reader = PictureReader(pictures, image_size, None, 0, cache_bytes)
        self._num_workers, self._prefetch = workers, prefetch
        self._workers: DecodeWorkers | None = None

    def load(self, indices: Sequence[int]) -> list[Tensor | None]:
        """Pictures of the items `indices`, decoded here: uint8 (S, S, 3) each, or None.

        Raises:
            BadImage: a picture cannot be decoded; it is named.
        """
        return [
            torch.from_numpy(np.array(self._reader.read(i, 0, 0))) if has else None for i, has in self._has(indices)
        ]

    def iterate(self, batches: Iterable[Sequence[int]]) -> Iterator[list[Tensor | None]]:
        """The batches in order, as `load` gives them; with workers, decoded ahead. May be left early.

        Raises:
            BadImage: when the batch with the bad picture is due.
            RuntimeError: a worker died.
        """
        if self._num_workers == 0:
            yield from map(self.load, batches)
            return
        ahead: deque[tuple[int | None, list[bool]]] = deque()
        source = iter(batches)

        def fill() -> None:
            while len(ahead) < self._prefetch and (indices := next(source, None)) is not None:
                marked = self._has(indices)
                wanted = [i for i, has in marked if has]
                ahead.append((self._started().submit(0, wanted) if wanted else None, [has for _, has in marked]))

        try:
            fill()
            while ahead:
                ticket, has = ahead.popleft()
                images = iter(self._started().result(ticket) if ticket is not None else ())
                fill()
                yield [torch.from_numpy(next(images)) if one else None for one in has]
        finally:
            for ticket, _ in ahead:
                if ticket is not None and self._workers is not None:
                    self._workers.discard(ticket)

    def close(self) -> None:
        """Ends the workers."""
        if self._workers is not None:
            self._workers.close()
            self._workers = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _started(self) -> DecodeWorkers:
        if self._workers is None:
            self._workers = DecodeWorkers(self._reader, self._num_workers)
            weakref.finalize(self, self._workers.close)
        return self._workers

    def _has(self, indices: Sequence[int]) -> list[tuple[int, bool]]:
        return [(int(i), self._pictures.item(int(i)).image is not None) for i in indices]
