"""Batches of pictures, decoded and resized ahead of the step.

Every batch is a pure function of (seed, step), whatever the number of workers: a run that is resumed at step s
asks for batch s and gets the same bytes as the run that was never interrupted.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
import torch

from fieldmark.data.collection import LabelledImages
from fieldmark.data.decode_workers import DecodeWorkers
from fieldmark.data.reader import Augmentation, PictureReader

__all__ = ["Augmentation", "Batch", "ImageLoader", "load_all"]

DEFAULT_CACHE_BYTES = 512 * 2**20


@dataclass(frozen=True, eq=False)
class Batch:
    """B labelled pictures, on the CPU."""

    images: torch.Tensor
    """uint8 (B, H, W, 3), RGB."""
    labels: torch.Tensor
    """int64 (B,)."""
    indices: torch.Tensor
    """int64 (B,), positions in the collection."""

    def __len__(self) -> int:
        return len(self.labels)


class ImageLoader:
    """Loads batches of a collection.

    Pictures are resized whole to `image_size` squared (bicubic, antialiased) unless the augmentation crops. Small
    collections, which are read for many epochs, stay decoded in memory.

    Args:
        collection: the pictures.
        image_size: side in pixels of what is returned.
        batches: step → indices of its pictures; a pure function, called a few steps ahead.
        augmentation: random changes; None for none. They depend on (seed, step, position in the batch) only.
        seed: of the augmentation.
        workers: processes that decode; 0 decodes when a batch is asked for. They start with the first `iterate`
            and live until `close`.
        prefetch: batches that the workers are ahead of the step, at least 1.
        cache_bytes: memory for decoded pictures, over all workers. They are kept if the whole collection fits
            (see `PictureReader`); 0 keeps none.

    Raises:
        ValueError: a number is out of range, or the collection is empty.

    Use it as a context manager, or call `close`; a loader that is forgotten ends its workers too.
    """

    def __init__(
        self,
        collection: LabelledImages,
        image_size: int,
        batches: Callable[[int], Sequence[int] | np.ndarray],
        *,
        augmentation: Augmentation | None = None,
        seed: int = 0,
        workers: int = 0,
        prefetch: int = 2,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
    ) -> None:
        if len(collection) == 0:
            raise ValueError(f"the collection from {collection.root} is empty: there is nothing to load")
        for name, value, least in (
            ("image_size", image_size, 1),
            ("seed", seed, 0),
            ("workers", workers, 0),
            ("prefetch", prefetch, 1),
            ("cache_bytes", cache_bytes, 0),
        ):
            if value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        self._collection = collection
        self._batches = batches
        self._num_workers = workers
        self._prefetch = prefetch
        self._reader = PictureReader(collection, image_size, augmentation, seed, cache_bytes)
        # With workers, what is kept is kept there: `load` reads anew.
        self._own_reader = PictureReader(collection, image_size, augmentation, seed, 0) if workers else self._reader
        self._workers: DecodeWorkers | None = None
        self._closed = False

    def load(self, step: int) -> Batch:
        """Batch `step`, read in this process.

        Raises:
            ValueError: `step` is negative, or `batches` names pictures that are not there.
            BadImage: a picture cannot be decoded; it is named.
        """
        indices = self._indices(step)
        pictures = [self._own_reader.read(i, step, position) for position, i in enumerate(indices)]
        return self._batch(np.stack(pictures), indices)

    def iterate(self, start: int, stop: int | None = None) -> Iterator[Batch]:
        """Batches `start` … `stop` − 1 in order (without end if `stop` is None), the same bytes as `load` gives.

        The iterator may be left early and may be closed; batches under way are then dropped.

        Raises:
            BadImage: when the batch with the bad picture is due; the batches before it come as usual.
            RuntimeError: a worker died, or the loader is closed.
        """
        if start < 0 or (stop is not None and stop < start):
            raise ValueError(f"needs 0 <= start <= stop, got start={start}, stop={stop}")
        if self._closed:
            raise RuntimeError("the loader is closed")
        if self._num_workers == 0:
            return self._iterate_here(start, stop)
        return self._iterate_ahead(start, stop)

    def _iterate_here(self, start: int, stop: int | None) -> Iterator[Batch]:
        step = start
        while stop is None or step < stop:
            yield self.load(step)
            step += 1

    def _iterate_ahead(self, start: int, stop: int | None) -> Iterator[Batch]:
        workers = self._start_workers()
        ahead: deque[tuple[int, list[int]]] = deque()
        step = start

        def fill() -> None:
            nonlocal step
            while len(ahead) < self._prefetch and (stop is None or step < stop):
                indices = self._indices(step)
                ahead.append((workers.submit(step, indices), indices))
                step += 1

        try:
            fill()
            while ahead:
                ticket, indices = ahead.popleft()
                images = workers.result(ticket)
                fill()
                yield self._batch(images, indices)
        finally:
            for ticket, _ in ahead:
                workers.discard(ticket)

    def close(self) -> None:
        """Ends the workers. The loader cannot iterate any more; `load` still works."""
        self._closed = True
        if self._workers is not None:
            self._workers.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start_workers(self) -> DecodeWorkers:
        if self._closed:
            raise RuntimeError("the loader is closed")
        if self._workers is None:
            self._workers = DecodeWorkers(self._reader, self._num_workers)
            weakref.finalize(self, self._workers.close)
        return self._workers

    def _indices(self, step: int) -> list[int]:
        if step < 0:
            raise ValueError(f"step must be 0 or more, got {step}")
        indices = [int(i) for i in self._batches(step)]
        if not indices or not all(0 <= i < len(self._collection) for i in indices):
            raise ValueError(
                f"batch {step} must name pictures from 0 to {len(self._collection) - 1}, at least one; got {indices}"
            )
        return indices

    def _batch(self, images: np.ndarray, indices: list[int]) -> Batch:
        chosen = np.array(indices, dtype=np.int64)
        return Batch(
            torch.from_numpy(images),
            torch.from_numpy(self._collection.labels[chosen]),
            torch.from_numpy(chosen),
        )


def load_all(collection: LabelledImages, image_size: int, workers: int = 0, batch_size: int = 64) -> Iterator[Batch]:
    """Every picture once, in order and without augmentation: for evaluation. The last batch may be smaller.

    Errors as in `ImageLoader`. Nothing is kept in memory. The workers end with the iterator.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size must be at least 1, got {batch_size}")
    count = len(collection)

    def batch(step: int) -> range:
        return range(step * batch_size, min((step + 1) * batch_size, count))

    steps = -(-count // batch_size)
    loader = ImageLoader(collection, image_size, batch, workers=min(workers, count), cache_bytes=0)
    return _close_after(loader, steps)


def _close_after(loader: ImageLoader, steps: int) -> Iterator[Batch]:
    with loader:
        yield from loader.iterate(0, steps)
