"""Keeping an index quick and small: its two LanceDB indices, compaction, what there is to know about it."""

from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

from fieldmark.search.index import Index

KEEP_VERSIONS = timedelta(minutes=10)
"""Younger versions stay, for readers that have begun to read them."""


@dataclass(frozen=True)
class VectorIndexConfig:
    """When and how neighbours are found approximately."""

    kind: Literal["auto", "exact", "approximate"] = "auto"
    """auto: by the number of rows. exact: every row is compared. approximate: an IVF-HNSW-SQ index, from the first
    row on."""
    exact_below: int = 50_000
    """With auto: fewer rows than this are compared exactly."""
    partitions: int | None = None
    """Partitions of the rows; not given: one per million."""
    m: int = 20
    """Neighbours of a row in the graph: more is more exact, slower to build, and larger."""
    ef_construction: int = 300
    """Candidates looked at for each of them: more is more exact and slower to build."""

    def __post_init__(self) -> None:
        for name in ("exact_below", "partitions", "m", "ef_construction"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def wanted(self, rows: int) -> bool:
        """Whether so many rows get an approximate index."""
        if self.kind == "auto":
            return rows >= self.exact_below
        return self.kind == "approximate" and rows > 0


@dataclass(frozen=True)
class IndexInfo:
    """What `fieldmark index info` tells.

    Attributes:
        bytes_on_disk: with versions that are kept for readers.
        vector_index: "exact", or LanceDB's name of the approximate index.
        rows_in_vector_index: the others are compared exactly.
        metadata: column → type.
        fragments: files that the rows are spread over.
        failures: pictures that the last build could not take.
    """

    path: Path
    rows: int
    bytes_on_disk: int
    encoder_name: str
    encoder_fingerprint: str
    embedding_size: int
    root: Path
    metadata: dict[str, str]
    vector_index: str
    rows_in_vector_index: int
    fragments: int
    version: int
    failures: int


def describe(index: Index) -> IndexInfo:
    """Facts about an index."""
    found = _lance_index(index, "embedding")
    failures = index.path / FAILURES
    return IndexInfo(
        path=index.path,
        rows=len(index),
        bytes_on_disk=bytes_on_disk(index.path),
        encoder_name=index.encoder_name,
        encoder_fingerprint=index.encoder_fingerprint,
        embedding_size=index.embedding_size,
        root=index.root,
        metadata=dict(index.facts.metadata),
        vector_index="exact" if found is None else str(found.index_type),
        rows_in_vector_index=0 if found is None else int(found.num_indexed_rows or 0),
        fragments=_fragments(index),
        version=int(index.table.version),
        failures=sum(1 for _ in failures.open("rb")) if failures.is_file() else 0,
    )


FAILURES = "failures.jsonl"
"""In the index's folder: what the last build could not take, a picture a line, with `path` and `reason`."""


def tidy(index: Index, keep: timedelta = KEEP_VERSIONS) -> None:
    """Merge small files, bring LanceDB's indices up to date, remove what killed writers and old versions left.

    keep: age from which old versions are removed.
    """
    with index.writing():
        # Unverified files are those of no version: of a writer that died, since the lock is ours.
        index.table.optimize(cleanup_older_than=max(keep, timedelta(milliseconds=1)), delete_unverified=True)


def make_indices(index: Index, config: VectorIndexConfig, *, anew: bool = False) -> bool:
    """The look-up of ids, and the approximate index if there are rows enough, unless they exist.

    anew: build the approximate index again, by `config`, even if there is one; drop it if none is wanted.
    Returns whether anything was done.
    """
    rows = len(index)
    done = False
    with index.writing():
        if rows and _lance_index(index, "id") is None:
            from lancedb.index import BTree

            index.table.create_index("id", config=BTree())
            done = True
        found = _lance_index(index, "embedding")
        if config.wanted(rows):
            if found is None or anew:
                from lancedb.index import HnswSq

                index.table.create_index(
                    "embedding",
                    config=HnswSq(
                        distance_type="cosine",
                        num_partitions=config.partitions,
                        m=config.m,
                        ef_construction=config.ef_construction,
                    ),
                )
                done = True
        elif found is not None and (anew or config.kind == "exact"):
            index.table.drop_index(found.name)
            done = True
    return done


def is_behind(index: Index) -> bool:
    """Whether rows are not in LanceDB's indices yet, so that `tidy` would make search quicker."""
    return any((one.num_unindexed_rows or 0) > 0 for one in index.table.list_indices())


@dataclass(frozen=True)
class Compacted:
    """Bytes on disk, and files that hold rows, before and after."""

    bytes_before: int
    bytes_after: int
    fragments_before: int
    fragments_after: int


def compact(
    index: Index,
    config: VectorIndexConfig | None = None,
    *,
    keep: timedelta = KEEP_VERSIONS,
) -> Compacted:
    """`tidy`, and build the approximate index anew if a configuration is given."""
    before, fragments = bytes_on_disk(index.path), _fragments(index)
    if config is not None:
        make_indices(index, config, anew=True)
    tidy(index, keep)
    return Compacted(before, bytes_on_disk(index.path), fragments, _fragments(index))


@dataclass(frozen=True)
class CompactConfig:
    """What `fieldmark index compact` does."""

    index: str = ""
    """Folder of the index."""
    rebuild: bool = False
    """Choose and build the search index anew, by `vectors`."""
    keep_minutes: float = 10.0
    """Versions younger than this stay, for readers that have begun to read them."""
    vectors: VectorIndexConfig = field(default_factory=VectorIndexConfig)

    def __post_init__(self) -> None:
        if not self.keep_minutes >= 0:
            raise ValueError(f"keep_minutes must be 0 or more, got {self.keep_minutes}")


def run_compact(config: CompactConfig) -> Compacted:
    """`compact` of the index that a configuration names."""
    if not config.index:
        raise ValueError("no index given: set --index")
    keep = timedelta(minutes=config.keep_minutes)
    return compact(Index.open(config.index), config.vectors if config.rebuild else None, keep=keep)


def bytes_on_disk(folder: Path) -> int:
    """Of all files below a folder; files that vanish meanwhile count 0."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total


def _fragments(index: Index) -> int:
    return int(index.table.stats()["fragment_stats"]["num_fragments"])


def _lance_index(index: Index, column: str) -> Any:
    return next((one for one in index.table.list_indices() if list(one.columns) == [column]), None)
