import json
import pickle
from pathlib import Path

import pytest

from fieldmark.data.multimodal.json_lines import JsonLines, find_positions, index_lines
from fieldmark.data.retrieval import Item


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return path


def test_lines_are_read_where_they_lie(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes('{"id": "ä", "n": 0}\n\n  \n{"id": "b", "n": 1}\r\n{"id": "c", "n": 2}'.encode())
    lines = JsonLines(index_lines(path, "id"), lambda record: record["n"])
    assert len(lines) == 3 and list(lines) == [0, 1, 2] and lines[-1] == 2 and lines[0:2] == [0, 1]
    assert [lines.position(name) for name in "cäb"] == [2, 0, 1]
    with pytest.raises(KeyError):
        lines.position("d")
    with pytest.raises(IndexError):
        lines[3]


def test_it_travels_to_other_processes(tmp_path: Path) -> None:
    lines = JsonLines(index_lines(write(tmp_path / "a", '{"id": "a"}', '{"id": "b"}'), "id"), dict)
    lines.position("a")
    copy = pickle.loads(pickle.dumps(lines))  # what multiprocessing does with it
    assert copy[1] == {"id": "b"} and copy.position("b") == 1


def test_memory_is_a_few_bytes_a_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a", *(json.dumps({"id": f"1:{i}", "txt": "word " * 50}) for i in range(2000)))
    lines = JsonLines(index_lines(path, "id"), dict)
    assert lines.position("1:1999") == 1999
    table = lines.table
    held = sum(array.nbytes for array in (table.starts, table.lengths, table.hashes, lines._order))
    assert held == 28 * 2000


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (['{"id": "a"}', '{"id": '], "line 2 is no JSON.*download the file again"),
        (['["a"]'], "line 1 must be a JSON object, got list"),
        (['{"name": "a"}'], "line 1: 'id' must be a text, got None"),
        (['{"id": 7}'], "'id' must be a text, got 7"),
        (['{"id": "a", "n": 1}', '{"id": "a", "n": 2}'], "the id 'a' twice, with different contents"),
        (["version https://git-lfs.github.com/spec/v1"], "git lfs pull"),
    ],
)
def test_damage_is_named(tmp_path: Path, lines: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        index_lines(write(tmp_path / "a", *lines), "id")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nowhere cannot be read"):
        index_lines(tmp_path / "nowhere", "id")


def test_repeated_lines_are_counted_or_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a", '{"id": "a"}', '{"id": "b"}', '{"id": "a"}', '{"id": "a"}')
    index = index_lines(path, "id")
    assert (len(index), index.repeated) == (2, 2) and [r["id"] for r in JsonLines(index, dict)] == ["a", "b"]
    kept = index_lines(path, "id", keep_repeated=True)
    assert (len(kept), kept.repeated) == (4, 0) and JsonLines(kept, dict).position("a") == 0


def test_refused_lines_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a", '{"id": "a"}', '{"id": "b", "bad": 1}', '{"id": "c", "bad": 1}')
    index = index_lines(path, "id", lambda record: "bad" if record.get("bad") else None)
    assert (len(index), index.refused, index.first_refusal) == (1, 2, "line 2, b: bad")


def test_a_file_that_changed_is_told(tmp_path: Path) -> None:
    path = write(tmp_path / "a", '{"id": "a"}', '{"id": "b"}')
    lines = JsonLines(index_lines(path, "id"), dict)
    write(path, '{"name": "quite another line"}')
    with pytest.raises(ValueError, match="changed since it was read"):
        lines[1]


def test_positions_are_found_in_memory_and_on_disk(tmp_path: Path) -> None:
    path = write(tmp_path / "a", '{"id": "a"}', '{"id": "b"}')
    on_disk = JsonLines(index_lines(path, "id"), lambda record: Item(record["id"], "x"))
    for items in (on_disk, list(on_disk)):
        assert find_positions(items, ["b", "z", "a"]) == {"b": 1, "a": 0}
