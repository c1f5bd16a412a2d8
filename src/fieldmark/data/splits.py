"""Class-disjoint parts of a collection: the zero-shot protocol, in which no test class is seen in training."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from fieldmark.data.collection import LabelledImages
from fieldmark.data.layouts import SPLIT_FILE, read_split_file
from fieldmark.data.published import Counts


@dataclass(frozen=True, eq=False)
class ClassSplit:
    """Three parts without a common class; labels of each run from 0. `validation` and `test` may be empty."""

    train: LabelledImages
    validation: LabelledImages
    """Classes of the training half that choose models and lengths; never trained on."""
    test: LabelledImages

    def differences(self) -> tuple[str, ...]:
        """Where the numbers of classes and pictures are not those of the published data set, in words.

        Empty for a complete benchmark, and for a collection that is none.
        """
        published = self.test.published
        if published is None:
            return ()
        found = Counts(
            self.train.num_classes + self.validation.num_classes,
            self.test.num_classes,
            len(self.train) + len(self.validation),
            len(self.test),
        )
        return published.counts.differences(found)

    def as_json(self) -> dict[str, Any]:
        """What a run's record says of its pictures."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        published = self.test.published
        return {
            "benchmark": None if published is None else published.benchmark,
            "rule": None if published is None else published.rule,
            "differs_from_published": list(self.differences()),
            "classes": {name: part.num_classes for name, part in parts.items()},
            "pictures": {name: len(part) for name, part in parts.items()},
        }


def split_classes(
    collection: LabelledImages,
    train_fraction: float = 0.5,
    validation_fraction: float = 0.2,
    seed: int = 0,
) -> ClassSplit:
    """Splits the classes, not the pictures.

    The training half is the first ``round(train_fraction × k)`` classes in the collection's order, as the
    published protocols for CUB, Cars, Aircraft and iNat-Aves have it; the rest is for testing. From the training
    half, ``round(validation_fraction × size)`` classes (at least two) drawn by `seed` become validation classes.

    A `split.json` at the collection's root (``{"train": [class, …], "test": [class, …]}``, perhaps with
    "validation") wins over `train_fraction`, and over `validation_fraction` where it names validation classes.
    Classes of the file that the collection lacks (all their pictures were bad) are passed over.

    A benchmark (`collection.published`) is split as its protocol says; validation classes are drawn from its training
    half.

    Args:
        train_fraction: above 0; 1 leaves nothing to test. 0.5 for a benchmark.
        validation_fraction: from 0 (no validation classes) to below 1.

    Raises:
        ValueError: fractions out of range; a part would hold a single class, in which everything found is right;
            split.json leaves out classes of the collection.
    """
    if not 0 < train_fraction <= 1:
        raise ValueError(f"train_fraction must be above 0 and at most 1, got {train_fraction}")
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must be from 0 to below 1, got {validation_fraction}")
    parts = _file_parts(collection) if collection.published is None else _published_parts(collection, train_fraction)
    if parts is None:
        count = _round(train_fraction * collection.num_classes)
        training, test = list(range(count)), list(range(count, collection.num_classes))
        validation: list[int] = []
    else:
        training, validation, test = parts["train"], parts.get("validation", []), parts["test"]
    if parts is None or "validation" not in parts:
        training, validation = _draw_validation(training, validation_fraction, seed)
    _check(collection, training, validation, test)
    return ClassSplit(collection.of_classes(training), collection.of_classes(validation), collection.of_classes(test))


def _round(value: float) -> int:
    """Half rounds up: of five classes, three train."""
    return int(np.floor(value + 0.5))


def _file_parts(collection: LabelledImages) -> dict[str, list[int]] | None:
    """Class numbers of each part as split.json says, in the collection's order; None without the file."""
    names = read_split_file(collection.root)
    if names is None:
        return None
    part_of = {name: part for part, classes in names.items() for name in classes}
    unknown = [name for name in collection.class_names if name not in part_of]
    if unknown:
        raise ValueError(
            f"{collection.root / SPLIT_FILE} does not say where {len(unknown)} classes belong, first "
            f"{', '.join(unknown[:5])}: add them, or remove the file to split by train_fraction"
        )
    return {part: [i for i, name in enumerate(collection.class_names) if part_of[name] == part] for part in names}


def _published_parts(collection: LabelledImages, train_fraction: float) -> dict[str, list[int]]:
    """Class numbers of the protocol's halves. By name, so that a class without usable pictures moves none."""
    published = collection.published
    assert published is not None
    if train_fraction != 0.5:
        raise ValueError(
            f"train_fraction={train_fraction}, but {published.benchmark} is split as published ({published.rule}): "
            "leave train_fraction at 0.5"
        )
    halves = {"train": published.train, "test": published.test}
    return {part: [i for i, n in enumerate(collection.class_names) if n in own] for part, own in halves.items()}


def _draw_validation(training: list[int], fraction: float, seed: int) -> tuple[list[int], list[int]]:
    if fraction == 0:
        return training, []
    count = max(2, _round(fraction * len(training)))
    drawn = {training[i] for i in np.random.default_rng(seed).permutation(len(training))[:count]}
    return [c for c in training if c not in drawn], sorted(drawn)


def _check(collection: LabelledImages, training: list[int], validation: list[int], test: list[int]) -> None:
    found = (
        f"{collection.root} has {collection.num_classes} classes: {len(training)} for training, "
        f"{len(validation)} for validation, {len(test)} for testing"
    )
    if len(training) < 2:
        raise ValueError(
            f"{found}. Training needs at least 2: give more classes, a larger train_fraction, or validation_fraction=0"
        )
    if len(validation) == 1 or len(test) == 1:
        raise ValueError(
            f"{found}. With a single class everything found is right: give more classes, or change "
            "train_fraction or validation_fraction (train_fraction=1 tests nothing)"
        )
