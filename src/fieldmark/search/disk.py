"""Errors of writing, in words that help."""

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_NOT_ALLOWED = (errno.EACCES, errno.EPERM, errno.EROFS)
_NOT_ALLOWED_WORDS = tuple(os.strerror(number) for number in _NOT_ALLOWED)
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = tuple(os.strerror(number) for number in _FULL)  # as LanceDB tells them


class DiskFull(ValueError):
    """There is no space to write; what was committed before is intact."""


class NotWritable(ValueError):
    """There is no right to write, or nothing can be written there; nothing was changed."""


def require_writable(place: Path) -> None:
    """Hold that a file or folder can be made, or changed, before work starts whose result goes there.

    Raises:
        NotWritable: it cannot be.
    """
    place = there = Path(os.path.abspath(place))
    while not there.exists() and there != there.parent:
        there = there.parent
    if there.is_file():  # files are replaced, not written into: their folder counts
        there = there.parent
    try:
        # asked by doing it: rights alone do not tell of file systems that are mounted to be read only
        with tempfile.TemporaryFile(dir=there):
            pass
    except OSError as error:
        if error.errno in _FULL:
            return  # told by whoever writes, with what is there already
        raise _not_writable(place, error) from error


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Inside, a full disk, and a place that may not be written, are told in words that help.

    Raises:
        ValueError: `DiskFull` or `NotWritable`.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        if _is_not_allowed(error):
            raise _not_writable(path, error) from error
        full = getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS)
        if not full or isinstance(error, DiskFull):
            raise
        raise DiskFull(
            f"no space left to write {path} ({first_line(error)}). Everything that was committed before is still "
            "there: free some space and give the same command again"
        ) from error


def _is_not_allowed(error: BaseException) -> bool:
    if isinstance(error, ValueError):  # somebody's own words
        return False
    if getattr(error, "errno", None) is not None:
        return getattr(error, "errno", None) in _NOT_ALLOWED
    return any(words in str(error) for words in _NOT_ALLOWED_WORDS)  # LanceDB's


def _not_writable(path: Path, error: BaseException) -> NotWritable:
    why = getattr(error, "strerror", None) or next(
        (words for words in _NOT_ALLOWED_WORDS if words in str(error)), first_line(error)
    )
    return NotWritable(f"{path} cannot be written ({why}): get the right to write there, or choose another place")


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
