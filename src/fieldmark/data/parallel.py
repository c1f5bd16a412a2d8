"""A function of every picture of a collection, computed once by several processes.

They are started with "spawn": nothing is inherited, so neither threads nor a GPU of the parent can be harmed.
"""

import contextlib
import multiprocessing
import signal
import sys
import types
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import resource_tracker
from typing import Any, TypeVar

Result = TypeVar("Result")

_CHUNK = 32


@contextlib.contextmanager
def deaf_to_interrupts() -> Iterator[None]:
    """Processes that are started in here do not hear Ctrl-C, which is the parent's to handle.

    A child can ignore it by itself only when its imports are done, and would print half a traceback before. What this
    thread blocks stays blocked in its children; its own Ctrl-C reaches the parent afterwards.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def spawning() -> Iterator[None]:
    """Processes that are spawned in here do not run the program's main file again, and are deaf to Ctrl-C.

    multiprocessing runs it in every child, for the sake of functions that are defined there. Ours never are, and
    main files import torch: that would cost each child seconds and hundreds of megabytes, and scripts without
    ``if __name__ == "__main__":`` would start themselves again.
    """
    resource_tracker.ensure_running()  # the first process starts it otherwise, which unblocks the signal
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        with deaf_to_interrupts():
            yield
    finally:
        sys.modules["__main__"] = main


def map_indices(
    function: Callable[[int], Result],
    count: int,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[int, Result]]:
    """(i, function(i)) for i = 0…count−1, in order; computed by `workers` processes, or here if that is 0.

    Args:
        function: picklable, and not defined in the main file; it is sent to each worker once.
        progress: called with (done, count) now and then.

    Raises:
        ValueError: `workers` is negative.
        RuntimeError: a worker died (killed, out of memory, or a crash in a decoder).
    """
    if workers < 0:
        raise ValueError(f"workers must be 0 (no processes) or more, got {workers}")
    chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
    workers = min(workers, len(chunks))
    if workers == 0:
        for chunk in chunks:
            for i in chunk:
                yield i, function(i)
            if progress is not None:
                progress(chunk.stop, count)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_set_function, initargs=(function,))
    try:
        pending: list[tuple[range, Future[list[Result]]]] = []
        ahead = iter(chunks)
        for chunk in chunks:
            while len(pending) < 4 * workers and (following := next(ahead, None)) is not None:
                with spawning():  # submitting starts the processes
                    pending.append((following, pool.submit(_apply, following)))
            own, future = pending.pop(0)
            assert own == chunk
            yield from zip(chunk, future.result(), strict=True)
            if progress is not None:
                progress(chunk.stop, count)
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a decoding process died (killed, out of memory, or a crash in a decoder); workers=0 decodes in this "
            "process and shows where"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_function: Callable[[int], Any] | None = None


def _set_function(function: Callable[[int], Any]) -> None:
    global _function
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends the workers
    _function = function


def _apply(chunk: range) -> list[Any]:
    assert _function is not None
    return [_function(i) for i in chunk]
