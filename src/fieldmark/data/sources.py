"""Where the bytes of a picture lie: in a file of its own, or in a row of a parquet file."""

import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.data.decode import BadImage, DecodedPicture, DecodeLimits, decode_picture

ROW_GROUP_CACHE_BYTES = 256 * 2**20
"""Row groups of parquet files that a process keeps at hand; the last one is kept whatever its size."""


@dataclass(frozen=True)
class FileSource:
    """A picture in a file of its own."""

    path: Path


@dataclass(frozen=True)
class ParquetSource:
    """A picture in a row of a parquet file."""

    path: Path
    row_group: int
    row: int
    """Row within the row group."""
    column: str
    """A binary column, or a struct with `bytes` and `path` as Hugging Face writes it."""


ImageSource = FileSource | ParquetSource


def decode_source(source: ImageSource, limits: DecodeLimits, name: str) -> DecodedPicture:
    """Decodes the picture; errors as in `fieldmark.data.decode.decode_image`, naming `name`."""
    if isinstance(source, FileSource):
        return decode_picture(source.path, limits, name=name)
    value = parquet_value(source)
    content = value.get("bytes") if isinstance(value, dict) else value
    if content is None and isinstance(value, dict) and value.get("path"):
        inside = confined(source.path.parent, value["path"])
        if inside is None:
            raise BadImage(name, f"its path {value['path']!r} leads out of the collection")
        return decode_picture(inside, limits, name=name)
    if not isinstance(content, bytes):
        raise BadImage(name, "the row holds no picture")
    return decode_picture(content, limits, name=name)


def parquet_value(source: ParquetSource) -> Any:
    """What stands in the row: bytes, or a mapping with `bytes` and `path`. Not to be called by two threads at once.

    Raises:
        BadImage: the file cannot be read.
    """
    return _row_group(source)[source.row].as_py()


def confined(root: Path, name: str) -> Path | None:
    """`root / name`, or None if the name is empty, absolute, or climbs with "..". Links are followed later."""
    parts = re.split(r"[\\/]", name)
    if not name or "\0" in name or ".." in parts or parts[0] == "" or parts[0].endswith(":"):
        return None
    return root / name


def import_parquet() -> tuple[Any, type[Exception]]:
    """The module pyarrow.parquet, and the error that it raises for damaged files (beside OSError).

    Raises:
        ValueError: pyarrow is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ValueError("parquet collections need pyarrow: pip install 'fieldmark[parquet]'") from error
    return pyarrow.parquet, pyarrow.ArrowException


_row_groups: OrderedDict[tuple[Path, int, str], Any] = OrderedDict()


def _row_group(source: ParquetSource) -> Any:
    """The picture column of the row's group. Parquet is compressed by group: single rows cannot be read."""
    key = (source.path, source.row_group, source.column)
    if key in _row_groups:
        _row_groups.move_to_end(key)
        return _row_groups[key]
    parquet, damaged = import_parquet()
    try:
        with parquet.ParquetFile(source.path) as file:
            column = file.read_row_group(source.row_group, columns=[source.column]).column(0)
    except (OSError, damaged) as error:
        raise BadImage(source.path, f"cannot be read ({error})") from error
    _row_groups[key] = column
    while len(_row_groups) > 1 and sum(c.nbytes for c in _row_groups.values()) > ROW_GROUP_CACHE_BYTES:
        _row_groups.popitem(last=False)
    return column
