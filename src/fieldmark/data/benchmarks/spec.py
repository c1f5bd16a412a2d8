"""What a reader of a benchmark is, and what the readers share: finding folders, reading lists, complaining."""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from fieldmark.data.benchmarks.archives import find_archive, has_archive, unpack, unpacked_folder
from fieldmark.data.published import Counts
from fieldmark.data.records import Ignored, Listing, bytewise


@dataclass(frozen=True)
class Reading:
    """What a reader found: the folder that ids are relative to, and every picture with its class.

    The classes of `listing` are all those of the data set, in the order that its protocol halves.
    """

    root: Path
    listing: Listing


@dataclass(frozen=True)
class Benchmark:
    """A published data set: how it is recognised and read, and what it must hold when it is complete."""

    key: str
    """Name on the command line."""
    title: str
    """Name in texts."""
    counts: Counts
    """Of the complete data set; an inspection holds a collection to them."""
    rule: str
    """How its protocol halves the classes, in words."""
    download: str
    """Which files to download and where they belong: the end of every error."""
    archives: tuple[str, ...]
    """Names of its archives without .tgz, .tar.gz or .tar."""
    recognise: Callable[[Path], bool]
    """Whether a folder holds it, complete or not. Looks at names only."""
    read: Callable[[Path], Reading]
    """Lists the pictures below a folder, unpacking archives where there is no folder yet. Raises ValueError."""


def find_folder(
    root: Path, name: str, archive: str, download: str, keep: Callable[[str], bool] | None = None
) -> Path | None:
    """`root/name`, or the same folder out of the archive in `root`, which is unpacked for it. None without either.

    Args:
        archive: name of the archive without its ending.
        download: ends the error if the archive holds no such folder.
        keep: which members (by name) are unpacked; None for all.
    """
    if (root / name).is_dir():
        return root / name
    packed, unpacked = find_archive(root, archive), unpacked_folder(root, archive)
    if packed is not None:
        unpacked = unpack(packed, keep)
    elif not unpacked.is_dir():  # with the folder that was unpacked, the archive may be deleted
        return None
    if not (unpacked / name).is_dir():
        held = ", ".join(sorted((p.name for p in unpacked.iterdir() if not p.name.startswith(".")), key=bytewise))
        held = held or "nothing that is read"
        raise ValueError(
            f"{packed or unpacked} holds no folder {name} (it holds {held}): another version, or another archive by "
            f"that name. {download}"
        )
    return unpacked / name


def lies_at(root: Path, name: str, archive: str) -> bool:
    """Whether `find_folder` would look further than None; nothing is unpacked."""
    return (root / name).is_dir() or unpacked_folder(root, archive).is_dir() or has_archive(root, archive)


def require_files(folder: Path, names: Collection[str], download: str) -> None:
    """Raises ValueError that names the files (or folders, with "/" at the end) that `folder` lacks."""
    missing = [n for n in names if not ((folder / n).is_dir() if n.endswith("/") else (folder / n).is_file())]
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}. {download}")


def first_space_pairs(path: Path, download: str) -> Iterator[tuple[int, str, str]]:
    """(line number, before, after the first space) of every line that is not empty.

    Only the first space parts: what follows may hold spaces ("1025794 Cessna 172").
    """
    for number, line in text_lines(path, download):
        first, space, rest = line.partition(" ")
        if not first or not space or not rest:
            raise ValueError(f"{path}:{number}: {line!r} is not two columns; the file is damaged. {download}")
        yield number, first, rest


def text_lines(path: Path, download: str) -> Iterator[tuple[int, str]]:
    """(line number, line without its end) of every line that is not empty."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read ({error}). {download}") from error
    for number, line in enumerate(text.split("\n"), 1):
        line = line.rstrip("\r")
        if line:
            yield number, line


def numbered(path: Path, download: str) -> dict[int, str]:
    """A file of "<number> <text>" lines, in which no number comes twice."""
    found: dict[int, str] = {}
    for line, number, text in first_space_pairs(path, download):
        if not number.isdecimal() or int(number) in found:
            why = "comes twice" if number.isdecimal() else "is no number"
            raise ValueError(f"{path}:{line}: {number!r} {why}; the file is damaged. {download}")
        found[int(number)] = text
    return found


def check_one_based(numbers: Collection[int], count: int, where: Path, download: str) -> None:
    """Raises ValueError unless every number is from 1 to `count`."""
    wrong = sorted(n for n in set(numbers) if not 1 <= n <= count)
    if wrong:
        raise ValueError(
            f"{where} has the class id {wrong[0]}, but ids run from 1 to {count} (they are 1-based). {download}"
        )


def require_pictures(
    wanted: Collection[str], present: Collection[str], folder: Path, where: str, download: str
) -> None:
    """Raises ValueError if pictures that `where` lists do not lie in `folder`."""
    missing = sorted(set(wanted) - set(present), key=bytewise)
    if missing:
        raise ValueError(
            f"{where} lists {len(missing)} of {len(wanted)} pictures that are not in {folder}, first "
            f"{', '.join(missing[:3])}: the archive was not unpacked to its end. {download}"
        )


def not_listed(present: Collection[str], wanted: Collection[str], where: str) -> tuple[Ignored, ...]:
    """What lies among the pictures and is in no list."""
    return tuple(Ignored(name, f"not listed in {where}") for name in sorted(set(present) - set(wanted), key=bytewise))


def files_below(folder: Path, prefix: str = "") -> set[str]:
    """Names of all visible files below a folder, "/"-separated, each after `prefix`."""
    found: set[str] = set()
    for place, inner, files in os.walk(folder, followlinks=True):
        inner[:] = [name for name in inner if not name.startswith(".")]
        within = os.path.relpath(place, folder).replace(os.sep, "/")
        start = prefix if within == "." else f"{prefix}{within}/"
        found.update(start + name for name in files if not name.startswith("."))
    return found
