"""Processes that read the pictures of batches ahead of the step.

They are started with "spawn", without the program's main file, and do not load torch: each is up in a fraction of
a second and costs some tens of megabytes.
"""

import contextlib
import multiprocessing
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler

import numpy as np

from fieldmark.data.decode import BadImage
from fieldmark.data.parallel import spawning
from fieldmark.data.reader import PictureReader

_PATIENCE = 5.0  # seconds that a worker has to end by itself


@dataclass
class _Job:
    """One batch under way. `waiting`: worker → positions in the batch that it has still to deliver."""

    images: np.ndarray
    indices: Sequence[int]
    waiting: dict[int, list[int]]
    error: Exception | None = None
    error_position: int = -1
    wanted: bool = True


class DecodeWorkers:
    """`workers` processes, each with a reader of its own.

    If the reader keeps pictures, a picture always goes to the same worker (index modulo workers), so that it is kept
    once; else pictures are dealt out evenly. A thread collects what the workers send, so that they never wait for
    the step. The result does not depend on the number of workers.
    """

    def __init__(self, reader: PictureReader, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._reader = reader
        self._condition = threading.Condition()
        self._jobs: dict[int, _Job] = {}
        self._next_ticket = 0
        self._dead: dict[int, str] = {}
        self._dead_lock = threading.Lock()
        self._closed = False
        self._collecting = True
        self._connections: list[Connection] = []
        self._processes = []
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs,), daemon=True, name="fieldmark-decode")
            with spawning():
                process.start()
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
        # Sent after all are started, so that they start side by side; the collection may be large.
        message = ForkingPickler.dumps(reader.share(workers))
        for w, connection in enumerate(self._connections):
            try:
                connection.send_bytes(message)
            except OSError:
                self._bury(w)
        self._wake, wake_end = context.Pipe()
        self._thread = threading.Thread(target=self._collect, args=(wake_end,), daemon=True, name="fieldmark-collect")
        self._thread.start()

    def submit(self, step: int, indices: Sequence[int]) -> int:
        """Orders the pictures `indices` of batch `step`; returns a ticket for `result` or `discard`."""
        size = self._reader.image_size
        workers = len(self._connections)
        shares: dict[int, list[int]] = {}
        for position, i in enumerate(indices):
            owner = (i if self._reader.keeps else position) % workers
            shares.setdefault(owner, []).append(position)
        job = _Job(np.empty((len(indices), size, size, 3), dtype=np.uint8), indices, dict(shares))
        with self._condition:
            if self._closed:
                raise RuntimeError("the loader is closed")
            ticket = self._next_ticket
            self._next_ticket += 1
            self._jobs[ticket] = job
        for w, positions in shares.items():
            try:
                if w in self._dead:
                    raise BrokenPipeError
                self._connections[w].send((ticket, step, positions, [indices[p] for p in positions]))
            except OSError:
                self._bury(w)
        return ticket

    def result(self, ticket: int) -> np.ndarray:
        """The batch of a ticket, uint8 (B, S, S, 3); waits for it.

        Raises:
            BadImage: the first picture of the batch that cannot be decoded.
            RuntimeError: a worker died over it.
        """
        with self._condition:
            job = self._jobs[ticket]
            self._condition.wait_for(lambda: not job.waiting or not self._collecting)
            del self._jobs[ticket]
            if job.error is not None:
                raise job.error
            if job.waiting:
                raise RuntimeError("the loader was closed, or failed, while a batch was under way")
        return job.images

    def discard(self, ticket: int) -> None:
        """The batch of this ticket is not wanted any more."""
        with self._condition:
            job = self._jobs[ticket]
            job.wanted = False
            if not job.waiting:
                del self._jobs[ticket]

    def close(self) -> None:
        """Ends the workers, whatever they are doing. May be called again."""
        with self._condition:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(OSError):  # the thread has ended already
            self._wake.send(None)
        if threading.current_thread() is not self._thread:  # a garbage collection may run anywhere
            self._thread.join(_PATIENCE)
        self._wake.close()
        for connection in self._connections:
            connection.close()  # a worker that waits for work, or to deliver, notices and ends
        for process in self._processes:
            process.join(_PATIENCE)
            if process.is_alive():
                process.terminate()
                process.join()
            process.close()

    def _collect(self, wake: Connection) -> None:
        """Runs in a thread of its own until it is woken by `close`: takes what the workers send."""
        open_connections = {connection: w for w, connection in enumerate(self._connections)}
        try:
            while wake not in (ready := wait([wake, *open_connections])):
                for connection in ready:
                    assert isinstance(connection, Connection)
                    if not self._receive(connection, open_connections[connection]):
                        del open_connections[connection]
        finally:
            wake.close()
            with self._condition:  # whatever happened: nobody waits for ever
                self._collecting = False
                self._condition.notify_all()

    def _receive(self, connection: Connection, w: int) -> bool:
        """Takes one worker's part of a batch. Returns False if the worker is gone."""
        try:
            ticket, error, position = connection.recv()
            content = connection.recv_bytes() if error is None else b""
        except (EOFError, OSError):
            self._bury(w)
            return False
        self._deliver(w, ticket, content, error, position)
        return True

    def _deliver(self, w: int, ticket: int, content: bytes, error: BadImage | None, position: int) -> None:
        job = self._jobs[ticket]
        positions = job.waiting[w]
        if error is None and job.wanted:
            part = np.frombuffer(content, dtype=np.uint8)
            job.images[positions] = part.reshape(len(positions), *job.images.shape[1:])
        with self._condition:
            if error is not None and (job.error is None or position < job.error_position):
                job.error, job.error_position = error, position
            self._finish_part(w, ticket)

    def _finish_part(self, w: int, ticket: int) -> None:
        """One worker is done with its part of a batch. The lock is held."""
        job = self._jobs[ticket]
        del job.waiting[w]
        if not job.waiting:
            if job.wanted:
                self._condition.notify_all()
            else:
                del self._jobs[ticket]

    def _bury(self, w: int) -> None:
        """A worker is gone: every batch that waits for it fails, with the names of the pictures it had."""
        with self._dead_lock:
            if w not in self._dead:
                self._processes[w].join(_PATIENCE)
                self._dead[w] = (
                    f"decoding process {w} ended with exit code {self._processes[w].exitcode} (-9: killed, perhaps "
                    "for memory; 1: its traceback stands above)"
                )
        with self._condition:
            for ticket, job in list(self._jobs.items()):
                if w in job.waiting:
                    names = [self._reader.collection.name(job.indices[p]) for p in job.waiting[w]]
                    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
                    job.error = RuntimeError(
                        f"{self._dead[w]} while it had these pictures to read: {shown}. workers=0 reads in this "
                        "process and shows where it fails"
                    )
                    self._finish_part(w, ticket)


def _serve(connection: Connection) -> None:
    """The whole life of a worker: a reader comes first, then tasks until the other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle; it ends the workers
    try:
        reader = connection.recv()
        while True:
            ticket, step, positions, indices = connection.recv()
            pictures = []
            for position, i in zip(positions, indices, strict=True):
                try:
                    pictures.append(reader.read(i, step, position))
                except BadImage as error:
                    connection.send((ticket, error, position))
                    break
            else:
                connection.send((ticket, None, -1))
                connection.send_bytes(np.stack(pictures).reshape(-1).data)  # flat: send_bytes counts by len()
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return
