"""iNat-2021 Aves (Van Horn et al., 2021): the birds of ``train_mini/<number>_…_Aves_…_<species>/<picture>``."""

import os
import re
from pathlib import Path

from fieldmark.data.benchmarks.spec import Benchmark, Reading, find_folder, lies_at
from fieldmark.data.published import Counts
from fieldmark.data.records import Ignored, Listing, Record, bytewise
from fieldmark.data.sources import FileSource

FOLDER = "train_mini"
DOWNLOAD = (
    "Download train_mini.tar.gz of iNat-2021 (50 pictures of each species; only the birds are unpacked) and give the "
    "archive, the folder that it lies in, or the folder train_mini out of it, which holds one folder for each species "
    "(such as 03111_Animalia_Chordata_Aves_…)"
)
_SPECIES = re.compile(r"\d{5}_\w+_Aves_.+")
_ANY_SPECIES = re.compile(r"\d{5}_[A-Z][a-z]+_")
_OTHER_FOLDERS = ("train", "train_val2018", "train_val2019", "train_val_images")


def _is_bird(member: str) -> bool:
    """Whether a member of the archive is below a bird's folder."""
    parts = member.split("/")
    return len(parts) == 3 and parts[0] == FOLDER and _SPECIES.fullmatch(parts[1]) is not None


def _recognise(root: Path) -> bool:
    # Only under its official name: somebody's own selection of species is a collection of class folders.
    for folder in (root, root / FOLDER):
        if folder.name == FOLDER and folder.is_dir():
            return any(_ANY_SPECIES.match(entry.name) for entry in _visible(folder))
    return lies_at(root, FOLDER, FOLDER)


def _read(root: Path) -> Reading:
    base = root if root.name == FOLDER else find_folder(root, FOLDER, FOLDER, DOWNLOAD, _is_bird)
    if base is None:
        others = [name for name in _OTHER_FOLDERS if lies_at(root, name, name)]
        found = f" ({', '.join(others)} is another year or the full training set)" if others else ""
        raise ValueError(f"{root} holds no train_mini of iNat-2021{found}. {DOWNLOAD}")
    records: list[Record] = []
    ignored: list[Ignored] = []
    classes: list[str] = []
    other_classes = 0
    for entry in _visible(base):
        if not entry.is_dir():
            ignored.append(Ignored(entry.name, "outside of the species' folders"))
        elif _SPECIES.fullmatch(entry.name):
            classes.append(entry.name)
            for picture in _visible(Path(entry.path)):
                name = f"{entry.name}/{picture.name}"
                if picture.name.lower().endswith((".jpg", ".jpeg")) and picture.is_file():
                    records.append(Record(name, FileSource(Path(picture.path)), entry.name, ""))
                else:
                    ignored.append(Ignored(name, "no picture"))
        else:
            other_classes += 1
    if not records:
        raise ValueError(
            f"{base} holds no pictures of birds: no folder's name has _Aves_ ({other_classes} other folders). "
            f"{DOWNLOAD}"
        )
    if other_classes:
        ignored.append(Ignored(FOLDER, f"{other_classes} folders whose names have no _Aves_: no birds"))
    return Reading(base, Listing(tuple(records), tuple(classes), tuple(ignored)))


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: bytewise(e.name))


INAT = Benchmark(
    key="inat",
    title="iNat-2021 Aves",
    counts=Counts(743, 743, 37150, 37150),
    rule="the first half of the folders with _Aves_ in bytewise order trains (743 of 1,486)",
    download=DOWNLOAD,
    archives=(FOLDER,),
    recognise=_recognise,
    read=_read,
)
