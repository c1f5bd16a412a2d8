"""Errors of writing, in words that help."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = tuple(os.strerror(number) for number in _FULL)  # as LanceDB tells them


class DiskFull(ValueError):
    """There is no space to write; what was committed before is intact."""


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Inside, a full disk is told in words that help.

    Raises:
        ValueError: there was no space left to write.
    """
    try:
        yield
    except (OSError, RuntimeError, ValueError) as error:
        full = getattr(error, "errno", None) in _FULL or any(words in str(error) for words in _FULL_WORDS)
        if not full or isinstance(error, DiskFull):
            raise
        raise DiskFull(
            f"no space left to write {path} ({first_line(error)}). Everything that was committed before is still "
            "there: free some space and give the same command again"
        ) from error


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
