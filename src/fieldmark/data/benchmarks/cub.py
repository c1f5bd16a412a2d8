"""CUB-200-2011 (Wah et al., 2011): ``CUB_200_2011/`` with four lists and ``images/<class>/<picture>``."""

from pathlib import Path

from fieldmark.data.benchmarks.archives import has_archive
from fieldmark.data.benchmarks.spec import (
    Benchmark,
    Reading,
    check_one_based,
    files_below,
    find_folder,
    lies_at,
    not_listed,
    numbered,
    require_files,
    require_pictures,
)
from fieldmark.data.published import Counts
from fieldmark.data.records import Listing, Record
from fieldmark.data.sources import FileSource

FOLDER = "CUB_200_2011"
DOWNLOAD = (
    "Download CUB_200_2011.tgz (version 2011, 11,788 pictures) and give the archive, the folder that it lies in, or "
    "the folder CUB_200_2011 out of it, which holds classes.txt, images.txt, image_class_labels.txt and images/"
)
_LISTS = ("classes.txt", "images.txt", "image_class_labels.txt")


def _recognise(root: Path) -> bool:
    return (
        (root / "image_class_labels.txt").is_file()
        or ((root / "images.txt").is_file() and (root / "images").is_dir())
        or root.name == FOLDER
        or lies_at(root, FOLDER, FOLDER)
        or _is_of_2010(root)
    )


def _is_of_2010(root: Path) -> bool:
    """The first CUB-200: other pictures, lists in a folder of their own."""
    lists = (root / "lists" / "files.txt").is_file() or (root / "lists" / "classes.txt").is_file()
    packed = has_archive(root, "lists") and has_archive(root, "images")
    return (lists and (root / "images").is_dir()) or packed


def _read(root: Path) -> Reading:
    if _is_of_2010(root):
        raise ValueError(
            f"{root} holds CUB-200 of 2010 (lists/ and images/, 6,033 pictures), not CUB-200-2011. {DOWNLOAD}"
        )
    inside = root.name == FOLDER or any((root / name).is_file() for name in _LISTS)
    base = root if inside else find_folder(root, FOLDER, FOLDER, DOWNLOAD)
    if base is None:
        raise ValueError(f"{root} holds no CUB-200-2011. {DOWNLOAD}")
    require_files(base, (*_LISTS, "images/"), DOWNLOAD)
    classes = numbered(base / "classes.txt", DOWNLOAD)
    check_one_based(classes, len(classes), base / "classes.txt", DOWNLOAD)
    images = numbered(base / "images.txt", DOWNLOAD)
    labels = _labels(base, images, len(classes))
    present = files_below(base / "images")
    require_pictures(images.values(), present, base / "images", "images.txt", DOWNLOAD)
    records = []
    for number, name in images.items():
        class_name = classes[labels[number]]
        if name.split("/")[0] != class_name:  # the two lists are not of one version
            raise ValueError(
                f"{base / 'image_class_labels.txt'} says {class_name} of picture {number}, but images.txt says {name}: "
                f"the files are not of one version. {DOWNLOAD}"
            )
        records.append(Record(name, FileSource(base / "images" / name), class_name, ""))
    names = tuple(classes[number] for number in sorted(classes))
    return Reading(base, Listing(tuple(records), names, not_listed(present, images.values(), "images.txt")))


def _labels(base: Path, images: dict[int, str], num_classes: int) -> dict[int, int]:
    """Picture number → class id, 1-based both."""
    path = base / "image_class_labels.txt"
    texts = numbered(path, DOWNLOAD)
    wrong = [text for text in texts.values() if not text.strip().isdecimal()]
    if wrong:
        raise ValueError(f"{path} has {wrong[0]!r} where a class id is expected. {DOWNLOAD}")
    if texts.keys() != images.keys():
        first = min(texts.keys() ^ images.keys())
        raise ValueError(
            f"images.txt numbers {len(images)} pictures and {path} {len(texts)}; picture {first} is in one of them "
            f"only: a file was cut off. {DOWNLOAD}"
        )
    labels = {number: int(text) for number, text in texts.items()}
    check_one_based(labels.values(), num_classes, path, DOWNLOAD)
    return labels


CUB = Benchmark(
    key="cub",
    title="CUB-200-2011",
    counts=Counts(100, 100, 5864, 5924),
    rule="the first half of the classes by class id trains (ids 1 to 100)",
    download=DOWNLOAD,
    archives=(FOLDER,),
    recognise=_recognise,
    read=_read,
)
