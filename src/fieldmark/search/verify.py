"""`fieldmark index verify`: whether every row still tells the truth."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fieldmark.data.decode import BadImage
from fieldmark.search.decoding import DecodePool, Failed, Task
from fieldmark.search.encoders import EncoderInput, SearchEncoder
from fieldmark.search.index import Index
from fieldmark.search.schema import OWN_COLUMNS, Row, picture_id, to_row
from fieldmark.search.seen import SeenIds

_CHUNK = 16
_MOST_LISTED = 1000
_UNIT_TOLERANCE = 1e-3


REMEDIES = {
    "missing": "index build --prune drops the rows of what is missing",
    "unreadable": "repair the files that are unreadable, or delete them and build with --prune: while they are there, "
    "a build keeps their rows",
    "changed": "index build embeds what has changed",
    "row": "a build leaves rows alone whose pictures are the same: for rows that are wrong, build a new index",
    "embedding": "for other embeddings build a new index, or verify with the encoder and the libraries of the build",
}


@dataclass(frozen=True)
class Problem:
    """What is wrong with a row.

    kind: "missing" (its picture is gone), "unreadable" (it is there, and cannot be read), "changed" (other bytes),
    "row" (the row itself is wrong), or "embedding" (the encoder makes another one). `REMEDIES` has what to do
    about each.
    """

    kind: str
    id: str
    path: str
    reason: str


@dataclass(frozen=True)
class Verification:
    """What a verification found.

    Attributes:
        rows: rows that were looked at.
        recomputed: rows whose embedding was computed again.
        worst_similarity: the lowest cosine of a stored embedding and a recomputed one; 1.0 if none was.
        counts: kind of problem → rows.
        problems: the first thousand.
    """

    rows: int
    recomputed: int
    worst_similarity: float
    counts: dict[str, int]
    problems: tuple[Problem, ...]

    @property
    def good(self) -> bool:
        return not self.counts


def verify_index(
    index: Index,
    encoder: SearchEncoder | None,
    generator: np.random.Generator,
    *,
    sample: int = 64,
    tolerance: float = 1e-3,
    workers: int = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Verification:
    """Read every picture again and compare its hash; hold that ids are unique and belong to their paths and that
    embeddings are of unit length; and compute the embeddings of a random sample again.

    Args:
        encoder: the one that made the index; None recomputes nothing.
        generator: chooses the sample.
        sample: rows to recompute.
        tolerance: by how much the cosine with the stored embedding may fall short of 1.
        workers: processes that read.
        progress: called with (rows done, rows in all).

    Raises:
        ValueError: the encoder is another one.
    """
    if encoder is not None:
        index.check_encoder(encoder)
    found = _Findings()
    total, done = len(index), 0
    chosen: list[Row] = []
    with SeenIds() as seen, DecodePool(1, workers) as pool:
        under_way: list[list[Row]] = []

        def tasks() -> Iterator[list[Task]]:
            for rows in _rows(index, found):
                tasks = [_task(index, row, found, seen) for row in rows]
                readable = [row for row, task in zip(rows, tasks, strict=True) if task is not None]
                under_way.append(readable)
                yield [task for task in tasks if task is not None]

        for outcomes in pool.map(tasks()):
            for row, outcome in zip(under_way.pop(0), outcomes, strict=True):
                if isinstance(outcome, Failed):
                    found.add("unreadable", row, outcome.reason)
                    continue
                if outcome.hash != row.hash or outcome.size != row.size:
                    found.add("changed", row, "the picture has other bytes than when it was indexed: build again")
                    continue
                done += 1
                # every row is in the sample with the same chance, without knowing how many there are
                if len(chosen) < sample:
                    chosen.append(row)
                elif (place := int(generator.integers(done))) < sample:
                    chosen[place] = row
            if progress is not None:
                progress(found.rows, total)
    worst, recomputed = 1.0, 0
    for row, similarity in _recompute(index, encoder, chosen) if encoder is not None else ():
        worst, recomputed = min(worst, similarity), recomputed + 1
        if not similarity >= 1 - tolerance:
            found.add("embedding", row, f"the encoder makes another one now (cosine {similarity:.4f})")
    return Verification(found.rows, recomputed, worst, dict(found.counts), tuple(found.problems))


class _Findings:
    def __init__(self) -> None:
        self.rows = 0
        self.counts: Counter[str] = Counter()
        self.problems: list[Problem] = []

    def add(self, kind: str, row: Row, reason: str) -> None:
        self.counts[kind] += 1
        if len(self.problems) < _MOST_LISTED:
            self.problems.append(Problem(kind, row.id, row.path, reason))


def _rows(index: Index, found: _Findings) -> Iterator[list[Row]]:
    """Rows by the chunk; what is wrong with embeddings is noted on the way."""
    columns = (*(name for name in OWN_COLUMNS if name != "embedding"), "embedding")
    for batch in index.scan(columns):
        flat = batch.column("embedding").flatten().to_numpy(zero_copy_only=False)
        lengths = np.linalg.norm(flat.reshape(batch.num_rows, -1), axis=1)
        rows = [to_row(record) for record in batch.drop_columns(["embedding"]).to_pylist()]
        for row, length in zip(rows, lengths, strict=True):
            if not abs(length - 1) <= _UNIT_TOLERANCE:
                found.add("row", row, f"its embedding has length {length}, not 1")
        for start in range(0, len(rows), _CHUNK):
            found.rows += len(rows[start : start + _CHUNK])
            yield rows[start : start + _CHUNK]


def _task(index: Index, row: Row, found: _Findings, seen: SeenIds) -> Task | None:
    """How to read the row's picture; None if that is wrong already."""
    if row.id != picture_id(row.path):
        found.add("row", row, f"its id does not belong to its path (it would be {picture_id(row.path)})")
        return None
    if not seen.add(row.id):
        found.add("row", row, "there are two rows with this id")
        return None
    try:
        content: Path | bytes = index.source(row)
    except ValueError as error:
        # a folder that may not be entered, or a damaged parquet file: what is in it is not gone
        known = error.__cause__ is None or isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError))
        reason = error.reason if isinstance(error, BadImage) else str(error)
        found.add("missing" if known else "unreadable", row, reason)
        return None
    return Task(row.path, content, row.hash)


def _recompute(index: Index, encoder: SearchEncoder, rows: list[Row]) -> Iterator[tuple[Row, float]]:
    """Each row with the cosine of its stored and its recomputed embedding."""
    with DecodePool(encoder.decode_size(), 0) as pool:
        for start in range(0, len(rows), _CHUNK):
            chunk = rows[start : start + _CHUNK]
            tasks = [Task(row.path, index.source(row)) for row in chunk]
            (outcomes,) = pool.map([tasks])
            pixels = [None if isinstance(one, Failed) else one.pixels for one in outcomes]
            kept = [row for row, one in zip(chunk, pixels, strict=True) if one is not None]
            vectors = encoder.embed([EncoderInput(one) for one in pixels if one is not None])
            stored = index.vectors([row.id for row in kept])
            for row, similarity in zip(kept, (stored * vectors).sum(axis=1), strict=True):
                yield row, float(similarity)
