"""Adding and deleting items; only for who has the token."""

import hashlib
import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from fieldmark.search.disk import DiskFull, NotWritable
from fieldmark.search.encoders import EncoderInput
from fieldmark.search.index import Index
from fieldmark.search.schema import ADDED, Row, picture_id, rows_table, to_row
from fieldmark.search.service.batching import EncoderQueue
from fieldmark.search.service.confinement import remove_below, write_below
from fieldmark.search.service.decoding import DecodePool
from fieldmark.search.service.errors import Refusal, overloaded

_ENDINGS = {
    "JPEG": "jpg", "MPO": "jpg", "PNG": "png", "GIF": "gif", "WEBP": "webp", "BMP": "bmp", "DIB": "bmp", "TIFF": "tif",
    "PPM": "ppm", "AVIF": "avif", "JPEG2000": "jp2",
}  # fmt: skip


class Changes:
    """Changes of an index. Methods may be called from many threads; one change is made at a time."""

    def __init__(self, index: Index, queue: EncoderQueue, pool: DecodePool) -> None:
        self._index = index
        self._queue = queue
        self._pool = pool
        self._one = threading.Lock()

    def add(self, content: bytes, metadata: Mapping[str, Any]) -> tuple[Row, bool]:
        """Keep a picture below the root and its row in the index; returns the row, and whether it is new. Bytes that a
        row has already, wherever its file lies, make no second row.

        The file is written before the row, so that no row is without its picture; if the row cannot be written, the
        file goes again.

        Raises:
            Refusal: 422 for metadata that the index has no column for; 409 if the row that is there has other values of
                those that are given, which would be lost; what decoding and the queue raise; 503 if
                another process writes to the index; 507 if the disk is full.
        """
        checked = self._checked(metadata)
        given = {name: checked[name] for name in metadata}
        pixels, decoded = self._pool.square(content, self._queue.decode_size())
        digest = hashlib.sha256(content).hexdigest()
        known = self._agreeing(self._with_bytes(digest), given)
        if known is not None:  # before the encoder is asked
            return known, False
        name = f"{digest[:32]}.{_ENDINGS.get(decoded.format, 'img')}"
        path = f"{ADDED}/{name}"
        vectors = self._queue.embed([EncoderInput(pixels)])
        row = Row(picture_id(path), path, len(content), digest, decoded.width, decoded.height, checked)
        with self._one:
            quicker = self._index.get(row.id)  # another request with the same picture
            known = self._agreeing([] if quicker is None else [quicker], given)
            if known is not None:
                return known, False
            try:
                is_new_file = write_below(self._index.root, ADDED, name, content)
            except OSError as error:  # a full disk, or a folder that may not be written
                raise _not_stored() from error
            try:
                self._index.append(rows_table(self._index.table.schema, [row], vectors))
            except BaseException as error:
                if is_new_file:
                    remove_below(self._index.root, path)
                raise _refusal(error) from error
        return row, True

    def delete(self, id: str) -> None:
        """Remove a row; its file only if it came through the service. Raises Refusal: 404, or 503 as `add`."""
        with self._one:
            row = self._index.get(id)
            if row is None:
                raise Refusal(404, "not_found", "there is no item with this id")
            try:
                self._index.delete([id])
            except ValueError as error:
                raise _refusal(error) from error
            if row.path.startswith(f"{ADDED}/"):
                remove_below(self._index.root, row.path)

    def _with_bytes(self, digest: str) -> list[Row]:
        """The rows with these bytes. No index leads to hashes: a second of reading for a million rows."""
        found = self._index.scan(where=f"hash = '{digest}'")
        return sorted((to_row(one) for batch in found for one in batch.to_pylist()), key=lambda row: row.path)

    def _agreeing(self, rows: Sequence[Row], given: Mapping[str, Any]) -> Row | None:
        """Of rows with the same bytes, one that has the metadata which is given; None if there are none.

        Raises:
            Refusal: 409, there are some, and what is given would be lost.
        """
        if not rows:
            return None
        for row in rows:
            if all(row.metadata[name] == value for name, value in given.items()):
                return row
        differing = [name for name, value in given.items() if rows[0].metadata[name] != value]
        raise Refusal(
            409,
            "conflict",
            f"the picture is in the index as item {rows[0].id}, with other values of {', '.join(differing)}: nothing "
            f"was changed. Delete that item (DELETE /items/{rows[0].id}), then add the picture again",
        )

    def _checked(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        known = self._index.facts.metadata
        checked: dict[str, Any] = dict.fromkeys(known)
        for name, value in metadata.items():
            kind = known.get(name)
            if kind is None:
                raise Refusal(422, "bad_query", f"the index has no metadata column {name[:80]!r}")
            if not _fits(value, kind):
                raise Refusal(422, "bad_query", f"the metadata column {name!r} holds {kind}, not this value")
            checked[name] = float(value) if kind == "float64" and value is not None else value
        return checked


def _fits(value: Any, kind: str) -> bool:
    if value is None:
        return True
    if kind == "string":
        return isinstance(value, str) and len(value) <= 10_000 and "\0" not in value
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind == "int64":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    if isinstance(value, int):  # what a float64 cannot hold at all would raise
        return -(2**63) <= value < 2**63
    return isinstance(value, float) and math.isfinite(value)


def _refusal(error: BaseException) -> BaseException:
    """The disk is full, or may not be written; or the lock is taken: come back. Anything else stays what it is."""
    if isinstance(error, (DiskFull, NotWritable)):
        return _not_stored()
    return overloaded("another process writes to the index", 5) if isinstance(error, ValueError) else error


def _not_stored() -> Refusal:
    return Refusal(507, "not_stored", "there is no room, or no right to write: nothing was changed")
