"""Packed archives → folders. What a hostile or damaged archive could do is refused.

An archive is unpacked once, beside itself, into ``<name>.unpacked``: gzip knows no positions, so that reading a single
picture out of a .tgz would mean unpacking all that lies before it, every time.
"""

import gzip
import json
import shutil
import sys
import tarfile
import uuid
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from fieldmark.data.sources import confined

ENDINGS = (".tgz", ".tar.gz", ".tar")
"""Of the archives that are read."""

_MARKER = ".fieldmark-unpacked.json"
_BLOCK = 512
_COPY = 2**20
_DAMAGED = (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile)


@dataclass(frozen=True)
class UnpackLimits:
    """What unpacking one archive may cost at most; guards against decompression bombs."""

    max_members: int = 2_000_000
    """Entries, those passed over included."""
    max_member_bytes: int = 256 * 2**20
    """Size of one unpacked file."""
    max_total_bytes: int = 64 * 2**30
    """Size of all unpacked files."""


DEFAULT_UNPACK_LIMITS = UnpackLimits()


def find_archive(root: Path, name: str) -> Path | None:
    """The archive `name` + one of `ENDINGS` in a folder, or None.

    Raises:
        ValueError: there are several.
    """
    found = [root / (name + ending) for ending in ENDINGS if (root / (name + ending)).is_file()]
    if len(found) > 1:
        raise ValueError(f"{root} holds {' and '.join(p.name for p in found)}: keep one of them")
    return found[0] if found else None


def has_archive(root: Path, name: str) -> bool:
    """Whether the archive `name` lies in a folder."""
    return any((root / (name + ending)).is_file() for ending in ENDINGS)


def archive_name(path: Path) -> str | None:
    """The file's name without its ending; None if it has none of `ENDINGS`."""
    return next((path.name.removesuffix(ending) for ending in ENDINGS if path.name.endswith(ending)), None)


def unpacked_folder(root: Path, name: str) -> Path:
    """Where the archive `name` of the folder `root` is unpacked to."""
    return root / f"{name}.unpacked"


def unpack(
    archive: Path,
    keep: Callable[[str], bool] | None = None,
    limits: UnpackLimits = DEFAULT_UNPACK_LIMITS,
    *,
    quiet: bool = False,
) -> Path:
    """Unpacks a .tgz, .tar.gz or .tar beside itself, once, and says so on stderr; later calls return the folder.

    Only folders and plain files are written, never through a link. Links and devices are passed over and counted. The
    folder gets its name when it is complete; a killed run leaves ``.<name>.*.partial``, which may be deleted.

    Args:
        keep: which files (by name inside the archive) are written; None for all.
        quiet: say nothing on stderr.

    Returns:
        The folder ``<name>.unpacked``.

    Raises:
        ValueError: the archive is damaged, cut off, leads out of the folder, names a file twice, exceeds `limits`, or
            was changed since it was unpacked; or nothing can be written beside it.
    """
    name = archive_name(archive)
    if name is None:
        raise ValueError(f"{archive} is no {', '.join(ENDINGS)}: give the archive as it was downloaded")
    target = unpacked_folder(archive.parent, name)
    if target.is_dir():
        _check_marker(archive, target)
        return target
    partial = archive.parent / f".{name}.{uuid.uuid4().hex[:8]}.partial"
    if not quiet:
        print(f"unpacking {archive} into {target} …", file=sys.stderr, flush=True)
    try:
        partial.mkdir()
    except OSError as error:
        raise ValueError(
            f"{archive} cannot be unpacked beside itself ({error.strerror}): make a folder that you may write to, link "
            f"the archive into it (ln -s), and give that folder"
        ) from error
    try:
        with archive.open("rb") as raw:
            written, passed = _write_members(archive, raw, partial, keep, limits)
        facts = {"archive": archive.name, "bytes": archive.stat().st_size, "files": written, "passed_over": len(passed)}
        (partial / _MARKER).write_text(json.dumps(facts) + "\n", encoding="utf-8")
        try:
            partial.rename(target)
        except OSError:
            if not target.is_dir():  # otherwise another process was faster: its folder is as good
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if quiet:
        return target
    special = f"; {len(passed)} links or devices passed over, first {passed[0]!r}" if passed else ""
    print(f"unpacked {written} files{special}", file=sys.stderr, flush=True)
    return target


def _check_marker(archive: Path, target: Path) -> None:
    try:
        size = json.loads((target / _MARKER).read_text(encoding="utf-8"))["bytes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{target} was not written by fieldmark: move it away, or rename it") from error
    if size != archive.stat().st_size:
        raise ValueError(
            f"{archive} has {archive.stat().st_size} bytes, but {target} was unpacked from one of {size}: delete the "
            "folder to unpack again"
        )


def _write_members(
    archive: Path, raw: IO[bytes], folder: Path, keep: Callable[[str], bool] | None, limits: UnpackLimits
) -> tuple[int, list[str]]:
    """Number of files written, names of links and devices."""
    zipped = raw.read(2) == b"\x1f\x8b"
    raw.seek(0)
    stream: IO[bytes] = gzip.GzipFile(fileobj=raw) if zipped else raw  # type: ignore[assignment]
    written, total, seen = 0, 0, 0
    passed: list[str] = []
    try:
        with tarfile.open(fileobj=stream, mode="r:") as tar:
            # Member by member in the archive's order, so that gzip never has to go back.
            while (member := tar.next()) is not None:
                # tarfile remembers every member; of half a million we need one
                tar.members.clear()  # type: ignore[attr-defined]
                seen += 1
                if seen > limits.max_members:
                    raise _too_large(archive, f"{limits.max_members} entries")
                path = confined(folder, member.name)
                if path is None:
                    raise ValueError(f"{archive} is not safe: its member {member.name!r} leads out of the folder")
                if member.isdir():
                    continue
                if not member.isreg():
                    passed.append(member.name)
                    continue
                if keep is not None and not keep(member.name.removeprefix("./")):
                    continue
                total += member.size
                if member.size > limits.max_member_bytes:
                    raise _too_large(archive, f"{limits.max_member_bytes} bytes in one file ({member.name!r})")
                if total > limits.max_total_bytes:
                    raise _too_large(archive, f"{limits.max_total_bytes} bytes")
                _write(tar, member, path)
                written += 1
            _check_end(stream, tar.offset, zipped)
    except FileExistsError as error:
        raise ValueError(f"{archive} is not safe: it names {member.name if member else '?'!r} twice") from error
    except _DAMAGED as error:
        raise ValueError(
            f"{archive} is damaged or was cut off ({error or type(error).__name__}): download it again"
        ) from error
    return written, passed


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = tar.extractfile(member)
    assert content is not None  # a plain file
    with path.open("xb") as file:
        shutil.copyfileobj(content, file, _COPY)
        if file.tell() != member.size:
            raise tarfile.ReadError(f"the file ends inside of {member.name!r}")


def _check_end(stream: IO[bytes], offset: int, zipped: bool) -> None:
    """Tarfile takes a file that ends between two members for complete: look for the end that every archive has."""
    if zipped:
        while stream.read(_COPY):  # gzip compares length and checksum when it reaches the end
            pass
        return
    stream.seek(offset)
    if stream.read(_BLOCK) != bytes(_BLOCK):
        raise tarfile.ReadError("its end is missing")


def _too_large(archive: Path, limit: str) -> ValueError:
    return ValueError(f"{archive} holds more than {limit}: no official archive does; download it again")
