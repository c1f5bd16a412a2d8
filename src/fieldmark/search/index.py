"""An index of pictures on disk, to be asked for neighbours: `Index`."""

import contextlib
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from fieldmark.data.decode import DEFAULT_LIMITS, DecodeLimits, read_content
from fieldmark.data.sources import confined
from fieldmark.search.disk import first_line, storing
from fieldmark.search.encoders import SearchEncoder
from fieldmark.search.listing import followed
from fieldmark.search.parquet_source import is_inside_parquet, row_content
from fieldmark.search.queries import SearchQuery, SearchResults, search
from fieldmark.search.schema import (
    OWN_COLUMNS,
    ROOT_KEY,
    TABLE,
    IndexFacts,
    MetadataType,
    Row,
    import_arrow,
    import_lancedb,
    index_schema,
    is_id,
    picture_id,
    read_facts,
    to_row,
)
from fieldmark.search.writer_lock import WriterLock

_IDS_AT_A_TIME = 1024
_UNIT_TOLERANCE = 1e-3


@dataclass(frozen=True)
class SearchEffort:
    """How hard the approximate index searches; without one, search is exact and these count for nothing."""

    nprobes: int = 20
    """Partitions that are looked into."""
    ef: int | None = None
    """Candidates that are followed in a partition's graph, at least k; None leaves it to LanceDB (1.5 × k)."""
    refine_factor: int | None = 4
    """So many times k candidates are compared by their full embeddings; None trusts the quantised ones."""

    def __post_init__(self) -> None:
        for name in ("nprobes", "ef", "refine_factor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")


