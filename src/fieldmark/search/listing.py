"""What all sources of an index have in common: pictures with their metadata, and what is wrong with some."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

from fieldmark.data.sources import confined
from fieldmark.search.schema import MetadataType, MetadataValue, check_columns

PATH_COLUMNS = ("path", "file_name", "image")
"""Names of the column with the picture's path, first come first."""


@dataclass(frozen=True, eq=False)
class SourcePicture:
    """One picture of a source.

    Attributes:
        path: POSIX, relative to the root; or, if there is a `problem`, whatever names it.
        content: where its bytes are: a file, or the bytes themselves.
        metadata: values of the source's columns.
        problem: why it cannot be taken, "" if it can.
    """

    path: str
    content: Path | bytes = b""
    metadata: Mapping[str, MetadataValue] = field(default_factory=dict)
    problem: str = ""


class PictureSource(Protocol):
    """A list of pictures that can be gone through again and again."""

    root: Path
    """Folder that the paths are relative to, absolute."""
    metadata: Mapping[str, MetadataType]
    """Columns that every picture has a value of, or None."""
    picture_column: str
    """Column of the pictures in a parquet file that holds them; "" where they are files."""
    incomplete: list[str]
    """Folders that could not be listed, filled by `pictures`; what they hold is unknown, not gone."""

    def count(self) -> int:
        """How many `pictures` gives, unless the source changes."""

    def pictures(self) -> Iterator[SourcePicture]:
        """Each picture; and what should be one, with its problem."""


def choose_path_column(columns: Mapping[str, Any] | Sequence[str], path: Path) -> str:
    """The column with the pictures' paths.

    Raises:
        ValueError: none of the known names is there.
    """
    found = next((name for name in PATH_COLUMNS if name in columns), None)
    if found is None:
        raise ValueError(
            f"{path} has no column {', '.join(PATH_COLUMNS)} (its columns: {', '.join(columns)}): name the column with "
            "the picture's path as path_column"
        )
    return found


def kept_columns(found: Mapping[str, Any], columns: Sequence[str] | None, path: Path) -> dict[str, MetadataType]:
    """The columns to keep, with their types.

    Raises:
        ValueError: one that was asked for is not there, or one cannot be stored.
    """
    if columns is not None and (missing := [name for name in columns if name not in found]):
        raise ValueError(f"{path} has no column {missing[0]!r}; its columns: {', '.join(found) or 'none'}")
    kept = {name: kind for name, kind in found.items() if columns is None or name in columns}
    check_columns(kept)
    return kept


def listed_picture(root: Path, name: object, metadata: Mapping[str, MetadataValue], where: str) -> SourcePicture:
    """A picture whose path stands in a file. where: the line or row, for problems."""
    if not isinstance(name, str) or not name:
        return SourcePicture(where, problem=f"it names no picture, but {name!r}")
    if not is_utf8(name):
        return SourcePicture(where, problem=f"the path {name!r} is not UTF-8")
    inside = confined(root, name)
    relative = PurePosixPath(name).as_posix()
    if inside is None:
        return SourcePicture(name, problem=f"the path leads out of {root}: it must be relative to it, without ..")
    try:
        followed(root, inside)
    except ValueError as error:
        return SourcePicture(relative, problem=str(error))
    return SourcePicture(relative, inside, metadata)


def followed(root: Path, path: Path) -> Path:
    """Where a path below the root leads, links followed.

    Raises:
        ValueError: to nothing, or out of the root.
    """
    try:
        resolved = Path(os.path.realpath(path, strict=True))
    except OSError as error:
        raise ValueError(f"{path} is not there ({error.strerror or error})") from error
    if not resolved.is_relative_to(os.path.realpath(root)):
        raise ValueError(f"{path} is a link that leads out of {root}: links must stay inside")
    return resolved


def is_utf8(text: str) -> bool:
    """Whether a name can be stored as text: file systems allow others."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
