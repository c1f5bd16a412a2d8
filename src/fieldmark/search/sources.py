"""Where the pictures of an index come from: a folder, a JSONL file that lists them, or a parquet file.

Sources are streamed: memory does not grow with their length.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldmark.data.layouts import HOUSEKEEPING, is_picture
from fieldmark.search.listing import (
    PictureSource,
    SourcePicture,
    choose_path_column,
    followed,
    is_utf8,
    kept_columns,
    listed_picture,
)
from fieldmark.search.parquet_source import ParquetSource
from fieldmark.search.schema import TABLE, MetadataType, MetadataValue

_INT64 = 2**63


def open_source(
    images: str | Path,
    root: str | Path | None = None,
    columns: Sequence[str] | None = None,
    path_column: str | None = None,
) -> PictureSource:
    """The source at a path.

    Args:
        images: a folder, which is searched with all folders in it; or a .jsonl or .parquet file.
        root: folder that the paths in a file are relative to; the file's own if None. Not for folders.
        columns: metadata columns to keep; None keeps all.
        path_column: column with the path (or, in parquet, the picture), where it is none of `PATH_COLUMNS`.

    Raises:
        ValueError: nothing is there, it is of another kind, or a column cannot be kept.
    """
    images = Path(images)
    try:
        is_folder, is_file = images.is_dir(), images.is_file()
    except OSError as error:
        raise ValueError(f"{images} cannot be read ({error.strerror}): get the right to read it") from error
    if is_folder:
        if root is not None or columns is not None or path_column is not None:
            raise ValueError(f"{images} is a folder: root, columns and path_column are for .jsonl and .parquet files")
        return FolderSource(images)
    if not is_file:
        raise ValueError(f"there is no {images}: give a folder of pictures, or a .jsonl or .parquet file")
    base = Path(root) if root is not None else images.parent
    if not base.is_dir():
        raise ValueError(f"the root {base} is no folder")
    if images.suffix == ".jsonl":
        return JsonlSource(images, base, columns, path_column)
    if images.suffix == ".parquet":
        return ParquetSource(images, base, columns, path_column)
    raise ValueError(f"{images} is neither a folder nor a .jsonl or .parquet file: an index is built of one of these")


class FolderSource:
    """All pictures in a folder and the folders in it; hidden ones are passed over. No metadata columns.

    Files count by the ending of their name or their first bytes. Linked files are taken if they stay inside; linked
    folders are not followed.
    """

    def __init__(self, folder: Path) -> None:
        self.root = folder.resolve()
        self.metadata: Mapping[str, MetadataType] = {}
        self.picture_column = ""
        self.incomplete: list[str] = []

    def count(self) -> int:
        return sum(1 for _ in self.pictures())

    def pictures(self) -> Iterator[SourcePicture]:
        self.incomplete = []
        folders = [self.root]
        while folders:
            folder = folders.pop()
            inner = []
            try:
                with os.scandir(folder) as entries:  # unsorted: names of a large folder are never all in memory
                    for entry in entries:
                        if entry.name.startswith(".") or entry.name in HOUSEKEEPING:
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            inner.append(Path(entry.path))
                        elif (found := self._picture(entry)) is not None:
                            yield found
            except OSError as error:
                relative = self._relative(folder)
                self.incomplete.append(relative)
                yield SourcePicture(relative, problem=f"this folder cannot be listed ({error.strerror})")
            folders += (one for one in sorted(inner, reverse=True) if not (one / f"{TABLE}.lance").is_dir())

    def _picture(self, entry: os.DirEntry[str]) -> SourcePicture | None:
        relative = self._relative(Path(entry.path))
        if entry.is_symlink():
            try:
                followed(self.root, Path(entry.path))
            except ValueError as error:
                return SourcePicture(relative, problem=str(error))
            if entry.is_dir():
                return SourcePicture(relative, problem="a linked folder, which is not followed")
        if not entry.is_file() or not is_picture(entry.path):
            return None
        if not is_utf8(relative):
            shown = os.fsencode(relative).decode("utf-8", "backslashreplace")
            return SourcePicture(shown, problem="its name is not UTF-8: rename it")
        return SourcePicture(relative, Path(entry.path))

    def _relative(self, path: Path) -> str:
        return path.relative_to(self.root).as_posix()


class JsonlSource:
    """A JSONL file, a picture a line: its path relative to the root, and any other flat values as metadata.

    Raises:
        ValueError: a line is no JSON object, or a column has values of several types, or nested ones.
    """

    def __init__(self, path: Path, root: Path, columns: Sequence[str] | None, path_column: str | None) -> None:
        self.root = root.resolve()
        self.picture_column = ""
        self.incomplete: list[str] = []
        self._path = path
        self._count = 0
        types: dict[str, str] = {}
        self._path_column = path_column or ""
        for number, record in self._records():
            self._count += 1
            if not self._path_column:
                self._path_column = choose_path_column(record, path)
            for name, value in record.items():
                if name != self._path_column and (columns is None or name in columns):
                    types[name] = _joined(types.get(name), value, f"{path}, line {number}, column {name!r}")
        self.metadata: Mapping[str, MetadataType] = kept_columns(
            {name: kind or "string" for name, kind in types.items()}, columns, path
        )

    def count(self) -> int:
        return self._count

    def pictures(self) -> Iterator[SourcePicture]:
        for number, record in self._records():
            metadata = {name: _converted(record.get(name), kind) for name, kind in self.metadata.items()}
            yield listed_picture(self.root, record.get(self._path_column), metadata, f"line {number}")

    def _records(self) -> Iterator[tuple[int, dict[str, Any]]]:
        try:
            with self._path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    if line.isspace():
                        continue
                    try:
                        record = json.loads(line)
                    except ValueError as error:
                        raise ValueError(f"{self._path}, line {number} is no JSON ({error})") from error
                    if not isinstance(record, dict):
                        raise ValueError(f"{self._path}, line {number} is no JSON object")
                    yield number, record
        except OSError as error:
            raise ValueError(f"{self._path} cannot be read ({error.strerror})") from error


def _joined(kind: str | None, value: object, where: str) -> str:
    """The type that holds a column's values so far and one more. "" stands for none seen."""
    if value is None:
        return kind or ""
    new = {bool: "bool", int: "int64", float: "float64", str: "string"}.get(type(value))
    if new is None:
        raise ValueError(
            f"{where}: {value!r} is nested, an index keeps flat values: name the columns to keep (columns)"
        )
    if new == "int64" and isinstance(value, int) and not -_INT64 <= value < _INT64:
        raise ValueError(f"{where}: {value} does not fit into 64 bits: write it as text, or leave the column out")
    if not kind or kind == new:
        return new
    if {kind, new} == {"int64", "float64"}:
        return "float64"
    raise ValueError(f"{where}: {value!r} is {new}, but {kind} before: use one type, or leave the column out (columns)")


def _converted(value: Any, kind: str) -> MetadataValue:
    return float(value) if kind == "float64" and value is not None else value
