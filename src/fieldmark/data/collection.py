"""A labelled collection of pictures: where each picture lies, and its class. Pixels are decoded when asked for."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.data.benchmarks.catalogue import find_benchmark, read_benchmark
from fieldmark.data.decode import DEFAULT_LIMITS, BadImage, DecodedPicture, DecodeLimits
from fieldmark.data.layouts import SPLIT_FILE, list_collection, read_split_file
from fieldmark.data.parallel import map_indices
from fieldmark.data.published import PublishedSplit
from fieldmark.data.records import SPLIT_NAMES, Ignored, Listing, bytewise
from fieldmark.data.sources import FileSource, ImageSource, ParquetSource, decode_source

__all__ = [
    "FileSource", "Ignored", "ImageSource", "LabelledImages", "ParquetSource", "load_collection", "screen_images",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """n labelled pictures of k classes. A class may have no picture (after `subset`)."""

    sources: tuple[ImageSource, ...]
    """Where each picture lies."""
    ids: tuple[str, ...]
    """Stable unique names relative to the root, "/"-separated ("robin/003.png", "train.parquet#17")."""
    labels: np.ndarray
    """int64 (n,), 0 ≤ label < k; read-only."""
    class_names: tuple[str, ...]
    """Name of each class, length k."""
    root: Path
    """The folder of the collection."""
    splits: tuple[str, ...] = ()
    """Each picture's split as the layout or split.json states it ("train", "validation", "test", ""), length n."""
    ignored: tuple[Ignored, ...] = ()
    """What was found in the folder and not taken."""
    limits: DecodeLimits = DEFAULT_LIMITS
    """What decoding one of the pictures may cost."""
    published: PublishedSplit | None = None
    """The halves that its protocol fixes, if this is one of the benchmarks."""

    def __post_init__(self) -> None:
        labels = np.array(self.labels, dtype=np.int64)
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)
        if not self.splits:
            object.__setattr__(self, "splits", ("",) * len(self.sources))
        lengths = {len(self.sources), len(self.ids), len(self.splits), labels.size}
        if len(lengths) != 1 or labels.ndim != 1:
            raise ValueError(
                f"sources ({len(self.sources)}), ids ({len(self.ids)}), splits ({len(self.splits)}) and labels "
                f"{labels.shape} must be equally many"
            )
        if labels.size and not 0 <= labels.min() <= labels.max() < len(self.class_names):
            raise ValueError(
                f"labels run from {labels.min()} to {labels.max()} but there are {len(self.class_names)} classes"
            )

    def __len__(self) -> int:
        return len(self.sources)

    @property
    def num_classes(self) -> int:
        """k, classes without pictures included."""
        return len(self.class_names)

    def decode(self, i: int) -> Image.Image:
        """Picture i as RGB, upright, on white. Raises `BadImage`, naming the picture."""
        return self.decode_picture(i).image

    def decode_picture(self, i: int) -> DecodedPicture:
        """As `decode`, with the facts about the file."""
        return decode_source(self.sources[i], self.limits, self.name(i))

    def name(self, i: int) -> str:
        """Picture i as errors call it: its path, or the parquet file and row."""
        source = self.sources[i]
        return str(source.path) if isinstance(source, FileSource) else str(self.root / self.ids[i])

    def subset(self, indices: Sequence[int] | np.ndarray) -> "LabelledImages":
        """The pictures at `indices`, in that order; classes and their numbers stay."""
        chosen = np.asarray(indices, dtype=np.int64).reshape(-1)
        if chosen.size and not 0 <= chosen.min() <= chosen.max() < len(self):
            raise ValueError(f"indices run from {chosen.min()} to {chosen.max()}, the collection has {len(self)}")
        return self._take(chosen, self.labels[chosen], self.class_names)

    def of_classes(self, class_ids: Sequence[int] | np.ndarray) -> "LabelledImages":
        """The pictures of these classes in the collection's order; labels become 0…k−1 in the order given."""
        chosen = [int(c) for c in class_ids]
        if len(set(chosen)) != len(chosen) or not all(0 <= c < self.num_classes for c in chosen):
            raise ValueError(f"class_ids must be different numbers from 0 to {self.num_classes - 1}, got {chosen}")
        renumbered = np.full(self.num_classes, -1, dtype=np.int64)
        renumbered[chosen] = np.arange(len(chosen))
        indices = np.flatnonzero(renumbered[self.labels] >= 0)
        return self._take(indices, renumbered[self.labels[indices]], tuple(self.class_names[c] for c in chosen))

    def _take(self, indices: np.ndarray, labels: np.ndarray, class_names: tuple[str, ...]) -> "LabelledImages":
        return LabelledImages(
            sources=tuple(self.sources[i] for i in indices),
            ids=tuple(self.ids[i] for i in indices),
            labels=labels,
            class_names=class_names,
            root=self.root,
            splits=tuple(self.splits[i] for i in indices),
            ignored=self.ignored,
            limits=self.limits,
            published=self.published,
        )


