"""What is in a collection of pictures, and what is odd about it: before training, not after."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from fieldmark.data.collection import LabelledImages, load_collection
from fieldmark.data.decode import DEFAULT_LIMITS, BadImage, DecodeLimits
from fieldmark.data.parallel import map_indices
from fieldmark.data.sources import FileSource

SMALL_SIDE = 32
"""Pictures with a shorter side below this are reported."""

_SUFFIXES: dict[str, frozenset[str]] = {
    "JPEG": frozenset({".jpg", ".jpeg", ".jpe", ".jfif"}),
    "MPO": frozenset({".jpg", ".jpeg", ".mpo"}),
    "PNG": frozenset({".png", ".apng"}),
    "GIF": frozenset({".gif"}),
    "WEBP": frozenset({".webp"}),
    "BMP": frozenset({".bmp", ".dib"}),
    "DIB": frozenset({".bmp", ".dib"}),
    "TIFF": frozenset({".tif", ".tiff"}),
    "PPM": frozenset({".ppm", ".pgm", ".pbm", ".pnm"}),
    "AVIF": frozenset({".avif"}),
    "JPEG2000": frozenset({".jp2", ".j2k", ".jpx"}),
}


@dataclass(frozen=True)
class OddFile:
    """A file that cannot be used, or of which one should know something."""

    name: str
    reason: str


@dataclass(frozen=True)
class Duplicate:
    """Pictures with exactly the same pixels."""

    ids: tuple[str, ...]
    across_splits: bool
    """They lie in different splits: the test set leaks."""
    across_classes: bool
    """They have different labels: at least one is wrong."""


@dataclass(frozen=True)
class Range:
    """Least, median and greatest of some numbers."""

    min: float
    median: float
    max: float

    def __str__(self) -> str:
        return f"{self.min:g} / {self.median:g} / {self.max:g}"


@dataclass(frozen=True)
class Inspection:
    """The facts about a collection."""

    path: str
    num_images: int
    """Pictures found, bad ones included."""
    num_classes: int
    counts: dict[str, int]
    """Class → number of usable pictures."""
    splits: dict[str, tuple[int, int]]
    """Split → (classes, pictures); empty where there are none."""
    images_per_class: Range
    width: Range
    """Of the upright picture, in pixels."""
    height: Range
    formats: dict[str, int]
    """Format by content → pictures, the most frequent first."""
    single_image_classes: tuple[str, ...]
    """Classes with one usable picture: no query of theirs can be answered."""
    empty_classes: tuple[str, ...]
    """Classes all of whose pictures are bad."""
    duplicates: tuple[Duplicate, ...]
    bad: tuple[OddFile, ...]
    """Pictures that cannot be used."""
    notable: tuple[OddFile, ...]
    """Pictures that are used, and what is unusual: extension, frames, size."""
    ignored: tuple[OddFile, ...]
    """What lies in the folder and is not taken."""

    def as_json(self) -> str:
        """Everything, as a JSON object."""
        return json.dumps(asdict(self), indent=1)

    def as_text(self, shown: int = 10) -> str:
        """For people; lists are cut after `shown` entries (none is cut in `as_json`)."""
        lines = [
            f"{self.path}: {self.num_images} pictures of {self.num_classes} classes",
            f"  pictures per class   {self.images_per_class}   (least / median / most)",
            f"  width                {self.width}",
            f"  height               {self.height}",
            f"  formats              {', '.join(f'{name} {n}' for name, n in self.formats.items()) or 'none'}",
        ]
        for name, (classes, images) in self.splits.items():
            lines.append(f"  split {name:<14} {images} pictures of {classes} classes")
        leaks = [d for d in self.duplicates if d.across_splits]
        doubtful = [d for d in self.duplicates if d.across_classes and not d.across_splits]
        copies = [d for d in self.duplicates if not d.across_classes and not d.across_splits]
        lines += _section("Cannot be used (--skip-bad leaves them out)", _odd(self.bad), shown)
        lines += _section("The same picture in different splits: the test set leaks", _same(leaks), shown)
        lines += _section("The same picture in different classes: a label is wrong", _same(doubtful), shown)
        lines += _section("The same picture twice in a class", _same(copies), shown)
        lines += _section("Classes with a single picture: nothing to find", self.single_image_classes, shown)
        lines += _section("Classes without a usable picture", self.empty_classes, shown)
        lines += _section("Unusual, but used", _odd(self.notable), shown)
        lines += _section("Found but not taken", _odd(self.ignored), shown)
        if len(lines) == 5 + len(self.splits):
            lines.append("Nothing odd.")
        return "\n".join(lines) + "\n"


def _section(title: str, entries: Sequence[str], shown: int) -> list[str]:
    if not entries:
        return []
    more = [f"    … and {len(entries) - shown} more"] if len(entries) > shown else []
    return [f"{title}: {len(entries)}", *(f"    {entry}" for entry in entries[:shown]), *more]


def _odd(files: Sequence[OddFile]) -> list[str]:
    return [f"{file.name}: {file.reason}" for file in files]


def _same(duplicates: Sequence[Duplicate]) -> list[str]:
    return [" = ".join(duplicate.ids) for duplicate in duplicates]


@dataclass(frozen=True)
class _Examined:
    size: tuple[int, int] = (0, 0)
    format: str = ""
    digest: bytes = b""
    bad: str | None = None
    notes: tuple[str, ...] = ()


def inspect_collection(
    path: Path | str,
    limits: DecodeLimits = DEFAULT_LIMITS,
    workers: int = 0,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """Decodes every picture of a collection once and collects what one should know before training.

    Duplicates are pictures with exactly the same decoded pixels, whatever their files' names and formats. Where a
    split.json or the layout states splits, those across splits are told apart.

    Args:
        path: as for `fieldmark.data.collection.load_collection`.
        limits: what decoding one picture may cost.
        workers: processes that decode; 0 decodes here.
        image_column, label_column: columns of tables, where they cannot be told.
        progress: called with (pictures done, pictures in all).

    Raises:
        ValueError: there is no collection at `path`.
    """
    collection = load_collection(path, image_column=image_column, label_column=label_column, limits=limits)
    return inspect_images(collection, path, workers, progress=progress)


def inspect_images(
    collection: LabelledImages,
    path: Path | str,
    workers: int = 0,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Inspection:
    """As `inspect_collection`, for a collection that is loaded already; `path` is how the result calls it."""
    examined = [one for _, one in map_indices(partial(_examine, collection), len(collection), workers, progress)]
    good = [i for i, one in enumerate(examined) if one.bad is None]
    per_class = np.bincount(collection.labels[good], minlength=collection.num_classes)
    names = collection.class_names
    sizes = np.array([examined[i].size for i in good]).reshape(-1, 2)
    return Inspection(
        path=str(path),
        num_images=len(collection),
        num_classes=collection.num_classes,
        counts={name: int(n) for name, n in zip(names, per_class, strict=True)},
        splits=_splits(collection),
        images_per_class=_range(per_class),
        width=_range(sizes[:, 0]),
        height=_range(sizes[:, 1]),
        formats=dict(Counter(examined[i].format for i in good).most_common()),
        single_image_classes=tuple(name for name, n in zip(names, per_class, strict=True) if n == 1),
        empty_classes=tuple(name for name, n in zip(names, per_class, strict=True) if n == 0),
        duplicates=_duplicates(collection, [(i, examined[i].digest) for i in good]),
        bad=tuple(OddFile(collection.ids[i], one.bad) for i, one in enumerate(examined) if one.bad is not None),
        notable=tuple(OddFile(collection.ids[i], "; ".join(one.notes)) for i, one in enumerate(examined) if one.notes),
        ignored=tuple(OddFile(entry.name, entry.reason) for entry in collection.ignored),
    )


def _examine(collection: LabelledImages, i: int) -> _Examined:
    try:
        picture = collection.decode_picture(i)
    except BadImage as error:
        return _Examined(bad=error.reason)
    size = picture.image.size
    digest = hashlib.blake2b(picture.image.tobytes(), digest_size=16, salt=b"%dx%d" % size).digest()
    notes = []
    source = collection.sources[i]
    suffix = source.path.suffix.lower() if isinstance(source, FileSource) else ""
    if isinstance(source, FileSource) and suffix not in _SUFFIXES[picture.format]:
        notes.append(f"the content is {picture.format}, the name says {suffix or 'nothing'}")
    if picture.num_frames > 1 and picture.format != "MPO":
        notes.append(f"{picture.num_frames} frames or pages, the first is used")
    if min(size) < SMALL_SIDE:
        notes.append(f"only {size[0]}×{size[1]} pixels")
    return _Examined(size, picture.format, digest, None, tuple(notes))


def _splits(collection: LabelledImages) -> dict[str, tuple[int, int]]:
    names = np.array(collection.splits)
    return {
        str(name): (len(np.unique(collection.labels[names == name])), int((names == name).sum()))
        for name in sorted(set(collection.splits) - {""})
    }


def _range(values: np.ndarray) -> Range:
    if values.size == 0:
        return Range(0, 0, 0)
    return Range(float(values.min()), float(np.median(values)), float(values.max()))


def _duplicates(collection: LabelledImages, digests: Sequence[tuple[int, bytes]]) -> tuple[Duplicate, ...]:
    groups: dict[bytes, list[int]] = {}
    for i, digest in digests:
        groups.setdefault(digest, []).append(i)
    return tuple(
        Duplicate(
            ids=tuple(collection.ids[i] for i in group),
            across_splits=len({collection.splits[i] for i in group}) > 1,
            across_classes=len({int(collection.labels[i]) for i in group}) > 1,
        )
        for group in groups.values()
        if len(group) > 1
    )
