"""Layouts on disk → the same collection; what is odd is named; nothing leads out of the root."""

import csv
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fieldmark.data import sources
from fieldmark.data.collection import (
    FileSource,
    LabelledImages,
    ParquetSource,
    load_collection,
    screen_images,
)
from fieldmark.data.decode import BadImage, DecodeLimits

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


def write_parquet(path: Path, labels: list, images: list, class_names: list[str] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    table = pa.table({"image": images, "label": labels})
    if class_names is not None:
        features = {"info": {"features": {"label": {"names": class_names, "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(features)})
    pq.write_table(table, path, row_group_size=3)


def test_parquet_with_struct_images_and_class_names(tmp_path: Path, make_bytes: MakeBytes) -> None:
    images = [{"bytes": make_bytes(str(i)), "path": f"{i}.png"} for i in range(8)]
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", [2, 0, 2, 0], images[:4], ["wren", "none", "ara"])
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", [0, 0], images[4:6], ["wren", "none", "ara"])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", [2, 2], images[6:], ["wren", "none", "ara"])
    found = load_collection(tmp_path)
    assert found.class_names == ("wren", "ara")  # the schema's order; a class without pictures is none
    assert found.ids[:2] == ("data/train-00000-of-00002.parquet#1", "data/train-00000-of-00002.parquet#3")
    assert found.labels.tolist() == [0] * 4 + [1] * 4
    expected = [1, 3, 4, 5, 6, 7, 0, 2]
    for i, key in enumerate(expected):
        assert found.decode(i).tobytes() == _pixels(make_bytes(str(key)))
    assert found.sources[1] == ParquetSource(tmp_path / "data/train-00000-of-00002.parquet", 1, 0, "image")
    assert len(load_collection(tmp_path, "train")) == 6
    assert set(load_collection(tmp_path, "test").splits) == {"test"}


def _pixels(content: bytes) -> bytes:
    from fieldmark.data.decode import decode_image

    return decode_image(content).tobytes()


def test_one_parquet_file_with_plain_bytes_and_numbers(tmp_path: Path, make_bytes: MakeBytes) -> None:
    rows = 12
    write_parquet(tmp_path / "all.parquet", [10, 9] * 6, [make_bytes(str(i)) for i in range(rows)])
    found = load_collection(tmp_path / "all.parquet")
    assert found.class_names == ("9", "10") and found.root == tmp_path
    assert found.ids == tuple(f"all.parquet#{i}" for i in (1, 3, 5, 7, 9, 11, 0, 2, 4, 6, 8, 10))  # rows by number


def test_parquet_reads_row_groups_lazily_and_keeps_few(
    tmp_path: Path, make_bytes: MakeBytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parquet(tmp_path / "a.parquet", ["x"] * 9, [make_bytes(str(i)) for i in range(9)])
    read: list[int] = []
    original = pq.ParquetFile.read_row_group

    def spy(self: pq.ParquetFile, group: int, columns: list[str]) -> pa.Table:
        if columns == ["image"]:
            read.append(group)
        return original(self, group, columns=columns)

    monkeypatch.setattr(pq.ParquetFile, "read_row_group", spy)
    monkeypatch.setattr(sources, "_row_groups", type(sources._row_groups)())
    found = load_collection(tmp_path)
    assert read == []  # labels only
    for i in (0, 1, 2, 8, 0):
        found.decode(i)
    assert read == [0, 2]
    monkeypatch.setattr(sources, "ROW_GROUP_CACHE_BYTES", 1)
    for i in (3, 0, 1):
        found.decode(i)
    assert read == [0, 2, 1, 0]


def test_bad_rows_are_named(tmp_path: Path, make_bytes: MakeBytes) -> None:
    good = make_bytes("x")
    images = [
        {"bytes": good, "path": None},
        {"bytes": b"text", "path": None},
        {"bytes": None, "path": "beside.png"},
        {"bytes": None, "path": "../outside.png"},
        {"bytes": None, "path": None},
    ]
    (tmp_path / "in").mkdir()
    (tmp_path / "in/beside.png").write_bytes(good)
    (tmp_path / "outside.png").write_bytes(good)
    write_parquet(tmp_path / "in/a.parquet", ["x"] * 5, images)
    found = load_collection(tmp_path / "in")
    assert found.decode(0).tobytes() == found.decode(2).tobytes()
    for i, reason in ((1, "text"), (3, "leads out"), (4, "holds no picture")):
        with pytest.raises(BadImage, match=reason) as caught:
            found.decode(i)
        assert caught.value.path.endswith(f"a.parquet#{i}")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"image": [b"x"], "label": [None]}, "label None is neither"),
        ({"image": [b"x"], "label": [1.5]}, "label 1.5 is neither"),
        ({"image": [b"x"], "mark": ["a"]}, "no label column"),
        ({"one": [b"x"], "two": [b"x"], "label": ["a"]}, "2 columns that could hold pictures"),
        ({"image": ["x"], "label": ["a"]}, "0 columns that could hold pictures"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.string())}, "hold no rows"),
    ],
)
def test_unclear_parquet_is_refused(columns: dict, message: str, tmp_path: Path) -> None:
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=message):
        load_collection(tmp_path)


def test_parquet_columns_can_be_named(tmp_path: Path, make_bytes: MakeBytes) -> None:
    content = make_bytes("x")
    pq.write_table(pa.table({"one": [b""], "two": [content], "mark": ["a"]}), tmp_path / "a.parquet")
    found = load_collection(tmp_path, image_column="two", label_column="mark")
    assert found.class_names == ("a",) and found.decode(0).size == (40, 32)
    with pytest.raises(ValueError, match="no column 'three'"):
        load_collection(tmp_path, image_column="three", label_column="mark")


def test_a_damaged_parquet_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 rubbish PAR1")
    with pytest.raises(ValueError, match=r"a\.parquet cannot be read as parquet"):
        load_collection(tmp_path)


def test_labels_outside_of_the_schema_and_contradicting_schemas(tmp_path: Path, make_bytes: MakeBytes) -> None:
    write_parquet(tmp_path / "a.parquet", [2], [make_bytes("x")], ["one", "two"])
    with pytest.raises(ValueError, match="label 2 is outside of the schema's 2 class names"):
        load_collection(tmp_path)
    write_parquet(tmp_path / "a.parquet", [1], [make_bytes("x")], ["one", "two"])
    write_parquet(tmp_path / "b.parquet", [1], [make_bytes("x")], ["two", "one"])
    with pytest.raises(ValueError, match="name different classes"):
        load_collection(tmp_path)


def test_subset_and_of_classes(birds: Path) -> None:
    images = load_collection(birds)
    some = images.subset([5, 0, 23])
    assert some.ids == ("b/1.png", "a/0.png", "f/3.png")
    assert some.labels.tolist() == [1, 0, 5] and some.class_names == images.class_names and some.num_classes == 6
    two = images.of_classes([4, 1])
    assert two.class_names == ("e", "b")
    assert names(two) == [(f"{c}/{n}.png", c) for c in "be" for n in range(4)]  # the collection's order
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


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'fieldmark\[parquet\]'"):
        load_collection(tmp_path)
