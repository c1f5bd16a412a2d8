"""FGVC-Aircraft (Maji et al., 2013): ``fgvc-aircraft-2013b/data/`` with lists of variants and ``images/``."""

from pathlib import Path

from fieldmark.data.benchmarks.spec import (
    Benchmark,
    Reading,
    files_below,
    find_folder,
    first_space_pairs,
    lies_at,
    not_listed,
    require_files,
    require_pictures,
    text_lines,
)
from fieldmark.data.published import Counts
from fieldmark.data.records import Listing, Record, bytewise
from fieldmark.data.sources import FileSource

FOLDER = "fgvc-aircraft-2013b"
_EARLIER = "fgvc-aircraft-2013"
DOWNLOAD = (
    "Download fgvc-aircraft-2013b.tar.gz (10,000 pictures) and give the archive, the folder that it lies in, or the "
    "folder fgvc-aircraft-2013b out of it, whose data/ holds variants.txt, images_variant_trainval.txt, "
    "images_variant_test.txt and images/"
)
_PARTITIONS = ("images_variant_trainval.txt", "images_variant_test.txt")


def _recognise(root: Path) -> bool:
    return (
        _lists_base(root) is not None
        or root.name == FOLDER
        or lies_at(root, FOLDER, FOLDER)
        or lies_at(root, _EARLIER, _EARLIER)
    )


def _lists_base(root: Path) -> Path | None:
    """The folder `root` or `root/data` that holds one of the lists. A variants.txt may be anybody's."""
    for base in (root, root / "data"):
        if any((base / name).is_file() for name in _PARTITIONS):
            return base
    return None


def _read(root: Path) -> Reading:
    base = _lists_base(root)
    if base is None:
        folder = root if root.name == FOLDER else find_folder(root, FOLDER, FOLDER, DOWNLOAD)
        if folder is None and lies_at(root, _EARLIER, _EARLIER):
            raise ValueError(f"{root} holds {_EARLIER}; the published figures are of 2013b. {DOWNLOAD}")
        if folder is None:
            raise ValueError(f"{root} holds no FGVC-Aircraft. {DOWNLOAD}")
        base = _lists_base(folder) or folder / "data"
    require_files(base, ("variants.txt", *_PARTITIONS, "images/"), DOWNLOAD)
    # Bytewise and never with folded case, whatever order the file has: "ATR-72" < "An-12". The halves depend on it.
    variants = tuple(sorted({line for _, line in text_lines(base / "variants.txt", DOWNLOAD)}, key=bytewise))
    rows = _rows(base, frozenset(variants))
    present = files_below(base / "images")
    require_pictures(rows.keys(), present, base / "images", " and ".join(_PARTITIONS), DOWNLOAD)
    records = tuple(Record(name, FileSource(base / "images" / name), variant, "") for name, variant in rows.items())
    return Reading(base, Listing(records, variants, not_listed(present, rows, "the lists of variants")))


def _rows(base: Path, variants: frozenset[str]) -> dict[str, str]:
    """Picture's file → variant; both partitions of the pictures are pooled."""
    rows: dict[str, str] = {}
    for name in _PARTITIONS:
        path = base / name
        for line, number, variant in first_space_pairs(path, DOWNLOAD):
            if variant not in variants:
                raise ValueError(f"{path}:{line}: variants.txt does not know {variant!r}. {DOWNLOAD}")
            if f"{number}.jpg" in rows:
                raise ValueError(f"{path}:{line}: picture {number} is listed already. {DOWNLOAD}")
            rows[f"{number}.jpg"] = variant
    return rows


AIRCRAFT = Benchmark(
    key="aircraft",
    title="FGVC-Aircraft",
    counts=Counts(50, 50, 5000, 5000),
    rule="the first half of the variants in bytewise order trains (50 of 100)",
    download=DOWNLOAD,
    archives=(FOLDER, _EARLIER),
    recognise=_recognise,
    read=_read,
)
