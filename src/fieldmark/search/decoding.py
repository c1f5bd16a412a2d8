"""Pictures read, hashed, decoded and resized by processes of their own, ahead of the encoder.

A picture that cannot be read is an answer like any other. One that kills its process, or keeps it for too long, is
found out and becomes such an answer; the process is replaced. This module loads neither torch nor LanceDB: the
processes import it.
"""

import contextlib
import dataclasses
import hashlib
import multiprocessing
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from PIL import Image

from fieldmark.data.decode import DEFAULT_LIMITS, BadImage, DecodeLimits, decode_picture, read_content
from fieldmark.data.parallel import spawning

_PATIENCE = 2.0  # seconds that a process has to end by itself
_START_SECONDS = 120.0


@dataclass(frozen=True, eq=False)
class Task:
    """A picture to read.

    Attributes:
        path: as errors call it.
        content: its file, or its bytes.
        known_hash: sha256 of the bytes that are known already: if they are the same, nothing is decoded.
    """

    path: str
    content: Path | bytes
    known_hash: str = ""


@dataclass(frozen=True, eq=False)
class Decoded:
    """A picture that was read.

    Attributes:
        size, hash: of its bytes; sha256, hex.
        width, height: upright, before resizing; 0 if nothing was decoded.
        pixels: uint8 (S, S, 3); None if the hash was the known one.
    """

    size: int
    hash: str
    width: int = 0
    height: int = 0
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class Failed:
    """A picture that cannot be used, and why."""

    reason: str


Outcome = Decoded | Failed


def read_task(task: Task, side: int, limits: DecodeLimits) -> Outcome:
    """Read one picture here. side: S, pixels; 0 compares hashes and sizes but makes no pixels."""
    try:
        content = read_content(task.content, limits, task.path)
        digest = hashlib.sha256(content).hexdigest()
        if digest == task.known_hash:
            return Decoded(len(content), digest)
        image = decode_picture(content, limits, name=task.path).image
    except BadImage as error:
        return Failed(error.reason)
    resized = image.resize((side, side), Image.Resampling.BICUBIC)
    return Decoded(len(content), digest, image.width, image.height, np.asarray(resized))


class DecodePool:
    """`workers` processes that read pictures; 0 reads here, where nothing guards against a crash or a hang.

    Args:
        side: S, pixels.
        workers: processes; they start with the first task and live until `close`.
        limits: what one picture may cost.
        seconds: how long one picture may take.
        ahead: chunks that are read ahead of the one that is asked for, at least; three per process in any case.
    """

    def __init__(
        self,
        side: int,
        workers: int,
        *,
        limits: DecodeLimits = DEFAULT_LIMITS,
        seconds: float = 60.0,
        ahead: int = 0,
    ) -> None:
        if workers < 0:
            raise ValueError(f"workers must be 0 (no processes) or more, got {workers}")
        if seconds <= 0:
            raise ValueError(f"seconds must be above 0, got {seconds}")
        self._side, self._limits, self._seconds = side, limits, seconds
        self._num_workers = workers
        self._ahead = max(ahead, 3 * workers)
        self._threads: ThreadPoolExecutor | None = None
        self._own = threading.local()
        self._started: list[_Process] = []
        self._closed = threading.Event()

    def map(self, chunks: Iterable[Sequence[Task]]) -> Iterator[list[Outcome]]:
        """The outcomes of each chunk, in order. Chunks are taken as they are needed, a few ahead."""
        if self._num_workers == 0:
            for chunk in chunks:
                yield [read_task(task, self._side, self._limits) for task in chunk]
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._num_workers, thread_name_prefix="fieldmark-decode")
        source = iter(chunks)
        ahead: deque[Future[list[Outcome]]] = deque()
        try:
            while True:
                for chunk in islice(source, self._ahead - len(ahead)):
                    ahead.append(self._threads.submit(self._read, chunk))
                if not ahead:
                    return
                yield ahead.popleft().result()
        finally:
            for future in ahead:
                future.cancel()

    def close(self) -> None:
        """Ends the processes, whatever they are doing. May be called again."""
        self._closed.set()
        for process in list(self._started):
            process.end()
        if self._threads is not None:
            self._threads.shutdown(wait=True, cancel_futures=True)
            self._threads = None
        while self._started:
            self._started.pop().close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _read(self, chunk: Sequence[Task]) -> list[Outcome]:
        """In a thread that owns a process."""
        outcomes: list[Outcome] = []
        while len(outcomes) < len(chunk):
            try:
                for outcome in self._process().read(chunk[len(outcomes) :], self._seconds):
                    outcomes.append(outcome)
            except _ProcessGone as gone:
                outcomes.append(Failed(str(gone)))
        return outcomes

    def _process(self) -> "_Process":
        """This thread's process, started anew if it is gone."""
        process: _Process | None = getattr(self._own, "process", None)
        if self._closed.is_set():
            raise RuntimeError("the pool is closed")
        if process is None or process.gone:
            if process is not None:
                self._started.remove(process)
                process.close()
            process = _Process(self._side, self._limits)
            self._own.process = process
            self._started.append(process)
        return process


