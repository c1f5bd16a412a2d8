"""The table of an index: LanceDB table "pictures", one row per picture.

    id         16 hex digits of the sha256 of `path`: stable, never a row's number
    path       POSIX, relative to the root; a picture inside a parquet file is "file.parquet#row"
    size       bytes of the picture as it is stored
    hash       sha256 of these bytes, hex
    width, height   pixels, after the EXIF orientation
    …          metadata columns of the source: string, int64, float64 or bool
    embedding  float32 × D, unit length

Which encoder made the rows, and where the pictures lie, stands in the table's metadata.
"""

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

FORMAT = "1"
TABLE = "pictures"
ADDED = "added"
"""Below the collection's root: pictures that came through the service, named by the hash of their content."""
OWN_COLUMNS = ("id", "path", "size", "hash", "width", "height", "embedding")
"""Names that a metadata column cannot have."""

MetadataType = Literal["string", "int64", "float64", "bool"]
MetadataValue = str | int | float | bool | None
_TYPES = ("string", "int64", "float64", "bool")
_PREFIX = "fieldmark."
ROOT_KEY = "fieldmark.root"
"""Key of the root in the table's metadata; in that of the field `path`, if the pictures were moved since."""
_READ_AHEAD_BYTES = 64 * 2**20
_ID = re.compile(r"[0-9a-f]{16}")
_COLUMN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Row:
    """One picture of an index, without its embedding.

    Attributes:
        id: 16 hex digits.
        path: POSIX, relative to the index's root.
        size: bytes.
        hash: sha256 of the bytes.
        width, height: pixels, upright.
        metadata: column → value of the source's columns; None where the source has none.
    """

    id: str
    path: str
    size: int
    hash: str
    width: int
    height: int
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)


@dataclass(frozen=True)
class IndexFacts:
    """What a table's metadata says of all its rows.

    Attributes:
        root: folder that the paths are relative to, absolute.
        encoder_name, encoder_fingerprint: who made the embeddings.
        embedding_size: D.
        metadata: name → type of the metadata columns, in their order.
        picture_column: the column of parquet files that holds the pictures, "" if they are files of their own.
    """

    root: Path
    encoder_name: str
    encoder_fingerprint: str
    embedding_size: int
    metadata: Mapping[str, MetadataType]
    picture_column: str = ""


def import_lancedb() -> Any:
    """The module lancedb.

    Raises:
        ValueError: it is not installed.
    """
    # LanceDB reads ahead up to 2 GiB in every scan; read once, when the first scan begins
    os.environ.setdefault("LANCE_DEFAULT_IO_BUFFER_SIZE", str(_READ_AHEAD_BYTES))
    try:
        import lancedb
        import pyarrow  # noqa: F401
    except ModuleNotFoundError as error:
        raise ValueError(
            f"an index needs LanceDB ({error.name} is missing): pip install 'fieldmark[search]'"
        ) from error
    return lancedb


def import_arrow() -> Any:
    """The module pyarrow; errors as `import_lancedb`."""
    import_lancedb()
    import pyarrow

    return pyarrow


