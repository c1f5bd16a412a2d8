"""Requests share the encoder: what waits is embedded together, in one thread, from a queue that cannot grow.

    1. `embed` puts its inputs into the queue, all or none; a full queue refuses.
    2. The encoder's thread takes the first input, waits a few milliseconds for more, and takes what is there.
    3. It embeds the batch and hands each caller the own vectors. A batch that fails is embedded one by one, so that
       an input that the encoder cannot take fails alone.

While a batch is computed the queue fills, so batches grow with the load by themselves. Other work that needs the
encoder (an explanation) takes its turn in the same thread.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

import numpy as np

from fieldmark.search.encoders import EncoderInput, SearchEncoder
from fieldmark.search.service.config import Batching
from fieldmark.search.service.errors import overloaded

Result = TypeVar("Result")
_LOG = logging.getLogger("fieldmark.service")
_TURNS = 8
"""Other work that may wait for the encoder."""


class EncoderQueue:
    """A `SearchEncoder` that many threads may call at once. close() ends its thread.

    Args:
        encoder: what computes; called by one thread only.
        batching: size of a batch, its patience, length of the queue.
        wait_seconds: time that a caller waits at most.
        observe: called with (size of the batch, seconds) after each.
    """

    def __init__(
        self,
        encoder: SearchEncoder,
        batching: Batching,
        wait_seconds: float = 30.0,
        observe: Callable[[int, float], None] = lambda size, seconds: None,
    ) -> None:
        self.encoder = encoder
        self.name = encoder.name
        self.fingerprint = encoder.fingerprint
        self.embedding_size = encoder.embedding_size
        self.reads_words = encoder.reads_words
        self.max_text_tokens = encoder.max_text_tokens
        self._batching = batching
        self._wait_seconds = wait_seconds
        self._observe = observe
        self._changed = threading.Condition()
        self._inputs: deque[tuple[EncoderInput, Future[np.ndarray]]] = deque()
        self._turns: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closed = False
        self._seconds_per_input = 0.1  # a guess until the first batch
        self._thread = threading.Thread(target=self._work, name="encoder", daemon=True)
        self._thread.start()

    def decode_size(self) -> int:
        """Side in pixels that pictures are resized to."""
        return self.encoder.decode_size()

    def cuts(self, text: str) -> bool:
        """Whether the encoder reads only the beginning of a text. Takes a turn: tokenizers are not made for threads."""
        return self.take_turn(lambda: self.encoder.cuts(text))

    @property
    def waiting(self) -> int:
        """Inputs in the queue."""
        return len(self._inputs)

    def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
        """float32 (n, D), unit length, in the order of the items.

        Raises:
            Refusal: 503, the queue has no room for all of them, or they waited too long.
            Exception: whatever the encoder raises for one of these items.
        """
        futures: list[Future[np.ndarray]] = [Future() for _ in items]
        with self._changed:
            if self._closed or len(self._inputs) + len(items) > self._batching.queue:
                raise overloaded("the encoder's queue is full", len(self._inputs) * self._seconds_per_input)
            self._inputs.extend(zip(items, futures, strict=True))
            self._changed.notify_all()
        deadline = time.monotonic() + self._wait_seconds
        vectors = [self._result(future, futures, deadline) for future in futures]
        return np.stack(vectors) if vectors else np.zeros((0, self.embedding_size), np.float32)

    def take_turn(self, work: Callable[[], Result]) -> Result:
        """Run other work on the encoder, in its thread, between two batches. Raises as `embed`."""
        future: Future[Result] = Future()
        with self._changed:
            if self._closed or len(self._turns) >= _TURNS:
                raise overloaded("too much waits for the encoder", len(self._turns))
            self._turns.append((work, future))
            self._changed.notify_all()
        return self._result(future, [future], time.monotonic() + self._wait_seconds)

    def close(self) -> None:
        """Refuse what comes, end what waits."""
        with self._changed:
            self._closed = True
            waiting = [future for _, future in self._inputs] + [future for _, future in self._turns]
            self._inputs.clear()
            self._turns.clear()
            self._changed.notify_all()
        for future in waiting:
            if future.set_running_or_notify_cancel():
                future.set_exception(overloaded("the service is being stopped", 5))
        self._thread.join(timeout=self._wait_seconds)

    def _result(self, future: Future[Result], together: Sequence[Future[Any]], deadline: float) -> Result:
        try:
            return future.result(timeout=max(0.0, deadline - time.monotonic()))
        except TimeoutError:
            if future.done():  # the encoder's own TimeoutError
                raise
            for one in together:  # nobody wants them any more: the encoder's thread passes over them
                one.cancel()
            raise overloaded("the encoder did not come to this request in time", self._seconds_per_input) from None

    # ---- the encoder's thread

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._inputs or self._turns or self._closed):
                    self._changed.wait()
                if self._closed:
                    return
                turn = self._turns.popleft() if self._turns else None
            if turn is not None:
                _settle(*turn)
            batch = self._next_batch()
            if batch:
                started = time.perf_counter()
                self._embed_batch(batch)
                seconds = time.perf_counter() - started
                self._seconds_per_input += 0.3 * (seconds / len(batch) - self._seconds_per_input)
                self._observe(len(batch), seconds)

    def _next_batch(self) -> list[tuple[EncoderInput, Future[np.ndarray]]]:
        with self._changed:
            if not self._inputs:
                return []
            until = time.monotonic() + self._batching.window_ms / 1000
            while len(self._inputs) < self._batching.size and not self._closed:
                remaining = until - time.monotonic()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            taken = [self._inputs.popleft() for _ in range(min(self._batching.size, len(self._inputs)))]
        return [(item, future) for item, future in taken if future.set_running_or_notify_cancel()]

    def _embed_batch(self, batch: Sequence[tuple[EncoderInput, "Future[np.ndarray]"]]) -> None:
        try:
            vectors = self._checked([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  the thread must outlive whatever an input does
            if len(batch) == 1:
                batch[0][1].set_exception(error)
                return
            _LOG.warning("a batch of %d failed, embedding one by one: %r", len(batch), error)
            for one in batch:
                self._embed_batch([one])
            return
        for (_, future), vector in zip(batch, vectors, strict=True):
            future.set_result(vector)

    def _checked(self, items: Sequence[EncoderInput]) -> np.ndarray:
        vectors = np.asarray(self.encoder.embed(items), np.float32)
        if vectors.shape != (len(items), self.embedding_size) or not np.isfinite(vectors).all():
            raise ArithmeticError(
                f"the encoder gave {vectors.shape} for {len(items)} inputs of size {self.embedding_size}, or values "
                "that are not finite"
            )
        return vectors


def _settle(work: Callable[[], Any], future: "Future[Any]") -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:  # noqa: BLE001  it is the caller's, who raises it again
        future.set_exception(error)
