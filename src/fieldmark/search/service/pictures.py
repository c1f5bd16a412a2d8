"""The collection's own pictures: as they are, where browsers show them, and small."""

import os
import threading
from collections import OrderedDict
from dataclasses import dataclass
from io import BytesIO
from typing import BinaryIO

import numpy as np

from fieldmark.data.decode import DEFAULT_LIMITS
from fieldmark.search.index import Index
from fieldmark.search.schema import Row
from fieldmark.search.service.config import Limits
from fieldmark.search.service.confinement import open_below
from fieldmark.search.service.decoding import Decoded, DecodePool
from fieldmark.search.service.errors import Refusal, overloaded

THUMBNAIL_SIDES = (128, 256, 512)
_VIEW_SIDE = 2048
_AT_ONCE = 4
"""Files that are read into memory at the same time."""
_WEBP = "image/webp"


@dataclass(frozen=True)
class Shown:
    """A picture for a browser: either a file to send as it is, or bytes.

    Attributes:
        media_type: from the content, never from the name.
        size: number of bytes.
        file: open, at its beginning; who takes it closes it.
    """

    media_type: str
    size: int
    content: bytes = b""
    file: BinaryIO | None = None


class Pictures:
    """Reads the files of an index's rows. Methods may be called from many threads."""

    def __init__(self, index: Index, pool: DecodePool, limits: Limits) -> None:
        self._index = index
        self._pool = pool
        self._limits = limits
        self._reading = threading.BoundedSemaphore(_AT_ONCE)
        self._cache = _Cache(limits.thumbnail_cache_mb * 2**20)

    def open(self, row: Row) -> BinaryIO:
        """The stored picture of a row, at its beginning. Raises Refusal (404) if it is gone or lies elsewhere."""
        try:
            source = self._index.source(row)  # links within the root are followed; the result holds none
            if isinstance(source, bytes):
                return BytesIO(source)
            root = self._index.root.resolve(strict=True)
        except (ValueError, OSError):
            raise Refusal(404, "not_found", "the picture's file is not in the collection any more") from None
        return open_below(root, source.relative_to(root).as_posix())

    def square(self, row: Row, side: int) -> tuple[np.ndarray, Decoded]:
        """The picture as the encoders take it; see `DecodePool.square`."""
        with self._room():
            return self._pool.square(self._read(row), side)

    def image(self, row: Row) -> Shown:
        """The picture at full size: the file itself if browsers show its format, else a WebP of at most 2048 pixels.

        Raises:
            Refusal: 404 the file is gone; 415 or 422 it is no picture (any more).
        """
        file = self.open(row)
        media_type = browser_type(file.read(16))
        if media_type is not None:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            return Shown(media_type, size, file=file)
        file.close()
        with self._room():
            content = self._pool.fitted(self._read(row), _VIEW_SIDE).payload
        return Shown(_WEBP, len(content), content)

    def thumbnail(self, row: Row, side: int) -> Shown:
        """A WebP whose longer side is at most `side`. Raises as `image`."""
        key = (row.hash, side)
        content = self._cache.get(key)
        if content is None:
            with self._room():
                content = self._pool.fitted(self._read(row), side).payload
            self._cache.put(key, content)
        return Shown(_WEBP, len(content), content)

    def _read(self, row: Row) -> bytes:
        with self.open(row) as file:
            content = file.read(DEFAULT_LIMITS.max_bytes + 1)
        if len(content) > DEFAULT_LIMITS.max_bytes:
            raise Refusal(422, "bad_picture", f"the file is larger than {DEFAULT_LIMITS.max_bytes} bytes")
        return content

    def _room(self) -> "_Room":
        return _Room(self._reading, self._limits.wait_seconds)


class _Room:
    """A place among those who hold a whole file in memory."""

    def __init__(self, semaphore: threading.BoundedSemaphore, seconds: float) -> None:
        self._semaphore, self._seconds = semaphore, seconds

    def __enter__(self) -> None:
        if not self._semaphore.acquire(timeout=self._seconds):
            raise overloaded("too many pictures are being read", 2)

    def __exit__(self, *_: object) -> None:
        self._semaphore.release()


def browser_type(head: bytes) -> str | None:
    """The media type of a format that every browser shows, from a file's first 16 bytes; else None."""
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return _WEBP
    return None


class _Cache:
    """Bytes by key; what was not asked for longest goes first when there is no room."""

    def __init__(self, most_bytes: int) -> None:
        self._most = most_bytes
        self._size = 0
        self._entries: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[str, int]) -> bytes | None:
        with self._lock:
            if key in self._entries:
                self._entries.move_to_end(key)
            return self._entries.get(key)

    def put(self, key: tuple[str, int], content: bytes) -> None:
        with self._lock:
            self._size += len(content) - len(self._entries.pop(key, b""))
            self._entries[key] = content
            while self._size > self._most:
                self._size -= len(self._entries.popitem(last=False)[1])
