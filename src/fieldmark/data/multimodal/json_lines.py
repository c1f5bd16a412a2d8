"""JSONL files of any length as sequences: a line is parsed when it is asked for.

A file is read once, front to back. What stays in memory is where each line begins, how long it is and a 64-bit hash of
its id: 28 bytes a line with the order for look-ups, 160 MB for the 5.6 million candidates of M-BEIR.
"""

import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import numpy as np

T = TypeVar("T")
Record = dict[str, Any]


@dataclass(frozen=True, eq=False)
class LineIndex:
    """Where the lines of a JSONL file lie."""

    path: Path
    id_field: str
    """Key of the record's id."""
    starts: np.ndarray
    """int64 (n,), offset of each line in bytes."""
    lengths: np.ndarray
    """uint32 (n,), bytes of each line."""
    hashes: np.ndarray
    """uint64 (n,), `id_hash` of each line's id."""
    repeated: int = 0
    """Lines left out because they repeat another one word for word."""
    refused: int = 0
    """Lines left out because they hold nothing to use."""
    first_refusal: str = ""
    """Line and reason of the first of them."""

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, positions: np.ndarray) -> "LineIndex":
        """The lines at `positions`, in that order."""
        return LineIndex(
            self.path, self.id_field, self.starts[positions], self.lengths[positions], self.hashes[positions],
            self.repeated, self.refused, self.first_refusal,
        )  # fmt: skip


def id_hash(name: str) -> int:
    """64 bits of an id. Two of 5.6 million ids collide with a probability of one in a million."""
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8"), digest_size=8).digest(), "little")


def index_lines(
    path: Path,
    id_field: str,
    refuse: Callable[[Record], str | None] = lambda record: None,
    *,
    keep_repeated: bool = False,
) -> LineIndex:
    """Reads a JSONL file once and notes where its records lie. Empty lines are passed over.

    Args:
        path: the file.
        id_field: key of each record's id, a text that is not empty.
        refuse: why a record is to be left out, or None to take it. Called once for each record, in order.
        keep_repeated: keep lines that repeat another word for word (training files do so to weigh data sets).

    Raises:
        ValueError: the file cannot be read, a line is no JSON object, has no id, or has the id of another line and
            another content.
    """
    starts, lengths, hashes = array("q"), array("I"), array("Q")
    refused, first_refusal, offset = 0, "", 0
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                start, offset = offset, offset + len(line)
                if line.isspace():
                    continue
                record = _parse(line, path, number)
                name = record.get(id_field)
                if not isinstance(name, str) or not name:
                    raise ValueError(f"{path}, line {number}: {id_field!r} must be a text, got {name!r}")
                reason = refuse(record)
                if reason is not None:
                    refused += 1
                    first_refusal = first_refusal or f"line {number}, {name}: {reason}"
                    continue
                starts.append(start)
                lengths.append(len(line))
                hashes.append(id_hash(name))
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror or error})") from error
    index = LineIndex(
        path, id_field, np.array(starts, dtype=np.int64), np.array(lengths, dtype=np.uint32),
        np.array(hashes, dtype=np.uint64), 0, refused, first_refusal,
    )  # fmt: skip
    repeated = _repeated(index)
    if len(repeated) == 0 or keep_repeated:
        return index
    kept = index.take(np.setdiff1d(np.arange(len(index)), repeated))
    return LineIndex(
        path, id_field, kept.starts, kept.lengths, kept.hashes, len(repeated), refused, first_refusal
    )  # fmt: skip


def _repeated(index: LineIndex) -> np.ndarray:
    """Positions of the lines that repeat an earlier one. Raises for equal ids of different records."""
    order = np.argsort(index.hashes, kind="stable")
    same = index.hashes[order][1:] == index.hashes[order][:-1]
    if not same.any():
        return np.empty(0, dtype=np.int64)
    lines = JsonLines(index, dict)
    again = []
    for place in np.flatnonzero(same):
        one, other = int(order[place]), int(order[place + 1])
        first, second = lines[one], lines[other]
        name = first[index.id_field]
        if name != second[index.id_field]:
            raise ValueError(f"{index.path}: the ids {name!r} and {second[index.id_field]!r} collide: rename one")
        if first != second:
            raise ValueError(
                f"{index.path} has the id {name!r} twice, with different contents: ids must be unique, rename one"
            )
        again.append(other)
    return np.array(again, dtype=np.int64)


def _parse(line: bytes, path: Path, number: int | None = None) -> Record:
    where = f"{path}, line {number}" if number is not None else f"{path} (changed since it was read?)"
    try:
        record = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        if line.startswith(b"version https://git-lfs"):
            raise ValueError(f"{path} is a Git LFS pointer instead of the data: run `git lfs pull`") from error
        raise ValueError(f"{where} is no JSON ({error}): correct it, or download the file again") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where} must be a JSON object, got {type(record).__name__}")
    return record


class JsonLines(Sequence[T], Generic[T]):
    """The lines of an index, each parsed when it is asked for. May be sent to other processes.

    Args:
        index: from `index_lines`.
        parse: record → value; to be sent to other processes it must be picklable.
    """

    def __init__(self, index: LineIndex, parse: Callable[[Record], T]) -> None:
        self.table = index
        self._parse_record = parse
        self._order: np.ndarray | None = None
        self._file: Any = None

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, i: int) -> T: ...
    @overload
    def __getitem__(self, i: slice) -> list[T]: ...
    def __getitem__(self, i: int | slice) -> T | list[T]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return self._parse_record(self.record(i))

    def record(self, i: int) -> Record:
        """Line i as JSON."""
        if not -len(self) <= i < len(self):
            raise IndexError(i)
        if self._file is None:
            self._file = self.table.path.open("rb", buffering=0)
        # pread has no position that threads, or processes that were forked, would share
        line = os.pread(self._file.fileno(), int(self.table.lengths[i]), int(self.table.starts[i]))
        return _parse(line, self.table.path)

    def position(self, name: str) -> int:
        """Where the line with this id is; of repeated ones the first.

        Raises:
            KeyError: there is none.
        """
        if self._order is None:
            self._order = np.argsort(self.table.hashes, kind="stable")
        wanted = np.uint64(id_hash(name))
        place = int(np.searchsorted(self.table.hashes, wanted, sorter=self._order))
        if place < len(self) and self.table.hashes[self._order[place]] == wanted:
            found = int(self._order[place])
            if self.record(found)[self.table.id_field] == name:
                return found
        raise KeyError(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_file": None, "_order": None}


def find_positions(items: Sequence[Any], names: Iterable[str]) -> dict[str, int]:
    """Id → position, for those of `names` that are in a pool or among queries, large ones on disk included.

    Args:
        items: `Item`s or `Query`s, as `RetrievalTask` holds them.
    """
    wanted = dict.fromkeys(names)
    if not isinstance(items, JsonLines):
        found: dict[str, int] = {}
        for i, item in enumerate(items):
            if item.id in wanted:
                found.setdefault(item.id, i)
        return {name: found[name] for name in wanted if name in found}
    positions = {}
    for name in wanted:
        try:
            positions[name] = items.position(name)
        except KeyError:
            continue
    return positions