class _ProcessGone(Exception):
    """The process died, or was ended, over what it was reading."""


_start_lock = threading.Lock()


class _Process:
    """A process that reads pictures, one chunk at a time."""

    def __init__(self, side: int, limits: DecodeLimits) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, side, limits), daemon=True, name="fieldmark-decode"
        )
        with _start_lock, spawning():  # spawning changes what all threads see
            self._process.start()
        theirs.close()
        self.gone = False
        self._greeted = False

    def read(self, chunk: Sequence[Task], seconds: float) -> Iterator[Outcome]:
        """The outcome of each task. seconds: for one.

        Raises:
            _ProcessGone: the process is gone over the task whose outcome would be next.
            RuntimeError: it did not even start.
        """
        if not self._greeted:
            self._await_greeting()
        try:
            self._connection.send(list(chunk))
            for _ in chunk:
                if not self._connection.poll(seconds):
                    self.end()
                    raise _ProcessGone(f"decoding it took more than {seconds:g} seconds")
                outcome, shape = self._connection.recv()
                if shape is not None:
                    pixels = np.frombuffer(self._connection.recv_bytes(), dtype=np.uint8).reshape(shape)
                    outcome = dataclasses.replace(outcome, pixels=pixels)
                yield outcome
        except (EOFError, OSError):
            self.end()
            raise _ProcessGone(
                f"decoding it ended the process (exit code {self._process.exitcode}; -9: perhaps for memory)"
            ) from None

    def _await_greeting(self) -> None:
        try:
            if not self._connection.poll(_START_SECONDS):
                raise EOFError
            self._connection.recv()
        except (EOFError, OSError):
            self.end()
            raise RuntimeError(
                f"a decoding process did not start (exit code {self._process.exitcode}): is there enough memory? "
                "workers=0 decodes in this process"
            ) from None
        self._greeted = True

    def close(self) -> None:
        """Give back what the ended process held."""
        self._connection.close()
        self._process.close()

    def end(self) -> None:
        """Kill it; its thread, if it waits for an answer, is told so by the connection."""
        self.gone = True
        self._process.kill()
        self._process.join(_PATIENCE)


def _serve(connection: Connection, side: int, limits: DecodeLimits) -> None:
    """The whole life of a process: chunks of tasks until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends the process
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send("ready")
        while True:
            for task in connection.recv():
                outcome = read_task(task, side, limits)
                if isinstance(outcome, Failed) or outcome.pixels is None:
                    connection.send((outcome, None))
                else:
                    connection.send((dataclasses.replace(outcome, pixels=None), outcome.pixels.shape))
                    connection.send_bytes(outcome.pixels.reshape(-1).data)  # flat: send_bytes counts by len()
