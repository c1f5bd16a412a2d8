"""Reading files of the collection and nothing else, and adding files to it."""

import contextlib
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from fieldmark.search.service.errors import Refusal


def open_below(root: Path, relative: str) -> BinaryIO:
    """A regular file below `root`, opened for reading.

    Each folder on the way is opened by itself and no symbolic link is followed, so that nothing can be exchanged
    between a check and its use.

    Raises:
        Refusal: 404, there is no such file, or its path leads (or could lead) out of the root.
    """
    with _folder_below(root, relative) as (folder, name):
        try:
            # A pipe would block for ever without O_NONBLOCK.
            number = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
        except (OSError, ValueError):
            raise _missing() from None
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise _missing()
    return os.fdopen(number, "rb")


def write_below(root: Path, folder: str, name: str, content: bytes) -> bool:
    """Write a new file in a folder directly below `root`, whole or not at all. False if it is there already.

    Raises:
        Refusal: 409, the folder is a symbolic link or no folder.
    """
    with contextlib.suppress(FileExistsError):
        os.mkdir(root / folder)
    try:
        directory = os.open(root / folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        raise Refusal(409, "conflict", f"{folder!r} below the collection's root is no folder") from None
    temporary = f".tmp-{secrets.token_hex(8)}"
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(temporary, flags, 0o644, dir_fd=directory), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
        except FileExistsError:
            return False
        return True
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary, dir_fd=directory)
        os.close(directory)


def remove_below(root: Path, relative: str) -> None:
    """Delete a file below `root`; it may be gone already. Raises as `open_below`."""
    with _folder_below(root, relative) as (folder, name):
        try:
            os.unlink(name, dir_fd=folder)
        except FileNotFoundError:
            pass
        except (OSError, ValueError):
            raise _missing() from None


@contextlib.contextmanager
def _folder_below(root: Path, relative: str) -> Iterator[tuple[int, str]]:
    """The open folder that holds a file, and the file's name in it."""
    parts = relative.split("/")
    if "\0" in relative or any(part in ("", ".", "..") for part in parts):
        raise _missing()
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        raise _missing() from None
    try:
        for part in parts[:-1]:
            try:
                inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
            except OSError:
                raise _missing() from None
            os.close(folder)
            folder = inner
        yield folder, parts[-1]
    finally:
        os.close(folder)


def _missing() -> Refusal:
    return Refusal(404, "not_found", "the picture's file is not there any more, or not below the collection's root")
