"""Parquet collections: structs or bytes, class names of the schema, row groups read when needed."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fieldmark.data import sources
from fieldmark.data.collection import (
    ParquetSource,
    load_collection,
)
from fieldmark.data.decode import BadImage

Writer = Callable[..., Path]
MakeBytes = Callable[..., bytes]


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


def test_parquet_without_pyarrow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet", raising=False)
    with pytest.raises(ValueError, match=r"pip install 'fieldmark\[parquet\]'"):
        load_collection(tmp_path)
