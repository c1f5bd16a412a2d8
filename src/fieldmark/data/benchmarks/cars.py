"""Cars-196 (Krause et al., 2013) in its two layouts: ``car_ims/`` with one table, or the devkit with two halves."""

from pathlib import Path

from fieldmark.data.benchmarks.matlab import int_column, read_mat, text_column, texts
from fieldmark.data.benchmarks.spec import (
    Benchmark,
    Reading,
    check_one_based,
    files_below,
    find_folder,
    lies_at,
    not_listed,
    require_pictures,
)
from fieldmark.data.published import Counts
from fieldmark.data.records import Ignored, Listing, Record
from fieldmark.data.sources import FileSource

DOWNLOAD = (
    "Cars-196 is either car_ims.tgz and cars_annos.mat, or cars_train.tgz, cars_test.tgz, car_devkit.tgz and "
    "cars_test_annos_withlabels.mat: put the files of one of the two into one folder, packed or unpacked (car_ims/, or "
    "cars_train/, cars_test/ and devkit/), and give that folder"
)
_ARCHIVES = {"car_ims": "car_ims", "cars_train": "cars_train", "cars_test": "cars_test", "devkit": "car_devkit"}
_TABLES = ("cars_annos.mat", "cars_test_annos_withlabels.mat", "cars_train_annos.mat", "cars_meta.mat")
Row = tuple[str, int]
"""Name of a picture relative to the root, class id (1-based)."""


def _recognise(root: Path) -> bool:
    tables = any((root / name).is_file() or (root / "devkit" / name).is_file() for name in _TABLES)
    return tables or any(_lies(root, name) for name in ("car_ims", "cars_train", "cars_test"))


def _lies(root: Path, folder: str) -> bool:
    return lies_at(root, folder, _ARCHIVES[folder])


def _folder(root: Path, name: str) -> Path:
    found = find_folder(root, name, _ARCHIVES[name], DOWNLOAD)
    if found is None:
        raise ValueError(f"{root} lacks {name}/ and {_ARCHIVES[name]}.tgz. {DOWNLOAD}")
    return found


def _read(root: Path) -> Reading:
    old = _lies(root, "car_ims")
    new = _lies(root, "cars_train") or _lies(root, "cars_test")
    if (old or not new) and (root / "cars_annos.mat").is_file():
        reading = _read_old(root)
        if not new:
            return reading
        twin = Ignored("cars_train, cars_test", "the same pictures in the other layout")
        listing = reading.listing
        return Reading(root, Listing(listing.records, listing.class_names, (*listing.ignored, twin)))
    if old and not new:
        raise ValueError(f"{root} holds car_ims but lacks cars_annos.mat, which belongs beside it. {DOWNLOAD}")
    if not new and not _recognise(root):
        raise ValueError(f"{root} holds no Cars-196. {DOWNLOAD}")
    return _read_devkit(root)


def _read_old(root: Path) -> Reading:
    table = root / "cars_annos.mat"
    content = read_mat(table, ("annotations", "class_names"), DOWNLOAD)
    names = texts(content["class_names"], table, DOWNLOAD)
    annotations = content["annotations"]
    pictures = text_column(annotations, "relative_im_path", table, DOWNLOAD)
    rows = list(zip(pictures, int_column(annotations, "class", table, DOWNLOAD), strict=True))
    folder = _folder(root, "car_ims")
    return _reading(root, rows, names, {"car_ims": folder}, {"car_ims": table})


def _read_devkit(root: Path) -> Reading:
    meta = _table(root, "cars_meta.mat", "car_devkit.tgz holds it")
    names = texts(read_mat(meta, ("class_names",), DOWNLOAD)["class_names"], meta, DOWNLOAD)
    tables = {
        "cars_train": _table(root, "cars_train_annos.mat", "car_devkit.tgz holds it"),
        "cars_test": _table(
            root,
            "cars_test_annos_withlabels.mat",
            "the devkit's own cars_test_annos.mat has no classes; this file is a download of its own and belongs "
            "beside cars_test or into devkit/",
        ),
    }
    rows: list[Row] = []
    for part, table in tables.items():
        annotations = read_mat(table, ("annotations",), DOWNLOAD)["annotations"]
        pictures = [f"{part}/{name}" for name in text_column(annotations, "fname", table, DOWNLOAD)]
        rows += zip(pictures, int_column(annotations, "class", table, DOWNLOAD), strict=True)
    return _reading(root, rows, names, {part: _folder(root, part) for part in tables}, tables)


def _table(root: Path, name: str, hint: str) -> Path:
    """A .mat file in `root`, or in the devkit's folder, unpacked if it must be."""
    if (root / name).is_file():
        return root / name
    if _lies(root, "devkit"):
        inside = _folder(root, "devkit") / name
        if inside.is_file():
            return inside
    raise ValueError(f"{root} lacks {name}: {hint}. {DOWNLOAD}")


def _reading(
    root: Path, rows: list[Row], names: list[str], folders: dict[str, Path], tables: dict[str, Path]
) -> Reading:
    """Rows of the tables → pictures. A picture "<part>/<file>" lies in the folder of its part."""
    where = " and ".join(table.name for table in tables.values())
    pictures = [name for name, _ in rows]
    if len(set(pictures)) != len(pictures):
        twice = next(name for i, name in enumerate(pictures) if name in pictures[:i])
        raise ValueError(f"{where} lists {twice} twice: the file is damaged. {DOWNLOAD}")
    check_one_based([number for _, number in rows], len(names), next(iter(tables.values())), DOWNLOAD)
    present = {name for part, folder in folders.items() for name in files_below(folder, f"{part}/")}
    require_pictures(pictures, present, root, where, DOWNLOAD)
    records = []
    for name, number in rows:
        part, _, file = name.partition("/")
        records.append(Record(name, FileSource(folders[part] / file), names[number - 1], ""))
    return Reading(root, Listing(tuple(records), tuple(names), not_listed(present, pictures, where)))


CARS = Benchmark(
    key="cars",
    title="Cars-196",
    counts=Counts(98, 98, 8054, 8131),
    rule="the first half of the classes by class id trains (ids 1 to 98)",
    download=DOWNLOAD,
    archives=tuple(_ARCHIVES.values()),
    recognise=_recognise,
    read=_read,
)
