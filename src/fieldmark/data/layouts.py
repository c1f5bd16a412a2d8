"""How labelled pictures lie on disk: class folders, Hugging Face imagefolder, parquet.

Everything here only lists: pictures are read later. What is found but not taken is listed too, with the reason.
"""

import csv
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fieldmark.data.decode import looks_like_picture
from fieldmark.data.parquet import list_parquet
from fieldmark.data.records import (
    SPLIT_NAMES,
    Ignored,
    Listing,
    Record,
    bytewise,
    choose_label_column,
    class_order,
)
from fieldmark.data.sources import FileSource, confined

METADATA_FILES = ("metadata.csv", "metadata.jsonl")

# Files with these endings are taken as pictures; those that turn out not to be readable are then reported as bad
# files instead of being overlooked. Files with other endings are taken if they begin like a picture.
_PICTURE_SUFFIXES = frozenset(
    [
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".png",
        ".apng",
        ".gif",
        ".webp",
        ".bmp",
        ".dib",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".pnm",
        ".avif",
        ".jp2",
        ".j2k",
        ".heic",
        ".heif",
        ".jxl",
        ".svg",
        ".psd",
        ".eps",
        ".dng",
        ".cr2",
        ".cr3",
        ".nef",
        ".arw",
        ".raw",
    ]
)
HOUSEKEEPING = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini", "@eaDir"})
"""Names that systems leave in folders of pictures; passed over like hidden files."""


SPLIT_FILE = "split.json"


@dataclass(frozen=True)
class _Columns:
    image: str | None
    label: str | None


def list_collection(root: Path, *, image_column: str | None = None, label_column: str | None = None) -> Listing:
    """Recognises the layout at `root` and lists it.

    Tried in this order: parquet (`root` itself, or files in `root` or `root/data`); imagefolder (metadata.csv or
    metadata.jsonl); folders all of which are named like splits, each one a collection; class folders.

    Raises:
        ValueError: `root` is none of these, or contradicts itself; the message says what to change.
    """
    columns = _Columns(image_column, label_column)
    if root.is_file() and root.suffix == ".parquet":
        return list_parquet(root.parent, [root], columns.image, columns.label)
    if not root.is_dir():
        raise ValueError(f"{root} is no folder and no .parquet file: give the folder that holds the class folders")
    return _list_folder(root, "", "", columns)


def read_split_file(root: Path) -> dict[str, tuple[str, ...]] | None:
    """The classes of each part as `root/split.json` says: {"train": [class, …], "test": [class, …]}.

    "validation" may be there too. None if there is no such file.

    Raises:
        ValueError: the file is no such object, or names a class in two parts.
    """
    path = root / SPLIT_FILE
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no valid JSON: {error}") from error
    parts = {"train", "test"}
    if not isinstance(content, dict) or not parts <= set(content) <= parts | {"validation"}:
        raise ValueError(f'{path} must be {{"train": [class, …], "test": [class, …]}} (and perhaps "validation")')
    seen: dict[str, str] = {}
    for part, names in content.items():
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"{path}: {part!r} must be a list of class names")
        for name in names:
            if name in seen:
                raise ValueError(f"{path}: class {name!r} is listed in {seen[name]!r} and in {part!r}: keep one")
            seen[name] = part
    return {part: tuple(names) for part, names in content.items()}


def _list_folder(root: Path, prefix: str, split: str, columns: _Columns) -> Listing:
    for folder in (root, root / "data"):
        files = sorted((p for p in folder.glob("*.parquet") if p.is_file()), key=lambda p: bytewise(p.name))
        if files:
            return list_parquet(root, files, columns.image, columns.label, prefix=prefix, split=split)
    metadata = [root / name for name in METADATA_FILES if (root / name).is_file()]
    if len(metadata) > 1:
        raise ValueError(f"{root} has both metadata.csv and metadata.jsonl: keep one of them")
    if metadata:
        return _list_imagefolder(root, metadata[0], prefix, split, columns.label)
    skipped = _fieldguide_extras(root)
    folders = [Path(e.path) for e in _entries(root) if e.is_dir() and e.name not in skipped]
    splits = [SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders]
    if not split and folders and all(splits) and all(_holds_collection(folder) for folder in folders):
        parts = [
            _list_folder(folder, f"{folder.name}/", name, columns) for folder, name in zip(folders, splits, strict=True)
        ]
        loose = [Ignored(e.name, "outside of the split folders") for e in _entries(root) if not e.is_dir()]
        return _merge(parts, [entry for entry in loose if entry.name != SPLIT_FILE])
    return _list_class_folders(root, prefix, split, skipped)


def _holds_collection(folder: Path) -> bool:
    """Whether a folder that is named like a split is one, rather than a class that happens to be called so."""
    return any(e.is_dir() or e.name in METADATA_FILES or e.name.endswith(".parquet") for e in _entries(folder))


def _merge(parts: list[Listing], loose: list[Ignored]) -> Listing:
    names = parts[0].class_names
    from_table = all(part.from_table for part in parts)
    if any(part.class_names != names for part in parts):
        names = class_order({name for part in parts for name in part.class_names}, numeric=from_table)
    records = tuple(record for part in parts for record in part.records)
    return Listing(records, names, (*loose, *(i for part in parts for i in part.ignored)), from_table)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """The folder's visible entries in bytewise order."""
    with os.scandir(folder) as entries:
        visible = [e for e in entries if not e.name.startswith(".") and e.name not in HOUSEKEEPING]
    return sorted(visible, key=lambda e: bytewise(e.name))


def _fieldguide_extras(root: Path) -> frozenset[str]:
    """Files that `fieldmark data fieldguide` writes beside the class folders."""
    if (root / "fieldguide.json").is_file():
        return frozenset({"masks", "contact_sheet.png", "fieldguide.json", "attributes.jsonl"})
    return frozenset()


