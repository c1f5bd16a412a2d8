"""Queries as they are written on a command line: pictures, words and examples, with weights behind a caret."""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from fieldmark.search.queries import MINUS_WEIGHT, Part, SearchQuery
from fieldmark.search.schema import is_id, picture_id

if TYPE_CHECKING:
    from fieldmark.search.index import Index

_WEIGHT = re.compile(r"(.*\S)\s*\^\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*", re.DOTALL)
_PICTURE_NAME = re.compile(r".*\.(jpe?g|png|webp|gif|bmp|tiff?|avif|jp2|ppm|pgm)", re.IGNORECASE)


def written_query(
    index: "Index",
    *,
    images: Sequence[str] = (),
    texts: Sequence[str] = (),
    minus: Sequence[str] = (),
    more_like: Sequence[str] = (),
    less_like: Sequence[str] = (),
    where: str | None = None,
    k: int = 20,
    instruction: str = "",
    together: bool = False,
    min_score: float = -1.0,
) -> SearchQuery:
    """The query that these words mean.

    Args:
        images: files, each with its weight behind a caret if that is not 1: "a.jpg^0.5".
        texts: words, with weights in the same way.
        minus: files or words that are led away from, by 0.5 or the weight behind the caret.
        more_like, less_like: ids of rows, or their paths.
        together: read each picture together with all words, as one request, instead of adding them up.

    Raises:
        ValueError: a file or row that is not there, a weight that is not positive, or `together` without both.
    """
    if together and not (images and texts):
        raise ValueError("together reads pictures and words as one request: give an image and text")
    parts = [_positive(written, "image") for written in images]
    words = [_positive(written, "text") for written in texts]
    if together:
        joined = " ".join(str(part.text) for part in words)
        parts = [Part(part.weight, part.image, joined) for part in parts]
    else:
        parts += words
    return SearchQuery(
        (*parts, *(_negative(written) for written in minus)),
        tuple(row_id(index, one) for one in more_like),
        tuple(row_id(index, one) for one in less_like),
        where,
        k,
        instruction,
        min_score,
    )


def split_weight(written: str) -> tuple[str, float | None]:
    """What is written without its weight, and the weight: "yellow eye^0.5" gives "yellow eye" and 0.5.

    There is no weight (None) without a caret, and where this is a file's name as it stands.

    Raises:
        ValueError: a weight that is not positive.
    """
    found = _WEIGHT.fullmatch(written)
    if found is None or _is_file(written):
        return written, None
    weight = float(found.group(2))
    if weight <= 0:
        raise ValueError(f"the weight in {written!r} must be above 0 (--minus leads away from something)")
    return found.group(1), weight


def row_id(index: "Index", written: str) -> str:
    """The id of a row that is named by it, by its path relative to the index's root, or by its file.

    Raises:
        ValueError: there is no such row.
    """
    names = [written] if is_id(written) else []
    names.append(picture_id(PurePosixPath(written).as_posix()))
    if _is_file(written):
        root, file = index.root.resolve(), Path(written).resolve()
        if file.is_relative_to(root):
            names.append(picture_id(file.relative_to(root).as_posix()))
    there = index.rows(names)
    for name in names:
        if name in there:
            return name
    raise ValueError(f"{index.path} has no row with the id or path {written!r} (paths are relative to {index.root})")


def _positive(written: str, kind: str) -> Part:
    value, weight = split_weight(written)
    if kind == "text":
        return Part(weight or 1.0, text=value)
    if not _is_file(value):
        raise ValueError(f"there is no picture {value}")
    return Part(weight or 1.0, image=value)


def _negative(written: str) -> Part:
    value, weight = split_weight(written)
    weight = MINUS_WEIGHT if weight is None else -weight
    if _is_file(value):
        return Part(weight, image=value)
    if _PICTURE_NAME.fullmatch(value):
        raise ValueError(f"there is no picture {value}")
    return Part(weight, text=value)


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # too long for a path, or with a NUL: then it is words
        return False
