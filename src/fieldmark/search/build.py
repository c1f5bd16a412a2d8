"""`fieldmark index build`: pictures of a source → rows of an index, only those that are new or have changed.

Rows are committed every so often, each commit whole or not at all. A run that was killed is continued by giving the
same command: what was committed is recognised by its content and not embedded again.
"""

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from fieldmark.search.decoding import Decoded, DecodePool, Failed, Outcome, Task
from fieldmark.search.disk import require_writable
from fieldmark.search.encoders import EncoderInput, SearchEncoder, load_search_encoder
from fieldmark.search.index import Index, require_unused
from fieldmark.search.listing import PictureSource, SourcePicture
from fieldmark.search.maintenance import FAILURES, VectorIndexConfig, is_behind, make_indices, tidy
from fieldmark.search.schema import ADDED, Row, picture_id, rows_table
from fieldmark.search.seen import SeenIds
from fieldmark.search.sources import open_source

_LOOKED_UP = 512  # pictures whose rows are looked up at once
_CHUNK = 8  # pictures that a decoding process gets at once
_BATCHES_AHEAD = 2  # the encoder finds two batches ready when it has embedded one
_TIDY_EVERY = 64  # commits; each leaves files that the next look-up reads

T = TypeVar("T")


@dataclass(frozen=True)
class BuildConfig:
    """What is indexed, with what, and where."""

    encoder: str = ""
    """Folder of a run, or of a saved encoder."""
    images: str = ""
    """A folder of pictures; or a .jsonl or .parquet file that lists or holds them, with metadata columns."""
    index: str = ""
    """Folder of the index: new, or one to be brought up to date."""
    root: str | None = None
    """Folder that the paths in a file are relative to. Not given: the file's own."""
    columns: tuple[str, ...] | None = None
    """Metadata columns of a file to keep. Not given: all."""
    path_column: str | None = None
    """Column of a file with the picture or its path. Not given: path, file_name or image."""
    prune: bool = False
    """Remove rows whose picture is not in the source any more."""
    moved: bool = False
    """The pictures lie in another folder than when the index was built; their relative paths are the same."""
    batch_size: int = 64
    """Pictures embedded at a time."""
    workers: int = 1
    """Processes that decode ahead; 0 decodes in line, where a picture that crashes the decoder ends the run."""
    decode_seconds: float = 60.0
    """A picture that takes longer is given up."""
    commit_rows: int = 4096
    """Rows are committed when there are so many,"""
    commit_seconds: float = 30.0
    """or after so many seconds: what is not committed is embedded again after a kill."""
    device: str = "cpu"
    """Torch device of the encoder."""
    vectors: VectorIndexConfig = field(default_factory=VectorIndexConfig)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0), ("commit_rows", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        for name in ("decode_seconds", "commit_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be above 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class BuildReport:
    """What a build did.

    Attributes:
        added, changed: pictures that were embedded: new ones, and ones with other bytes than before.
        relabelled: rows whose metadata changed but not the picture; they keep their embedding.
        unchanged: rows that were left alone.
        failed: pictures that could not be taken; `failures.jsonl` in the index's folder names each with its reason.
        kept: of these, the ones whose rows of before stay.
        removed: rows that `prune` removed.
        uncommitted: embedded, but not committed yet; 0 at the end.
        rows: in the index at the end.
        seconds: from the first picture to the end.
    """

    added: int = 0
    changed: int = 0
    relabelled: int = 0
    unchanged: int = 0
    failed: int = 0
    kept: int = 0
    removed: int = 0
    uncommitted: int = 0
    rows: int = 0
    seconds: float = 0.0

    @property
    def done(self) -> int:
        """Pictures that were looked at."""
        return self.added + self.changed + self.relabelled + self.unchanged + self.failed + self.uncommitted


Progress = Callable[[BuildReport, int], None]
"""Called with what was done so far and the number of pictures in the source, every few pictures and after every commit.
Rows that are counted as added, changed or relabelled are committed."""


def build_index(
    config: BuildConfig,
    encoder: SearchEncoder | None = None,
    progress: Progress | None = None,
    *,
    loading: Callable[[], object] = lambda: None,
) -> BuildReport:
    """Bring an index up to date with its source; make it if there is none.

    Args:
        encoder: instead of `config.encoder`, if it is loaded already.
        loading: called before the encoder is loaded, which takes seconds; everything that needs none has been checked.

    Raises:
        ValueError: before work starts, for input that cannot be used or an index of another encoder, root or columns;
            another writer is at work; or the disk is full. What was committed stays.
    """
    for name in ("images", "index", *(() if encoder is not None else ("encoder",))):
        if not getattr(config, name):
            raise ValueError(f"no {name} given: set --{name}")
    columns = None if config.columns is None else tuple(config.columns)
    source = open_source(config.images, config.root, columns, config.path_column)
    index = _open(config, source) if Index.exists(config.index) else None
    if index is None:
        require_unused(Path(config.index))
    require_writable(Path(config.index))
    total = source.count()
    if total == 0:
        raise ValueError(f"{config.images} holds no pictures: an index of nothing is not made, and nothing is pruned")
    if encoder is None:
        loading()
        encoder = load_search_encoder(config.encoder, config.device)
    if index is not None:
        index.check_encoder(encoder)
        if index.root != source.root:  # --moved was said
            index.move_root(source.root)
    else:
        index = Index.create(config.index, encoder, source.root, source.metadata, source.picture_column)
    with index.writing():
        return _Build(config, index, encoder, source, total, progress).run()


def _open(config: BuildConfig, source: PictureSource) -> Index:
    """The index that is there. Raises ValueError if it is not one of this source."""
    path = Path(config.index)
    index = Index.open(path)
    if dict(index.facts.metadata) != dict(source.metadata):
        raise ValueError(
            f"{path} has the metadata columns {_columns(index.facts.metadata)}, {config.images} has "
            f"{_columns(source.metadata)}: choose the same with --columns, or build a new index"
        )
    if index.facts.picture_column != source.picture_column:
        raise ValueError(
            f"{path} was built of {_kind(index.facts.picture_column)}, {config.images} is of "
            f"{_kind(source.picture_column)}: build a new index"
        )
    if index.root != source.root and not config.moved:
        raise ValueError(
            f"{path} indexes the pictures in {index.root}, not those in {source.root}: choose another index; or, "
            "if the folder was moved, say --moved"
        )
    return index


class _Build:
    """One run, the writer's lock held."""

    def __init__(
        self,
        config: BuildConfig,
        index: Index,
        encoder: SearchEncoder,
        source: PictureSource,
        total: int,
        progress: Progress | None,
    ) -> None:
        self.config, self.index, self.encoder, self.source = config, index, encoder, source
        self.total, self.progress = total, progress
        self.report = BuildReport()
        self.seen = SeenIds()
        self.under_way: deque[list[_Item]] = deque()
        self.waiting: list[tuple[_Item, Decoded]] = []  # decoded, to be embedded
        self.embedded: list[tuple[_Item, Row, np.ndarray]] = []  # to be committed
        self.relabelled: list[tuple[_Item, Row]] = []  # to be committed with the embedding that they have
        self.commits = 0
        self.last_commit = self.start = time.monotonic()

    def run(self) -> BuildReport:
        pool = DecodePool(
            self.encoder.decode_size(),
            self.config.workers,
            seconds=self.config.decode_seconds,
            ahead=-(-_BATCHES_AHEAD * self.config.batch_size // _CHUNK),
        )
        temporary = self.index.path / f".tmp-{FAILURES}-{os.getpid()}"
        with self.seen, pool, temporary.open("w", encoding="utf-8") as self.failures:
            try:
                for outcomes in pool.map(self._tasks()):
                    for item, outcome in zip(self.under_way.popleft(), outcomes, strict=True):
                        self._take(item, outcome)
                    self._tell()
                self._embed()
                self._commit()
                if self.config.prune:
                    self._prune()
            finally:
                self.failures.flush()
                temporary.replace(self.index.path / FAILURES)
        made = make_indices(self.index, self.config.vectors)
        if self.commits or made or is_behind(self.index):
            tidy(self.index)
        self.report = replace(self.report, rows=len(self.index), seconds=time.monotonic() - self.start)
        self._tell()
        return self.report

    # ---- the way of a picture

    def _tasks(self) -> Iterator[list[Task]]:
        """What the decoding processes get; pulled by them, in this thread."""
        for block in _blocks(self.source.pictures(), _LOOKED_UP):
            new: dict[str, SourcePicture] = {}
            # what the source names and cannot give: its rows, if there are any, go with --prune only
            lost = [] if self.config.prune else [picture_id(picture.path) for picture in block if picture.problem]
            kept = self.index.rows(lost)
            for picture in block:
                if picture.problem:
                    self._fail(picture.path, picture.problem, picture_id(picture.path) in kept)
                elif not self.seen.add(id := picture_id(picture.path)):
                    self._fail(picture.path, "named twice in the source: the first counts")
                else:
                    new[id] = picture
            known = self.index.rows(list(new))
            items = [_Item(id, picture, known.get(id)) for id, picture in new.items()]
            for chunk in _blocks(items, _CHUNK):
                self.under_way.append(chunk)
                yield [
                    Task(item.picture.path, item.picture.content, "" if item.before is None else item.before.hash)
                    for item in chunk
                ]

    def _take(self, item: "_Item", outcome: Outcome) -> None:
        if isinstance(outcome, Failed):
            self._fail(item.picture.path, outcome.reason, kept=item.before is not None)
        elif outcome.pixels is not None:
            self.waiting.append((item, outcome))
            if len(self.waiting) >= self.config.batch_size:
                self._embed()
        else:
            assert item.before is not None, "only known pictures are not decoded"
            if _same(item.before.metadata, item.picture.metadata):
                self.report = replace(self.report, unchanged=self.report.unchanged + 1)
            else:
                self.relabelled.append((item, replace(item.before, metadata=item.picture.metadata)))
        if self._is_due():
            self._commit()

    def _is_due(self) -> bool:
        count = len(self.embedded) + len(self.relabelled)
        late = time.monotonic() - self.last_commit >= self.config.commit_seconds
        return count >= self.config.commit_rows or (count > 0 and late)

    def _embed(self) -> None:
        if not self.waiting:
            return
        vectors = self.encoder.embed([EncoderInput(decoded.pixels) for _, decoded in self.waiting])
        for (item, decoded), vector in zip(self.waiting, vectors, strict=True):
            path, metadata = item.picture.path, item.picture.metadata
            row = Row(item.id, path, decoded.size, decoded.hash, decoded.width, decoded.height, metadata)
            self.embedded.append((item, row, vector))
        self.waiting = []

    def _commit(self) -> None:
        rows = [row for _, row, _ in self.embedded] + [row for _, row in self.relabelled]
        self.last_commit = time.monotonic()
        if not rows:
            return
        kept = self.index.vectors([row.id for _, row in self.relabelled])
        vectors = np.stack([*(vector for _, _, vector in self.embedded), *kept])
        self.index.append(rows_table(self.index.table.schema, rows, vectors))
        changed = sum(item.before is not None for item, _, _ in self.embedded)
        self.report = replace(
            self.report,
            added=self.report.added + len(self.embedded) - changed,
            changed=self.report.changed + changed,
            relabelled=self.report.relabelled + len(self.relabelled),
        )
        self.embedded, self.relabelled = [], []
        self._tell()
        self.commits += 1
        if self.commits % _TIDY_EVERY == 0:
            make_indices(self.index, VectorIndexConfig(kind="auto", exact_below=2**62))
            tidy(self.index)

    def _prune(self) -> None:
        if self.source.incomplete:
            raise ValueError(
                f"nothing was pruned, everything else was done: {self.source.incomplete[0]} could not be listed, so "
                "what is in it is unknown, not gone. Make it readable and give the command again"
            )
        for batch in self.index.scan(("id", "path")):
            paths = dict(zip(batch.column("id").to_pylist(), batch.column("path").to_pylist(), strict=True))
            if gone := [id for id in self.seen.missing(list(paths)) if not self._came_by_service(paths[id])]:
                self.report = replace(self.report, removed=self.report.removed + self.index.delete(gone))
                self.commits += 1

    def _came_by_service(self, path: str) -> bool:
        """No file that lists pictures knows what was added since: it stays while its picture is there."""
        return path.startswith(f"{ADDED}/") and (self.index.root / path).is_file()

    def _fail(self, path: str, reason: str, kept: bool = False) -> None:
        self.report = replace(self.report, failed=self.report.failed + 1, kept=self.report.kept + kept)
        reason += " (the index keeps the picture that was there before)" if kept else ""
        self.failures.write(json.dumps({"path": path, "reason": reason}, ensure_ascii=False) + "\n")

    def _tell(self) -> None:
        if self.progress is not None:
            uncommitted = len(self.embedded) + len(self.relabelled)
            seconds = time.monotonic() - self.start
            self.progress(replace(self.report, uncommitted=uncommitted, seconds=seconds), self.total)


@dataclass(frozen=True, eq=False)
class _Item:
    """A picture under way. before: its row in the index, if it has one."""

    id: str
    picture: SourcePicture
    before: Row | None


def _blocks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    source = iter(items)
    while block := list(islice(source, size)):
        yield block


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Equal metadata; "not a number" equals itself."""
    return one.keys() == other.keys() and all(
        one[name] == other[name]
        or (isinstance(one[name], float) and math.isnan(one[name]) and math.isnan(other[name] or 0.0))
        for name in one
    )


def _columns(metadata: Mapping[str, str]) -> str:
    return ", ".join(f"{name} ({kind})" for name, kind in metadata.items()) or "(none)"


def _kind(picture_column: str) -> str:
    return f"pictures inside of parquet files (column {picture_column!r})" if picture_column else "picture files"