def is_picture(path: str) -> bool:
    """Whether a file is to be taken as a picture: by the ending of its name, else by its first bytes."""
    if os.path.splitext(path)[1].lower() in _PICTURE_SUFFIXES:
        return True
    try:
        with open(path, "rb") as file:
            return looks_like_picture(file.read(16))
    except OSError:
        return True  # taken, so that it is reported as a file that cannot be read


def _list_class_folders(root: Path, prefix: str, split: str, skipped: frozenset[str]) -> Listing:
    records: list[Record] = []
    ignored: list[Ignored] = []
    classes: list[str] = []
    for entry in _entries(root):
        name = prefix + entry.name
        if entry.name in skipped or name == SPLIT_FILE:
            continue
        if not entry.is_dir():
            reason = "a picture outside of the class folders" if _is_file(entry) else "no picture"
            ignored.append(Ignored(name, reason))
            continue
        found, left = _list_class(entry, name, split)
        ignored += left
        if found:
            records += found
            classes.append(entry.name)
        else:
            ignored.append(Ignored(name, "a class folder without pictures"))
    if not records:
        raise ValueError(
            f"{root} holds no class folders with pictures. Expected {root}/<class>/<picture>, or a metadata.csv "
            "with the columns file_name and label, or .parquet files"
        )
    return Listing(tuple(records), tuple(classes), tuple(ignored))


def _list_class(folder: os.DirEntry[str], name: str, split: str) -> tuple[list[Record], list[Ignored]]:
    records, ignored = [], []
    for entry in _entries(Path(folder.path)):
        own = f"{name}/{entry.name}"
        if entry.is_dir():
            inside = next((e.name for e in _entries(Path(entry.path)) if e.is_dir() or _is_file(e)), None)
            if inside is not None:
                raise ValueError(
                    f"{entry.path} is a folder inside the class folder {folder.path} and holds {inside!r}. Pictures "
                    "are expected at <root>/<class>/<picture>: if the inner folders are the classes, give their "
                    "parent as the collection; otherwise move the pictures up"
                )
            ignored.append(Ignored(own, "a folder inside a class folder, without pictures"))
        elif _is_file(entry):
            records.append(Record(own, FileSource(Path(entry.path)), folder.name, split))
        else:
            ignored.append(Ignored(own, "no picture"))
    return records, ignored


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether the entry is a picture file. Links are followed: who may place links may place files."""
    return entry.is_file() and is_picture(entry.path)


def _list_imagefolder(root: Path, metadata: Path, prefix: str, split: str, label_column: str | None) -> Listing:
    records: list[Record] = []
    first_seen: dict[str, int] = {}
    missing: list[str] = []
    column = label_column
    for line, row in _metadata_rows(metadata):
        if column is None:
            column = choose_label_column(list(row), metadata)
        if not row.get("file_name") or row.get(column) in (None, ""):
            raise ValueError(
                f"{metadata}:{line}: file_name or {column!r} is missing or empty (columns: {', '.join(row)})"
            )
        name, label = str(row["file_name"]), row[column]
        path = confined(root, name)
        if path is None:
            raise ValueError(
                f"{metadata}:{line}: file_name {name!r} leads out of {root}: use relative names without .."
            )
        name = os.path.normpath(name).replace(os.sep, "/")
        if name in first_seen:
            raise ValueError(f"{metadata}:{line}: {name!r} is listed already in line {first_seen[name]}")
        first_seen[name] = line
        if not path.is_file():
            missing.append(name)
            continue
        own = split or SPLIT_NAMES.get(str(row.get("split", "")).lower(), "")
        if not own and "/" in name:
            own = SPLIT_NAMES.get(name.split("/")[0].lower(), "")
        records.append(Record(prefix + name, FileSource(root / name), str(label), own))
    if missing:
        raise ValueError(
            f"{metadata} lists {len(missing)} files that do not exist, first {', '.join(missing[:5])}: "
            "add them, or delete their lines"
        )
    if not records:
        raise ValueError(f"{metadata} lists no pictures")
    ignored = tuple(
        Ignored(prefix + name, f"not listed in {metadata.name}")
        for name in _all_files(root)
        if name not in first_seen and name not in (metadata.name, SPLIT_FILE)
    )
    names = class_order({record.class_name for record in records}, numeric=True)
    return Listing(tuple(records), names, ignored, from_table=True)


def _metadata_rows(metadata: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """(line number, columns) of every row."""
    with metadata.open(encoding="utf-8-sig", newline="") as file:
        try:
            if metadata.suffix == ".csv":
                reader = csv.DictReader(file)
                for row in reader:
                    if None in row or None in row.values():
                        raise ValueError(
                            f"{metadata}:{reader.line_num}: the number of columns differs from the header's"
                        )
                    yield reader.line_num, dict(row)
                return
            for number, line in enumerate(file, 1):
                if line.strip():
                    row = json.loads(line)
                    if not isinstance(row, dict):
                        raise ValueError(f"{metadata}:{number}: not a JSON object")
                    yield number, row
        except json.JSONDecodeError as error:
            raise ValueError(f"{metadata}:{number}: no valid JSON ({error})") from error
        except (UnicodeDecodeError, csv.Error) as error:
            raise ValueError(f"{metadata} cannot be read: {error}") from error


def _all_files(root: Path) -> Iterator[str]:
    for folder, inner, files in os.walk(root):
        inner[:] = sorted(n for n in inner if not n.startswith(".") and n not in HOUSEKEEPING)
        for name in sorted(files, key=bytewise):
            if not name.startswith(".") and name not in HOUSEKEEPING:
                yield os.path.relpath(os.path.join(folder, name), root).replace(os.sep, "/")