def load_collection(
    path: Path | str,
    split: str | None = None,
    *,
    image_column: str | None = None,
    label_column: str | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> LabelledImages:
    """Lists a labelled collection; no picture is read yet.

    Layouts, recognised by themselves:

    - class folders: ``ROOT/<class>/<picture>``, or ``ROOT/<split>/<class>/<picture>``
    - Hugging Face imagefolder: ``ROOT/metadata.csv`` or ``.jsonl`` (or in each split folder) with `file_name` and
      a label column
    - the official archives of CUB-200-2011, Cars-196, FGVC-Aircraft and iNat-2021 Aves, extracted or packed (a packed
      one is unpacked beside itself, once): `fieldmark.data.benchmarks`. Their splits are the protocol's halves
    - parquet: one file, ``ROOT/*.parquet`` or ``ROOT/data/*.parquet``, with an image column (binary, or struct
      with `bytes` and `path`) and a label column

    Classes and pictures are sorted bytewise by name, whatever the locale; numbers in a label column by value; names
    in a parquet schema keep their order. Hidden files are passed over; files that are no pictures, and pictures
    outside of the layout, are listed in `ignored`. Links are followed, but names in metadata cannot leave the root.

    Args:
        path: the folder, or one parquet file, or a benchmark's archive.
        split: take only "train", "validation" or "test", as split folders, file names, a `split` column or
            split.json state it. None takes all pictures.
        image_column, label_column: columns of tables, where they cannot be told.
        limits: what decoding one of the pictures may cost.

    Raises:
        ValueError: no pictures, no such split, an unknown or contradictory layout, missing files or labels.
    """
    root = Path(path)
    benchmark = find_benchmark(root)
    if benchmark is not None:
        reading, published = read_benchmark(benchmark, root)
        return collect(reading.root, reading.listing, split, limits, published)
    listing = list_collection(root, image_column=image_column, label_column=label_column)
    return collect(root if root.is_dir() else root.parent, listing, split, limits)


def collect(
    root: Path,
    listing: Listing,
    split: str | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
    published: PublishedSplit | None = None,
) -> LabelledImages:
    """A listing in its order, with the splits of a split.json at `root`; arguments as for `load_collection`.

    Raises:
        ValueError: no such split, or a split.json where the split is `published`.
    """
    parts = read_split_file(root) or {}
    if parts and published is not None:
        raise ValueError(
            f"{root} holds a {SPLIT_FILE}, but {published.benchmark} is split as published ({published.rule}): "
            "remove the file"
        )
    split_of_class = {name: part for part, names in parts.items() for name in names}

    number = {name: i for i, name in enumerate(listing.class_names)}
    records = sorted(listing.records, key=lambda r: (number[r.class_name], _id_order(r.id)))
    splits = [split_of_class.get(record.class_name, record.split) for record in records]
    if split is not None:
        wanted = SPLIT_NAMES.get(split.lower(), split)
        known = sorted(set(splits) - {""})
        if wanted not in known:
            raise ValueError(f"{root} has no split {split!r}; it has {', '.join(known) if known else 'none'}")
        records = [record for record, own in zip(records, splits, strict=True) if own == wanted]
        splits = [wanted] * len(records)

    present = {record.class_name for record in records}
    class_names = tuple(name for name in listing.class_names if name in present)
    number = {name: i for i, name in enumerate(class_names)}
    return LabelledImages(
        sources=tuple(record.source for record in records),
        ids=tuple(record.id for record in records),
        labels=np.array([number[record.class_name] for record in records], dtype=np.int64),
        class_names=class_names,
        root=root,
        splits=tuple(splits),
        ignored=listing.ignored,
        limits=limits,
        published=published,
    )


def _id_order(name: str) -> tuple[bytes, int]:
    """Bytewise; rows of a parquet file by number."""
    file, mark, row = name.rpartition("#")
    return (bytewise(file), int(row)) if mark and row.isdecimal() else (bytewise(name), 0)


def screen_images(
    collection: LabelledImages,
    skip_bad: bool,
    workers: int = 0,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[LabelledImages, list[BadImage]]:
    """Decodes every picture once, so that a bad one is found before the first step and not in hour three.

    Args:
        skip_bad: leave bad pictures out (and classes that have no other) instead of raising.
        workers: processes that decode; 0 decodes here.
        progress: called with (pictures done, pictures in all).

    Returns:
        The collection without its bad pictures, and what is wrong with each of them.

    Raises:
        ValueError: there are bad pictures and `skip_bad` is not said, or nothing is left.
    """
    bad: list[BadImage] = []
    good: list[int] = []
    for i, error in map_indices(partial(_try_decode, collection), len(collection), workers, progress):
        if error is None:
            good.append(i)
        else:
            bad.append(error)
    if not bad:
        return collection, []
    shown = "".join(f"\n  {error}" for error in bad[:10])
    more = f"\n  … and {len(bad) - 10} more" if len(bad) > 10 else ""
    if not good:
        raise ValueError(f"none of the {len(bad)} pictures of {collection.root} can be used:{shown}{more}")
    if not skip_bad:
        raise ValueError(
            f"{len(bad)} of {len(collection)} pictures of {collection.root} cannot be used:{shown}{more}\n"
            "Repair or delete them, or say --skip-bad to go on without them"
        )
    kept = collection.subset(good)
    return kept.of_classes(np.unique(kept.labels)), bad


def _try_decode(collection: LabelledImages, i: int) -> BadImage | None:
    try:
        collection.decode(i)
    except BadImage as error:
        return error
    return None
