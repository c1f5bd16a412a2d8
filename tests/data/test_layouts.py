"""Layouts on disk → the same collection; what is odd is named; nothing leads out of the root."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fieldmark.data.collection import (
    FileSource,
    LabelledImages,
    load_collection,
)

Writer = Callable[..., Path]
MakeBytes = Callable[..., bytes]


def names(images: LabelledImages) -> list[tuple[str, str]]:
    return [(i, images.class_names[label]) for i, label in zip(images.ids, images.labels, strict=True)]


def test_class_folders(write_pictures: Writer) -> None:
    root = write_pictures("wren/2.png", "wren/10.png", "Dove/b.png", "ärmel/a.png", "zebra/.hidden.png", "zebra/z.png")
    images = load_collection(root)
    assert images.class_names == ("Dove", "wren", "zebra", "ärmel")  # bytewise: no locale, no folded case
    assert names(images) == [
        ("Dove/b.png", "Dove"),
        ("wren/10.png", "wren"),
        ("wren/2.png", "wren"),
        ("zebra/z.png", "zebra"),
        ("ärmel/a.png", "ärmel"),
    ]
    assert images.labels.dtype == np.int64 and images.num_classes == 4 and len(images) == 5
    assert images.root == root and images.splits == ("",) * 5 and images.ignored == ()
    assert images.sources[0] == FileSource(root / "Dove/b.png")
    assert images.decode(0).size == (40, 32)
    assert load_collection(str(root)).ids == images.ids


def test_what_is_not_taken_is_listed(write_pictures: Writer, make_bytes: MakeBytes) -> None:
    root = write_pictures("a/1.png", "b/1.png", "loose.png", "a/no_suffix")
    (root / "a/notes.txt").write_text("seen near the pond")
    (root / "a/odd.txt").write_bytes(make_bytes("odd"))  # a picture whatever its name says
    (root / "b/photo.heic").write_bytes(b"\0\0\0\x18ftypheic")  # taken, so that it is reported as bad
    (root / "empty").mkdir()
    (root / "a/sub").mkdir()
    (root / "README.md").write_text("# Birds")
    (root / ".git").mkdir()
    (root / "__MACOSX").mkdir()
    (root / "a/Thumbs.db").write_bytes(b"x")
    images = load_collection(root)
    assert images.ids == ("a/1.png", "a/no_suffix", "a/odd.txt", "b/1.png", "b/photo.heic")
    assert images.class_names == ("a", "b")
    assert {entry.name: entry.reason for entry in images.ignored} == {
        "README.md": "no picture",
        "a/notes.txt": "no picture",
        "a/sub": "a folder inside a class folder, without pictures",
        "empty": "a class folder without pictures",
        "loose.png": "a picture outside of the class folders",
    }


def test_links_are_followed(write_pictures: Writer, tmp_path: Path) -> None:
    stored = write_pictures("blob", root="store")
    (tmp_path / "links/a").mkdir(parents=True)
    (tmp_path / "links/a/1.png").symlink_to(stored / "blob")
    (tmp_path / "links/b").symlink_to(stored)
    (tmp_path / "links/a/broken.png").symlink_to(tmp_path / "nothing")
    images = load_collection(tmp_path / "links")
    assert images.ids == ("a/1.png", "b/blob")
    assert images.decode(0).tobytes() == images.decode(1).tobytes()
    assert [entry.name for entry in images.ignored] == ["a/broken.png"]


def test_nested_class_folders_are_refused(write_pictures: Writer) -> None:
    root = write_pictures("volvo/v40/1.png", "volvo/v60/1.png", "bmw/i3/1.png")
    with pytest.raises(ValueError, match=r"i3 is a folder inside the class folder .*give their parent"):
        load_collection(root)
    assert load_collection(root / "volvo").class_names == ("v40", "v60")


def test_split_folders(write_pictures: Writer) -> None:
    root = write_pictures("train/b/1.png", "train/a/1.png", "val/a/2.png", "test/c/1.png")
    images = load_collection(root)
    assert names(images) == [
        ("train/a/1.png", "a"),
        ("val/a/2.png", "a"),
        ("train/b/1.png", "b"),
        ("test/c/1.png", "c"),
    ]
    assert images.splits == ("train", "validation", "train", "test")
    assert names(load_collection(root, "train")) == [("train/a/1.png", "a"), ("train/b/1.png", "b")]
    assert names(load_collection(root, "val")) == names(load_collection(root, "validation")) == [("val/a/2.png", "a")]
    only = load_collection(root, "test")
    assert only.class_names == ("c",) and only.labels.tolist() == [0] and only.splits == ("test",)
    with pytest.raises(ValueError, match=r"no split 'extra'; it has test, train, validation"):
        load_collection(root, "extra")


def test_a_class_may_be_called_like_a_split(write_pictures: Writer) -> None:
    root = write_pictures("train/1.png", "test/1.png", "bus/1.png")
    assert load_collection(root).class_names == ("bus", "test", "train")
    with pytest.raises(ValueError, match="no split 'train'; it has none"):
        load_collection(root, "train")


def test_a_fieldguide_collection(write_pictures: Writer) -> None:
    root = write_pictures("s1/000.png", "s2/000.png", "masks/s1/000.png", "masks/s2/000.png", "contact_sheet.png")
    (root / "split.json").write_text('{"train": ["s2"], "test": ["s1"]}')
    with pytest.raises(ValueError, match="inside the class folder"):
        load_collection(root)  # without its settings it is any folder
    (root / "fieldguide.json").write_text("{}")
    (root / "attributes.jsonl").write_text("{}\n")
    images = load_collection(root)
    assert images.ids == ("s1/000.png", "s2/000.png") and images.ignored == ()
    assert images.splits == ("test", "train")
    assert load_collection(root, "train").class_names == ("s2",)


@pytest.mark.parametrize(
    "content",
    [
        '["s1"]',
        '{"train": ["a"]}',
        '{"train": ["a"], "test": "b"}',
        '{"train": [1], "test": []}',
        "{",
        '{"train": [], "test": [], "x": []}',
    ],
)
def test_a_damaged_split_file_is_refused(content: str, birds: Path) -> None:
    (birds / "split.json").write_text(content)
    with pytest.raises(ValueError, match=r"split\.json"):
        load_collection(birds)


def test_a_class_in_two_parts_is_refused(birds: Path) -> None:
    (birds / "split.json").write_text('{"train": ["a", "b"], "test": ["b"]}')
    with pytest.raises(ValueError, match="'b' is listed in 'train' and in 'test'"):
        load_collection(birds)


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "loose"])
def test_no_collection_at_all(kind: str, tmp_path: Path, write_pictures: Writer) -> None:
    root = tmp_path / kind
    if kind == "file":
        root.write_text("x")
    elif kind == "empty":
        root.mkdir()
    elif kind == "loose":
        write_pictures("1.png", "2.png", root=kind)
    with pytest.raises(ValueError, match="class folders"):
        load_collection(root)


def write_metadata(root: Path, kind: str, rows: list[dict]) -> None:
    with (root / f"metadata.{kind}").open("w", newline="") as file:
        if kind == "csv":
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        else:
            file.writelines(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_imagefolder(kind: str, write_pictures: Writer) -> None:
    root = write_pictures("2.png", "sub/1.png", "unlisted.png")
    write_metadata(root, kind, [{"file_name": "./sub/1.png", "label": "wren"}, {"file_name": "2.png", "label": "dove"}])
    images = load_collection(root)
    assert names(images) == [("2.png", "dove"), ("sub/1.png", "wren")]
    assert images.sources[1] == FileSource(root / "sub/1.png")
    assert [(entry.name, entry.reason) for entry in images.ignored] == [
        ("unlisted.png", f"not listed in metadata.{kind}")
    ]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_numbers_as_labels_sort_by_value(kind: str, write_pictures: Writer) -> None:
    root = write_pictures("a.png", "b.png", "c.png")
    write_metadata(root, kind, [{"file_name": f"{n}.png", "label": v} for n, v in (("a", 10), ("b", 9), ("c", 100))])
    assert load_collection(root).class_names == ("9", "10", "100")


def test_imagefolder_in_split_folders_and_a_named_label_column(write_pictures: Writer) -> None:
    root = write_pictures("train/1.png", "test/2.png")
    write_metadata(root / "train", "csv", [{"file_name": "1.png", "make": "volvo", "year": 2001}])
    write_metadata(root / "test", "csv", [{"file_name": "2.png", "make": "bmw", "year": 2001}])
    with pytest.raises(ValueError, match=r"no label column \(columns: file_name, make, year\).*label_column"):
        load_collection(root)
    images = load_collection(root, label_column="make")
    assert names(images) == [("test/2.png", "bmw"), ("train/1.png", "volvo")]
    assert images.splits == ("test", "train")


def test_splits_of_one_metadata_file(write_pictures: Writer) -> None:
    root = write_pictures("train/1.png", "test/2.png")
    write_metadata(root, "csv", [{"file_name": "train/1.png", "label": "a"}, {"file_name": "test/2.png", "label": "b"}])
    assert load_collection(root).splits == ("train", "test")
    write_metadata(
        root,
        "csv",
        [
            {"file_name": "train/1.png", "label": "a", "split": "test"},
            {"file_name": "test/2.png", "label": "b", "split": "dev"},
        ],
    )
    assert load_collection(root).splits == ("test", "validation")


@pytest.mark.parametrize(
    "name", ["../secret.png", "a/../../secret.png", "/etc/passwd", "..\\secret.png", "C:\\x.png", "x\0.png"]
)
def test_names_in_metadata_cannot_leave_the_root(name: str, write_pictures: Writer) -> None:
    root = write_pictures("1.png")
    write_pictures("secret.png", root=".")
    write_metadata(root, "jsonl", [{"file_name": "1.png", "label": "a"}, {"file_name": name, "label": "b"}])
    with pytest.raises(ValueError, match=r"metadata\.jsonl:2: .*leads out of"):
        load_collection(root)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"file_name": "1.png", "label": "a"}\n{"file_name": "1.png", "label": "b"}',
            r":2: '1\.png' is listed already in line 1",
        ),
        (
            '{"file_name": "1.png", "label": "a"}\n{"file_name": "9.png", "label": "b"}',
            r"1 files that do not exist, first 9\.png",
        ),
        ('{"file_name": "1.png", "label": null}', r":1: file_name or 'label' is missing or empty"),
        ('{"label": "a"}', r":1: file_name or 'label' is missing"),
        ('{"file_name": "1.png", "label": "a", "class": "b"}', r"has the candidates label, class"),
        ('{"file_name": "1.png"', r":1: no valid JSON"),
        ("[1]", r":1: not a JSON object"),
        ("", r"lists no pictures"),
    ],
)
def test_damaged_metadata_is_refused(text: str, message: str, write_pictures: Writer) -> None:
    root = write_pictures("1.png")
    (root / "metadata.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_collection(root)


def test_a_csv_line_with_too_many_columns_is_refused(write_pictures: Writer) -> None:
    root = write_pictures("1.png")
    (root / "metadata.csv").write_text("file_name,label\n1.png,a,b\n")
    with pytest.raises(ValueError, match=r"metadata\.csv:2: the number of columns differs"):
        load_collection(root)


def test_two_metadata_files_are_refused(write_pictures: Writer) -> None:
    root = write_pictures("1.png")
    for kind in ("csv", "jsonl"):
        write_metadata(root, kind, [{"file_name": "1.png", "label": "a"}])
    with pytest.raises(ValueError, match="both"):
        load_collection(root)
