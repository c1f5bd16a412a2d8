"""A collection: parts of it, its limits, its screening."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fieldmark.data.collection import (
    LabelledImages,
    load_collection,
    screen_images,
)
from fieldmark.data.decode import BadImage, DecodeLimits

Writer = Callable[..., Path]
MakeBytes = Callable[..., bytes]


def test_subset_and_of_classes(birds: Path) -> None:
    images = load_collection(birds)
    some = images.subset([5, 0, 23])
    assert some.ids == ("b/1.png", "a/0.png", "f/3.png")
    assert some.labels.tolist() == [1, 0, 5] and some.class_names == images.class_names and some.num_classes == 6
    two = images.of_classes([4, 1])
    assert two.class_names == ("e", "b")
    assert two.ids == tuple(f"{c}/{n}.png" for c in "be" for n in range(4))  # the collection's order
    assert two.labels.tolist() == [1] * 4 + [0] * 4
    assert two.decode(0).tobytes() == images.decode(4).tobytes()
    assert len(images.of_classes([])) == 0 and images.of_classes([]).num_classes == 0
    assert len(images.subset(np.array([], dtype=int))) == 0
    for classes in ([1, 1], [6], [-1]):
        with pytest.raises(ValueError, match="class_ids must be different numbers from 0 to 5"):
            images.of_classes(classes)
    with pytest.raises(ValueError, match="the collection has 24"):
        images.subset([24])
    with pytest.raises(ValueError, match="read-only"):
        images.labels[0] = 3


def test_lengths_and_labels_must_agree(birds: Path) -> None:
    images = load_collection(birds)
    with pytest.raises(ValueError, match="equally many"):
        LabelledImages(images.sources, images.ids[1:], images.labels, images.class_names, birds)
    with pytest.raises(ValueError, match="labels run from 0 to 5 but there are 2 classes"):
        LabelledImages(images.sources, images.ids, images.labels, ("a", "b"), birds)


def test_limits_apply_to_the_collection(birds: Path) -> None:
    images = load_collection(birds, limits=DecodeLimits(max_pixels=100))
    with pytest.raises(BadImage, match="the limit is 100"):
        images.of_classes([0]).subset([0]).decode(0)


@pytest.mark.parametrize("workers", [0, 2])
def test_screening(workers: int, birds: Path) -> None:
    images = load_collection(birds)
    assert screen_images(images, skip_bad=False, workers=workers) == (images, [])
    (birds / "b/2.png").write_text("no picture")
    for n in range(4):
        (birds / f"d/{n}.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(ValueError, match=r"(?s)5 of 24 pictures .*b/2\.png: text, not a picture.*--skip-bad"):
        screen_images(images, skip_bad=False, workers=workers)
    seen: list[tuple[int, int]] = []
    kept, bad = screen_images(images, skip_bad=True, workers=workers, progress=lambda *a: seen.append(a))
    assert [error.path for error in bad] == [str(birds / "b/2.png"), *(str(birds / f"d/{n}.png") for n in range(4))]
    assert len(kept) == 19 and kept.class_names == ("a", "b", "c", "e", "f")  # a class without pictures goes
    assert kept.labels.max() == 4 and "b/2.png" not in kept.ids
    assert seen[-1] == (24, 24)


def test_screening_when_nothing_is_left(write_pictures: Writer) -> None:
    root = write_pictures("a/1.png")
    (root / "a/1.png").write_text("x")
    with pytest.raises(ValueError, match="none of the 1 pictures"):
        screen_images(load_collection(root), skip_bad=True)


def _kill_self(i: int) -> int:
    if i == 40:
        os.kill(os.getpid(), 9)
    return i


def test_a_worker_that_is_killed_while_screening_is_an_error() -> None:
    from fieldmark.data.parallel import map_indices

    assert list(map_indices(_kill_self, 40, 2)) == [(i, i) for i in range(40)]
    with pytest.raises(RuntimeError, match="a decoding process died"):
        list(map_indices(_kill_self, 100, 2))
    with pytest.raises(ValueError, match="workers"):
        list(map_indices(_kill_self, 3, -1))
