"""Parquet files as sources of an index: pictures in a column, or their paths."""

import bisect
import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldmark.data.decode import BadImage
from fieldmark.data.parquet import choose_image_column, schema_class_names
from fieldmark.data.sources import ParquetSource as ImageSource
from fieldmark.data.sources import confined, import_parquet, parquet_value
from fieldmark.search.listing import PATH_COLUMNS, SourcePicture, kept_columns, listed_picture
from fieldmark.search.schema import MetadataType, MetadataValue

_ROWS_AT_A_TIME = 64
_reading = threading.Lock()


class ParquetSource:
    """The rows of a parquet file.

    The column of pictures is binary, or a struct with `bytes` and `path` as Hugging Face writes it, or text: paths
    relative to the root. A picture inside of the file has the path "file.parquet#row". Numbers with class names in
    the schema become these names.

    Raises:
        ValueError: the file is damaged, the column cannot be told, or a metadata column cannot be kept.
    """

    def __init__(self, path: Path, root: Path, columns: Sequence[str] | None, path_column: str | None) -> None:
        self.root = root.resolve()
        self.incomplete: list[str] = []
        self._path = path
        if not path.resolve().is_relative_to(self.root):
            raise ValueError(f"{path} does not lie in the root {root}: the paths of its pictures would lead out of it")
        self._relative = path.resolve().relative_to(self.root).as_posix()
        with _opened(path) as file:
            schema = file.schema_arrow
            self._count = file.metadata.num_rows
        self._column = path_column or self._choose(schema)
        if self._column not in schema.names:
            raise ValueError(f"{path} has no column {self._column!r}; its columns: {', '.join(schema.names)}")
        self.picture_column = self._column if _holds_pictures(schema.field(self._column).type) else ""
        self._class_names = {name: schema_class_names(schema, name) for name in schema.names}
        found = {
            one.name: "string" if self._class_names[one.name] else _kind(str(one.type))
            for one in schema
            if one.name != self._column
        }
        self.metadata: Mapping[str, MetadataType] = kept_columns(found, columns, path)

    def count(self) -> int:
        return self._count

    def pictures(self) -> Iterator[SourcePicture]:
        number = 0
        with _opened(self._path) as file:
            names = [self._column, *self.metadata]
            for batch in file.iter_batches(batch_size=_ROWS_AT_A_TIME, columns=names):
                for record in batch.to_pylist():
                    yield self._picture(number, record)
                    number += 1

    def _picture(self, number: int, record: dict[str, Any]) -> SourcePicture:
        value = record[self._column]
        metadata = {name: self._value(name, record[name]) for name in self.metadata}
        content = value.get("bytes") if isinstance(value, dict) else value
        name = f"{self._relative}#{number}"
        if isinstance(content, bytes):
            return SourcePicture(name, content, metadata)
        path = value.get("path") if isinstance(value, dict) else value
        return listed_picture(self.root, path, metadata, name)

    def _value(self, name: str, value: Any) -> MetadataValue:
        names = self._class_names[name]
        if names and isinstance(value, int):
            return names[value] if 0 <= value < len(names) else None
        return value

    def _choose(self, schema: Any) -> str:
        texts = [one.name for one in schema if one.name in PATH_COLUMNS and _kind(str(one.type)) == "string"]
        try:
            return choose_image_column(schema, self._path)
        except ValueError:
            if len(texts) == 1:
                return texts[0]
            raise


def row_content(root: Path, path: str, column: str) -> bytes:
    """The picture at "file.parquet#row", in a column.

    Raises:
        BadImage: it is not there any more.
    """
    name, _, number = path.rpartition("#")
    file = confined(root, name)
    if file is None or not number.isdecimal() or not os.path.realpath(file).startswith(f"{root.resolve()}{os.sep}"):
        raise BadImage(path, f"the path leads out of {root}")
    parquet, damaged = import_parquet()
    try:
        with parquet.ParquetFile(file) as opened:
            if column not in opened.schema_arrow.names:
                raise BadImage(path, f"{name} has no column {column!r} any more")
            lengths = [opened.metadata.row_group(group).num_rows for group in range(opened.num_row_groups)]
    except (OSError, damaged) as error:
        raise BadImage(path, f"cannot be read ({error})") from error
    starts = [0, *itertools.accumulate(lengths)]
    row = int(number)
    group = bisect.bisect_right(starts, row) - 1
    if group >= len(lengths):
        raise BadImage(path, f"{name} has only {starts[-1]} rows now")
    with _reading:
        value = parquet_value(ImageSource(file, group, row - starts[group], column))
    content = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(content, bytes):
        raise BadImage(path, "the row holds no picture any more")
    return content


def is_inside_parquet(path: str) -> bool:
    """Whether the path of a row names a row of a parquet file."""
    name, mark, number = path.rpartition("#")
    return bool(mark) and number.isdecimal() and name.endswith(".parquet")


def _opened(path: Path) -> Any:
    parquet, damaged = import_parquet()
    try:
        return parquet.ParquetFile(path)
    except (OSError, damaged) as error:
        raise ValueError(f"{path} cannot be read as parquet: {error}") from error


def _holds_pictures(kind: Any) -> bool:
    return _kind(str(kind)) != "string"


def _kind(arrow: str) -> str:
    """Our name of an arrow type, or the arrow type itself where an index cannot keep it."""
    if arrow in ("string", "large_string", "string_view") or arrow.startswith("dictionary<values=string"):
        return "string"
    if arrow in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32"):
        return "int64"
    if arrow in ("halffloat", "float", "double"):
        return "float64"
    return arrow
