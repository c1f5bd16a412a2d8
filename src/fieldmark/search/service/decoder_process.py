"""A process that decodes pictures from strangers: `python -m fieldmark.search.service.decoder_process FD MEGABYTES`.

It reads requests from a socket and writes answers, as plain bytes: a decoder that was taken over by a picture can send
wrong pixels to the service, but nothing that is executed there. Its memory is limited by the system; the time is
watched by who started it (`decoding`), who kills it. It can write no file.
"""

import contextlib
import resource
import signal
import socket
import struct
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.decode import BadImage, DecodeLimits, decode_picture

REQUEST = struct.Struct("<BIQQ")
"""Task, side in pixels, limit of pixels, number of bytes of the picture that follows."""
ANSWER = struct.Struct("<BIIQ12s")
"""0 or 1 (a refusal), width, height (upright), number of bytes that follow, format."""
SQUARE, FITTED = 1, 2
"""Tasks. SQUARE: RGB pixels, side × side × 3, as encoders resize. FITTED: a WebP, its longer side at most `side`."""


def main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    restrict(int(sys.argv[2]) * 2**20)
    while True:
        header = receive(connection, REQUEST.size)
        if header is None:
            return
        task, side, max_pixels, length = REQUEST.unpack(header)
        content = receive(connection, length)
        if content is None:
            return
        connection.sendall(answer(task, side, max_pixels, content))


def restrict(memory: int) -> None:
    """No more than `memory` bytes beyond what is in use now, no files written, no core dumps; no Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    with contextlib.suppress(OSError, ValueError):  # without /proc (macOS) the system has no such limit to offer
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + memory, in_use + memory))


def answer(task: int, side: int, max_pixels: int, content: bytes) -> bytes:
    """One picture → the bytes to send back."""
    try:
        limits = DecodeLimits(max_bytes=max(1, len(content)), max_pixels=max_pixels)
        picture = decode_picture(content, limits, name="the picture")
        width, height = picture.image.size
        payload = _square(picture.image, side) if task == SQUARE else _fitted(picture.image, side)
        return ANSWER.pack(0, width, height, len(payload), picture.format.encode()) + payload
    except BadImage as error:
        reason = error.reason.encode(errors="replace")[:2000]
    except MemoryError:
        reason = b"not enough memory to decode it"
    return ANSWER.pack(1, 0, 0, len(reason), b"") + reason


def _square(image: Image.Image, side: int) -> bytes:
    return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)).tobytes()


def _fitted(image: Image.Image, side: int) -> bytes:
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    file = BytesIO()
    image.save(file, "WEBP", quality=82, method=3)
    return file.getvalue()


def receive(connection: socket.socket, length: int) -> bytes | None:
    """Exactly so many bytes, or None if the other side has gone."""
    parts = bytearray()
    while len(parts) < length:
        part = connection.recv(min(length - len(parts), 2**20))
        if not part:
            return None
        parts += part
    return bytes(parts)


if __name__ == "__main__":
    main()
