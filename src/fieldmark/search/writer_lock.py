"""One writer at a time: an index is changed by whoever holds its lock."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fieldmark.search.disk import storing

_NAME = ".writer.lock"
_EVERY = 0.05


class WriterLock:
    """The right to change an index. Held per process and thread; the system takes it back when a process dies.

    Reading needs no lock: LanceDB's readers see the last version that was committed.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / _NAME
        self._thread_lock = threading.RLock()
        self._depth = 0

    @contextmanager
    def hold(self, wait: float = 10.0) -> Iterator[None]:
        """Hold the lock; may be nested. wait: seconds to wait for another writer.

        Raises:
            ValueError: another writer is still at work, or the folder cannot be written.
        """
        if not self._thread_lock.acquire(timeout=max(wait, 0)):
            raise ValueError(self._busy(wait, f"process {os.getpid()}"))
        try:
            if self._depth == 0:
                with storing(self._path.parent):
                    opened = self._path.open("a+")
                with opened as file:
                    self._take(file.fileno(), wait)
                    file.truncate(0)
                    file.write(f"process {os.getpid()}")
                    file.flush()
                    self._depth = 1
                    try:
                        yield
                    finally:
                        self._depth = 0
            else:
                self._depth += 1
                try:
                    yield
                finally:
                    self._depth -= 1
        finally:
            self._thread_lock.release()

    def _take(self, descriptor: int, wait: float) -> None:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    owner = self._path.read_text(encoding="utf-8") or "another process"
                    raise ValueError(self._busy(wait, owner)) from None
                time.sleep(_EVERY)

    def _busy(self, wait: float, owner: str) -> str:
        return (
            f"{self._path.parent} is being written by {owner} (waited {wait:g} s): let it finish or stop it, then "
            "give the command again"
        )
