"""What the layouts on disk have in common: a list of labelled pictures, and of what was not taken."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from fieldmark.data.sources import ImageSource

SPLIT_NAMES: dict[str, str] = {
    "train": "train", "training": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "eval": "test", "evaluation": "test",
}  # fmt: skip
"""Names of split folders and parquet files → the name of the split."""

LABEL_COLUMNS = ("label", "labels", "class", "class_name", "category", "species", "fine_label")
"""Names of a label column that are known without being told."""


@dataclass(frozen=True)
class Record:
    """One labelled picture that was found."""

    id: str
    """Name relative to the root, "/"-separated; unique and stable."""
    source: ImageSource
    class_name: str
    split: str
    """"train", "validation", "test", or "" where the layout knows none."""


@dataclass(frozen=True)
class Ignored:
    """Something in the collection's folder that was not taken, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Listing:
    """What a layout holds."""

    records: tuple[Record, ...]
    class_names: tuple[str, ...]
    """In their order; may name classes of which there is no picture."""
    ignored: tuple[Ignored, ...] = ()
    from_table: bool = False
    """Labels come from a table: numbers are numbers."""


def bytewise(name: str) -> bytes:
    """Sort key: bytes of the UTF-8 name, so that the order is the same in every locale ("B" < "a")."""
    return name.encode("utf-8", "surrogateescape")


def class_order(names: set[str], *, numeric: bool) -> tuple[str, ...]:
    """Bytewise; where labels are numbers in a table, by number (9 before 10)."""
    if numeric and all(re.fullmatch(r"-?\d+", name) for name in names):
        return tuple(sorted(names, key=lambda name: (int(name), name)))
    return tuple(sorted(names, key=bytewise))


def choose_label_column(columns: Sequence[str], where: Path) -> str:
    candidates = [name for name in LABEL_COLUMNS if name in columns]
    if len(candidates) != 1:
        found = f"has the candidates {', '.join(candidates)}" if candidates else "has no label column"
        raise ValueError(
            f"{where} {found} (columns: {', '.join(columns)}): name the right one as label_column; "
            f"known without being named: {', '.join(LABEL_COLUMNS)}"
        )
    return candidates[0]
