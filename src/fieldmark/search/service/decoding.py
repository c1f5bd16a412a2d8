"""Pictures from strangers, decoded elsewhere: a pool of processes, each with limits of time and memory.

A picture that hangs, bloats or crashes its decoder costs one process, which is replaced; the request is refused and
the service goes on.
"""

import contextlib
import os
import queue
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import fieldmark
from fieldmark.data.decode import looks_like_picture, refuse_content
from fieldmark.data.parallel import deaf_to_interrupts
from fieldmark.search.service.config import Limits
from fieldmark.search.service.decoder_process import ANSWER, FITTED, REQUEST, SQUARE
from fieldmark.search.service.errors import Refusal, overloaded

_KEPT_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "SYSTEMROOT", "TMPDIR")


@dataclass(frozen=True)
class Decoded:
    """What a decoding process made of a picture.

    Attributes:
        payload: the bytes asked for.
        width, height: of the whole picture, upright, in pixels.
        format: what the content is, as in `fieldmark.data.decode.FORMATS`.
    """

    payload: bytes
    width: int
    height: int
    format: str


class DecodePool:
    """Processes that decode. Methods may be called from many threads; close() ends the processes.

    Args:
        workers: number of processes; so many pictures are decoded at once.
        limits: bytes, pixels, time and memory of one picture.
    """

    def __init__(self, workers: int, limits: Limits) -> None:
        self._limits = limits
        self._idle: queue.LifoQueue[_Process] = queue.LifoQueue()
        for _ in range(workers):
            self._idle.put(_Process(limits.decode_memory_mb))
        self._workers = workers

    def square(self, content: bytes, side: int) -> tuple[np.ndarray, Decoded]:
        """uint8 (side, side, 3) RGB, resized as the encoders do it, and the facts.

        Raises:
            Refusal: 415 no picture, 422 a damaged one or one above the limits of pixels, time or
                memory, 503 all processes are busy.
        """
        decoded = self._decode(SQUARE, content, side)
        if len(decoded.payload) != side * side * 3:
            raise Refusal(422, "bad_picture", "the picture could not be decoded")
        return np.frombuffer(decoded.payload, np.uint8).reshape(side, side, 3).copy(), decoded

    def fitted(self, content: bytes, side: int) -> Decoded:
        """A WebP whose longer side is at most `side`. Raises as `square`."""
        return self._decode(FITTED, content, side)

    def close(self) -> None:
        """End the processes; those at work end when they are done."""
        for _ in range(self._workers):
            with contextlib.suppress(queue.Empty):
                self._idle.get(timeout=self._limits.decode_seconds).kill()

    def _decode(self, task: int, content: bytes, side: int) -> Decoded:
        check_picture(content)
        try:
            process = self._idle.get(timeout=self._limits.decode_seconds)
        except queue.Empty:
            raise overloaded("all decoding processes are busy", self._limits.decode_seconds) from None
        answer: Decoded | str | None = None
        try:
            answer = process.run(task, content, side, self._limits)
        except TimeoutError:
            raise Refusal(
                422, "bad_picture", f"decoding the picture took longer than {self._limits.decode_seconds:g} s"
            ) from None
        except OSError:
            raise Refusal(422, "bad_picture", "the picture made its decoder crash") from None
        finally:
            if answer is None:  # whatever happened, this process is in an unknown state
                process.kill()
                process = _Process(self._limits.decode_memory_mb)
            self._idle.put(process)
        if isinstance(answer, str):
            raise Refusal(422, "bad_picture", f"the picture cannot be used: {answer}")
        return answer


def check_picture(content: bytes) -> None:
    """Refuse by the first bytes what is no picture, whatever its name says, before it is decoded (Refusal, 415)."""
    reason = refuse_content(content)
    if reason is None and not looks_like_picture(content):
        reason = "no known picture format"
    if reason is not None:
        raise Refusal(415, "no_picture", f"the file is no picture that is read here: {reason}")


class _Process:
    """One decoding process and the socket to it."""

    def __init__(self, memory_mb: int) -> None:
        ours, theirs = socket.socketpair()
        source = str(Path(fieldmark.__file__).parents[1])
        environment = {name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))}
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        command = [sys.executable, "-m", f"{__package__}.decoder_process", str(theirs.fileno()), str(memory_mb)]
        with theirs, deaf_to_interrupts():
            self._process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
        self._socket = ours
        self._started = False

    def run(self, task: int, content: bytes, side: int, limits: Limits) -> Decoded | str:
        """The answer, or why the picture cannot be used. TimeoutError or OSError: kill it."""
        # A new process loads its libraries first: that time is not the picture's.
        deadline = time.monotonic() + limits.decode_seconds + (0 if self._started else 20)
        self._socket.settimeout(deadline - time.monotonic())
        self._socket.sendall(REQUEST.pack(task, side, limits.picture_pixels, len(content)) + content)
        status, width, height, length, format_name = ANSWER.unpack(self._receive(ANSWER.size, deadline))
        if length > 64 * 2**20:  # no task has so large an answer
            raise OSError("the decoding process sent nonsense")
        payload = self._receive(length, deadline)
        self._started = True
        if status != 0:
            return payload.decode(errors="replace")
        return Decoded(payload, width, height, format_name.rstrip(b"\0").decode("ascii", errors="replace"))

    def _receive(self, length: int, deadline: float) -> bytes:
        parts = bytearray()
        while len(parts) < length:
            remaining = deadline - time.monotonic()
            if remaining <= 0:
                raise TimeoutError
            self._socket.settimeout(remaining)
            part = self._socket.recv(min(length - len(parts), 2**20))
            if not part:
                raise ConnectionError("the decoding process has ended")
            parts += part
        return bytes(parts)

    def kill(self) -> None:
        self._socket.close()
        self._process.kill()
        self._process.wait()