def picture_id(path: str) -> str:
    """The id of the picture with this path relative to the root."""
    return hashlib.sha256(path.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def is_id(text: object) -> bool:
    """Whether this has the form of an id."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def check_columns(metadata: Mapping[str, str]) -> None:
    """Hold that metadata columns can be stored and asked for.

    Raises:
        ValueError: a name that is taken or cannot stand in a filter, or a type that is none of the four.
    """
    taken = [name for name in metadata if name in OWN_COLUMNS]
    odd = [name for name in metadata if not _COLUMN.fullmatch(name)]
    reasons = []
    if taken:
        reasons.append(f"every index has columns called {_quoted(taken)} itself")
    if odd:
        reasons.append(
            f"{_quoted(odd)} cannot stand in a filter: a letter (A to Z) or _ comes first, then letters, digits and _, "
            "64 at most"
        )
    if reasons:
        raise ValueError(
            f"metadata columns that cannot be kept: {'; '.join(reasons)}. Rename them, or name the ones to keep "
            "(--columns)"
        )
    for name, kind in metadata.items():
        if kind not in _TYPES:
            raise ValueError(f"metadata column {name!r} is of type {kind}; an index keeps {', '.join(_TYPES)}")


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names))


def index_schema(facts: IndexFacts) -> Any:
    """The arrow schema of a table, `facts` in its metadata.

    Raises:
        ValueError: see `check_columns`; or an embedding size below 1.
    """
    pa = import_arrow()
    check_columns(facts.metadata)
    if facts.embedding_size < 1:
        raise ValueError(f"the embedding size must be at least 1, got {facts.embedding_size}")
    types = {"string": pa.string(), "int64": pa.int64(), "float64": pa.float64(), "bool": pa.bool_()}
    return pa.schema(
        [
            pa.field("id", pa.string(), nullable=False),
            pa.field("path", pa.string(), nullable=False),
            pa.field("size", pa.int64(), nullable=False),
            pa.field("hash", pa.string(), nullable=False),
            pa.field("width", pa.int32(), nullable=False),
            pa.field("height", pa.int32(), nullable=False),
            *(pa.field(name, types[kind]) for name, kind in facts.metadata.items()),
            pa.field("embedding", pa.list_(pa.float32(), facts.embedding_size), nullable=False),
        ],
        metadata={
            f"{_PREFIX}format": FORMAT,
            ROOT_KEY: str(facts.root),
            f"{_PREFIX}encoder.name": facts.encoder_name,
            f"{_PREFIX}encoder.fingerprint": facts.encoder_fingerprint,
            f"{_PREFIX}encoder.size": str(facts.embedding_size),
            f"{_PREFIX}picture_column": facts.picture_column,
        },
    )


def read_facts(schema: Any, path: Path) -> IndexFacts:
    """What the schema of a table says. path: of the index, for errors.

    Raises:
        ValueError: the table is not one of ours, or of another version.
    """
    stored = {key.decode(): value.decode() for key, value in (schema.metadata or {}).items()}
    own = {key.removeprefix(_PREFIX): value for key, value in stored.items() if key.startswith(_PREFIX)}
    if "format" not in own:
        raise ValueError(f"{path} holds a table {TABLE!r} that is no index of Fieldmark's: choose another folder")
    if own["format"] != FORMAT:
        raise ValueError(
            f"{path} is an index of format {own['format']}, this version reads {FORMAT}: build it anew, or use the "
            "version of Fieldmark that made it"
        )
    moved = (schema.field("path").metadata or {}).get(ROOT_KEY.encode())
    names = {"string": "string", "int64": "int64", "double": "float64", "bool": "bool"}
    metadata: dict[str, Any] = {
        one.name: names.get(str(one.type), str(one.type)) for one in schema if one.name not in OWN_COLUMNS
    }
    check_columns(metadata)
    return IndexFacts(
        root=Path(own["root"] if moved is None else moved.decode()),
        encoder_name=own["encoder.name"],
        encoder_fingerprint=own["encoder.fingerprint"],
        embedding_size=int(own["encoder.size"]),
        metadata=MappingProxyType(metadata),
        picture_column=own.get("picture_column", ""),
    )


def rows_table(schema: Any, rows: Sequence[Row], embeddings: Any) -> Any:
    """An arrow table in a schema of `index_schema`. embeddings: float32 (n, D)."""
    pa = import_arrow()
    own = {name: [getattr(row, name) for row in rows] for name in OWN_COLUMNS if name != "embedding"}
    columns = []
    for one in schema:
        if one.name == "embedding":
            columns.append(pa.FixedSizeListArray.from_arrays(pa.array(embeddings.reshape(-1)), one.type.list_size))
        else:
            values = own.get(one.name) or [row.metadata.get(one.name) for row in rows]
            columns.append(pa.array(values, type=one.type))
    return pa.Table.from_arrays(columns, schema=schema)


def to_row(record: Mapping[str, Any]) -> Row:
    """A row as the table gives it (a mapping by column) as a `Row`; other columns, such as a distance, are left out."""
    own = {name: record[name] for name in OWN_COLUMNS if name != "embedding"}
    extra = {
        name: value for name, value in record.items() if name not in OWN_COLUMNS and not name.startswith("_")
    }  # LanceDB's own columns begin with "_"
    return Row(**own, metadata=MappingProxyType(extra))
