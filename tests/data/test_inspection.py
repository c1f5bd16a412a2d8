"""What an inspection finds in a collection that has one of everything."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from fieldmark.data.decode import DecodeLimits
from fieldmark.data.inspection import Duplicate, OddFile, Range, inspect_collection

Writer = Callable[..., Path]


@pytest.fixture
def odd(write_pictures: Writer, make_bytes: Callable[..., bytes]) -> Path:
    root = write_pictures(
        "train/a/1.png", "train/a/2.png", "train/a/3.png", "train/b/1.png", "train/b/2.png", "test/c/1.png",
        "test/c/2.png", "test/d/1.png", "test/e/1.png",
    )  # fmt: skip
    (root / "test/c/copy.png").write_bytes(make_bytes("train/a/1.png"))  # leaks
    (root / "train/b/copy.bmp").write_bytes(make_bytes("train/a/2.png", "BMP"))  # other file, same pixels
    (root / "train/a/copy.png").write_bytes(make_bytes("train/a/3.png"))
    (root / "test/e/1.png").write_bytes(b"<svg/>")
    (root / "test/c/wrong.jpg").write_bytes(make_bytes("wrong", "GIF"))
    (root / "train/b/notes.txt").write_text("x")
    Image.new("RGB", (20, 400), (1, 2, 3)).save(root / "train/b/thin.png")
    frames = [Image.new("RGB", (50, 50), c) for c in ("red", "blue")]
    frames[0].save(root / "train/b/moving.gif", save_all=True, append_images=frames[1:])
    return root


@pytest.mark.parametrize("workers", [0, 2])
def test_everything_is_found(workers: int, odd: Path) -> None:
    found = inspect_collection(odd, workers=workers)
    assert (found.path, found.num_images, found.num_classes) == (str(odd), 15, 5)
    assert found.counts == {"a": 4, "b": 5, "c": 4, "d": 1, "e": 0}
    assert found.images_per_class == Range(0, 4, 5)
    assert found.splits == {"test": (3, 6), "train": (2, 9)}
    assert found.width == Range(20, 40, 50) and found.height == Range(32, 32, 400)
    assert found.formats == {"PNG": 11, "GIF": 2, "BMP": 1}
    assert found.single_image_classes == ("d",) and found.empty_classes == ("e",)
    assert set(found.duplicates) == {
        Duplicate(("train/a/1.png", "test/c/copy.png"), across_splits=True, across_classes=True),
        Duplicate(("train/a/2.png", "train/b/copy.bmp"), across_splits=False, across_classes=True),
        Duplicate(("train/a/3.png", "train/a/copy.png"), across_splits=False, across_classes=False),
    }
    assert [file.name for file in found.bad] == ["test/e/1.png"] and "SVG" in found.bad[0].reason
    assert found.notable == (
        OddFile("train/b/moving.gif", "2 frames or pages, the first is used"),
        OddFile("train/b/thin.png", "only 20×400 pixels"),
        OddFile("test/c/wrong.jpg", "the content is GIF, the name says .jpg"),
    )
    assert found.ignored == (OddFile("train/b/notes.txt", "no picture"),)


def test_text_and_json(odd: Path) -> None:
    found = inspect_collection(odd)
    text = found.as_text()
    for part in (
        "15 pictures of 5 classes",
        "split train          9 pictures of 2 classes",
        "Cannot be used (--skip-bad leaves them out): 1",
        "different splits: the test set leaks: 1\n    train/a/1.png = test/c/copy.png",
        "different classes: a label is wrong: 1\n    train/a/2.png = train/b/copy.bmp",
        "twice in a class: 1\n    train/a/3.png = train/a/copy.png",
        "Classes with a single picture: nothing to find: 1\n    d\n",
        "test/c/wrong.jpg: the content is GIF, the name says .jpg",
        "train/b/notes.txt: no picture",
    ):
        assert part in text, part
    assert "… and 2 more" in found.as_text(shown=1)
    record = json.loads(found.as_json())
    assert record["counts"]["b"] == 5 and record["images_per_class"] == {"min": 0, "median": 4, "max": 5}
    assert record["duplicates"][0]["ids"] and len(record["notable"]) == 3


def test_a_clean_collection(birds: Path) -> None:
    found = inspect_collection(birds)
    assert found.duplicates == found.bad == found.notable == found.ignored == ()
    assert found.splits == {} and found.images_per_class == Range(4, 4, 4)
    assert found.as_text().endswith("Nothing odd.\n")


def test_splits_by_class_count_too(birds: Path) -> None:
    (birds / "split.json").write_text('{"train": ["a", "b", "c"], "test": ["d", "e", "f"]}')
    (birds / "f/0.png").write_bytes((birds / "a/0.png").read_bytes())
    found = inspect_collection(birds)
    assert found.splits == {"test": (3, 12), "train": (3, 12)}
    assert [duplicate.across_splits for duplicate in found.duplicates] == [True]


def test_limits_make_pictures_bad(birds: Path) -> None:
    found = inspect_collection(birds, DecodeLimits(max_pixels=1000))
    assert len(found.bad) == 24 and "the limit is 1,000" in found.bad[0].reason
    assert found.width == Range(0, 0, 0) and found.formats == {}
    assert "Cannot be used" in found.as_text()


def test_no_collection(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="class folders"):
        inspect_collection(tmp_path)