class Index:
    """Rows of an index, in one folder. Opened with `open`, made with `create`.

    Reading sees what was last committed, by whatever process. Writing takes the index's lock: one writer at a time.
    A commit is whole or it did not happen, also when the process is killed.
    """

    def __init__(self, path: Path, table: Any) -> None:
        self.path = path
        self.table = table
        """The LanceDB table; change it only inside `writing`."""
        self.facts: IndexFacts = read_facts(table.schema, path)
        self.lock = WriterLock(path)
        self.effort = SearchEffort()
        """May be replaced."""

    # ---- opening

    @classmethod
    def open(cls, path: str | Path) -> "Index":
        """The index in a folder.

        Raises:
            ValueError: there is none, or it cannot be read.
        """
        path = Path(path)
        if not cls.exists(path):
            raise ValueError(
                f"{path} is no index: build one with fieldmark index build --encoder RUN --images PICTURES "
                f"--index {path}"
            )
        try:
            return cls(path, _connect(path).open_table(TABLE))
        except (OSError, RuntimeError, ValueError) as error:
            raise ValueError(f"the index {path} cannot be opened ({first_line(error)})") from error

    @staticmethod
    def exists(path: str | Path) -> bool:
        """Whether there is an index in a folder: a table with at least one version."""
        return any((Path(path) / f"{TABLE}.lance" / "_versions").glob("*.manifest"))

    @classmethod
    def create(
        cls,
        path: str | Path,
        encoder: SearchEncoder,
        root: str | Path,
        metadata: Mapping[str, MetadataType] | None = None,
        picture_column: str = "",
    ) -> "Index":
        """A new index without rows.

        Args:
            path: its folder: new, or empty.
            encoder: who makes its embeddings.
            root: the folder that paths are relative to.
            metadata: name → type of the source's columns.
            picture_column: the column of parquet files that holds the pictures; "" if they are files of their own.

        Raises:
            ValueError: the folder holds something, or a metadata column cannot be stored.
        """
        path = Path(path)
        require_unused(path)
        facts = IndexFacts(
            Path(root).resolve(),
            encoder.name,
            encoder.fingerprint,
            encoder.embedding_size,
            dict(metadata or {}),
            picture_column,
        )
        schema = index_schema(facts)
        with storing(path):
            path.mkdir(parents=True, exist_ok=True)
        with WriterLock(path).hold(), storing(path):
            require_unused(path)  # nobody made one while we waited
            shutil.rmtree(path / f"{TABLE}.lance", ignore_errors=True)  # of a creation that was killed
            return cls(path, _connect(path).create_table(TABLE, schema=schema))

    # ---- what it is

    @property
    def root(self) -> Path:
        """Folder of the pictures, absolute."""
        return self.facts.root

    @property
    def encoder_name(self) -> str:
        """The encoder's folder when the index was built."""
        return self.facts.encoder_name

    @property
    def encoder_fingerprint(self) -> str:
        """See `SearchEncoder.fingerprint`."""
        return self.facts.encoder_fingerprint

    @property
    def embedding_size(self) -> int:
        """D."""
        return self.facts.embedding_size

    @property
    def metadata_columns(self) -> tuple[str, ...]:
        """Names of the source's columns."""
        return tuple(self.facts.metadata)

    def __len__(self) -> int:
        return self.table.count_rows()

    def check_encoder(self, encoder: SearchEncoder) -> None:
        """Hold that queries of this encoder can be compared with the rows.

        Raises:
            ValueError: another encoder made the rows; both are named.
        """
        self.check_fingerprint(encoder.name, encoder.fingerprint)

    def check_fingerprint(self, name: str, fingerprint: str) -> None:
        """`check_encoder` of an encoder that is not loaded."""
        if fingerprint != self.encoder_fingerprint:
            raise ValueError(
                f"{self.path} was built with the encoder {self.encoder_name} ({self.encoder_fingerprint[:12]}), not "
                f"with {name} ({fingerprint[:12]}): their embeddings cannot be compared. Use the "
                "first, or build an index with the second"
            )

    # ---- reading

    def get(self, id: str) -> Row | None:
        """The row with this id, or None."""
        return self.rows([id]).get(id)

    def rows(self, ids: Sequence[str]) -> dict[str, Row]:
        """Id → row, for those of `ids` that are in the index."""
        return {row["id"]: to_row(row) for row in self._select(ids, self._row_columns())}

    def vectors(self, ids: Sequence[str]) -> np.ndarray:
        """Embeddings of rows, float32 (n, D), in the order of `ids`.

        Raises:
            ValueError: an id is not in the index.
        """
        result = np.empty((len(ids), self.embedding_size), dtype=np.float32)
        places: dict[str, list[int]] = {}
        for place, id in enumerate(ids):
            places.setdefault(id, []).append(place)
        for row in self._select(list(places), ("id", "embedding")):
            result[places.pop(row["id"])] = row["embedding"]
        if places:
            raise ValueError(f"{self.path} has no row with the id {next(iter(places))!r}")
        return result

    def scan(
        self, columns: Sequence[str] | None = None, where: str | None = None, batch_size: int = 4096
    ) -> Iterator[Any]:
        """All rows as arrow record batches, in no promised order; memory does not grow with the index."""
        query = self.table.search().select(list(columns or self._row_columns()))
        if where is not None:
            query = query.where(where)
        yield from query.to_batches(batch_size)

    def nearest(
        self, vector: np.ndarray, k: int, where: str | None = None, exact: bool = False
    ) -> list[tuple[Row, float]]:
        """The k rows nearest to an embedding, with their cosine similarity, best first.

        Args:
            vector: float32 (D,), of any length above 0.
            k: at least 1; fewer rows come if there are no more.
            where: SQL filter, applied first. It goes to LanceDB as it is: check what strangers send
                (`fieldmark.search.filters`).
            exact: compare with every row, even if there is an approximate index.

        Raises:
            ValueError: a vector of the wrong shape or without direction, k below 1, or a filter that cannot be parsed.
        """
        vector = np.asarray(vector, dtype=np.float32)
        if vector.shape != (self.embedding_size,):
            raise ValueError(f"the embedding must have the shape ({self.embedding_size},), got {vector.shape}")
        if not np.isfinite(vector).all() or not vector.any():
            raise ValueError("the embedding must be finite and not all zeros")
        if k < 1:
            raise ValueError(f"k must be at least 1, got {k}")
        query = self.table.search(vector, vector_column_name="embedding").distance_type("cosine").limit(k)
        query = query.select([*self._row_columns(), "_distance"]).nprobes(self.effort.nprobes)
        if self.effort.ef is not None:
            query = query.ef(max(self.effort.ef, k))
        if self.effort.refine_factor is not None:
            query = query.refine_factor(self.effort.refine_factor)
        if exact:
            query = query.bypass_vector_index()
        if where is not None:
            query = query.where(where, prefilter=True)
        try:
            found = query.to_arrow().to_pylist()
        except (ValueError, RuntimeError) as error:
            if where is None:
                raise
            raise ValueError(f"the filter {where!r} cannot be applied ({first_line(error)})") from error
        return [(to_row(row), 1.0 - row["_distance"]) for row in found]

    def search(self, query: SearchQuery, encoder: SearchEncoder | None = None, *, exact: bool = False) -> SearchResults:
        """What a query asks for; see `queries.search`."""
        return search(self, query, encoder, exact=exact)

    def file(self, row: Row) -> Path:
        """The picture's file, links followed.

        Raises:
            ValueError: it leads out of the root, is gone, or is no file of its own (a row of a parquet file).
        """
        inside = confined(self.root, row.path)
        if inside is None:
            raise ValueError(f"the path {row.path!r} leads out of {self.root}")
        resolved = followed(self.root, inside)
        if not resolved.is_file():
            raise ValueError(f"{row.path} in {self.root} is no regular file")
        return resolved

    def source(self, row: Row) -> Path | bytes:
        """Where the picture's bytes are: its file, or the bytes themselves if they lie in a parquet file.

        Raises:
            ValueError: see `file`. `BadImage`, a ValueError: they cannot be read.
        """
        if self.facts.picture_column and is_inside_parquet(row.path):
            return row_content(self.root, row.path, self.facts.picture_column)
        return self.file(row)

    def content(self, row: Row, limits: DecodeLimits = DEFAULT_LIMITS) -> bytes:
        """The picture's bytes as they are stored. limits: `BadImage` above max_bytes. Other errors as `source`."""
        return read_content(self.source(row), limits, row.path)

    # ---- writing

    @contextlib.contextmanager
    def writing(self, wait: float = 10.0) -> Iterator[None]:
        """The right to change the index.

        wait: seconds to wait for another writer.

        Raises:
            ValueError: another writer has it still; or, from inside, the disk is full. What was committed stays.
        """
        with self.lock.hold(wait), storing(self.path):
            self.table.checkout_latest()
            yield

    def append(self, rows: Any) -> None:
        """Add rows, in one commit; rows whose id is there already are replaced.

        rows: an arrow table with the columns of the index's schema (`schema.rows_table` makes one).

        Raises:
            ValueError: columns are missing, ids do not belong to their paths or occur twice, an embedding is not of
                unit length, or another writer is at work.
        """
        rows = self._checked(rows)
        if not rows.num_rows:
            return
        ids = rows.column("id").to_pylist()
        with self.writing():
            if next(self._select(ids, ("id",)), None) is None:
                self.table.add(rows)
            else:
                merge = self.table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
                merge.execute(rows)

    def delete(self, ids: Sequence[str]) -> int:
        """Remove rows, in one commit; unknown ids are passed over. Returns how many there were."""
        known = [id for id in dict.fromkeys(ids) if is_id(id)]
        if not known:
            return 0
        with self.writing():
            return int(self.table.delete(_in(known)).num_deleted_rows)

    def move_root(self, root: str | Path) -> None:
        """The pictures lie in another folder now. Relative paths, and so ids, stay."""
        with self.writing():
            # LanceDB changes the metadata of fields only; `read_facts` looks there first
            self.table.update_field_metadata({"path": "path", "metadata": {ROOT_KEY: str(Path(root).resolve())}})
        self.facts = read_facts(self.table.schema, self.path)

    def _checked(self, rows: Any) -> Any:
        pa = import_arrow()
        schema = self.table.schema
        try:
            rows = rows.select(schema.names).cast(schema)
        except (pa.ArrowException, KeyError, ValueError) as error:
            raise ValueError(f"the rows do not have the columns of {self.path} ({first_line(error)})") from error
        ids = rows.column("id").to_pylist()
        if len(set(ids)) != len(ids):
            raise ValueError("an id occurs twice among the rows: each picture is added once")
        for id, path in zip(ids, rows.column("path").to_pylist(), strict=True):
            if id != picture_id(path):
                raise ValueError(f"the id {id!r} is not that of the path {path!r}: it must be {picture_id(path)!r}")
        flat = rows.column("embedding").combine_chunks().flatten().to_numpy(zero_copy_only=False)
        lengths = np.linalg.norm(flat.reshape(len(ids), self.embedding_size), axis=1)
        if not np.all(np.abs(lengths - 1) <= _UNIT_TOLERANCE):  # also false for NaN
            worst = int(np.argmax(np.nan_to_num(np.abs(lengths - 1), nan=np.inf)))
            raise ValueError(f"the embedding of {ids[worst]} has length {lengths[worst]}, not 1: normalise it")
        return rows

    def _select(self, ids: Sequence[str], columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        known = [id for id in ids if is_id(id)]
        for start in range(0, len(known), _IDS_AT_A_TIME):
            chosen = known[start : start + _IDS_AT_A_TIME]
            query = self.table.search().where(_in(chosen)).select(list(columns)).limit(len(chosen))
            yield from query.to_arrow().to_pylist()

    def _row_columns(self) -> tuple[str, ...]:
        return (*(name for name in OWN_COLUMNS if name != "embedding"), *self.metadata_columns)


def require_unused(path: Path) -> None:
    """Hold that a new index can be made in a folder. Raises ValueError."""
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is a file: choose another folder for the index")
    if Index.exists(path):
        raise ValueError(f"{path} is an index already")
    names = sorted(one.name for one in path.iterdir()) if path.exists() else []
    strangers = [name for name in names if not name.startswith(".") and name != f"{TABLE}.lance"]
    if strangers:
        raise ValueError(
            f"{path} is not empty and holds no index (found {strangers[0]}): choose an empty or new folder"
        )


def _connect(path: Path) -> Any:
    # an interval of 0: every read looks for the newest version, whichever process wrote it
    return import_lancedb().connect(str(path), read_consistency_interval=timedelta(0))


def _in(ids: Sequence[str]) -> str:
    return "id IN (" + ", ".join(f"'{id}'" for id in ids) + ")"
