"""A folder of negatives: read as written, whole or not there."""

import pytest

from fieldmark.data.mined_negatives import QueryNegatives, read_mined, write_mined

NEGATIVES = [QueryNegatives("9:1", ("9:4", "9:é"), ("9:7",)), QueryNegatives("9:2", (), ())]


def test_read_as_written(tmp_path):
    write_mined(tmp_path / "a" / "mined", {"config": {"hard": 2}}, iter(NEGATIVES))
    found = read_mined(tmp_path / "a" / "mined")
    assert dict(found) == {one.qid: one for one in NEGATIVES} and found.get("9:3") is None
    assert found.about == {"config": {"hard": 2}, "queries": 2} and len(found) == 2
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["mined"]


def test_nothing_is_left_of_one_that_broke_off(tmp_path):
    def breaks():
        yield NEGATIVES[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_mined(tmp_path / "mined", {}, breaks())
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_such_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="data mine"):
        read_mined(tmp_path)
    write_mined(tmp_path / "mined", {}, NEGATIVES)
    with pytest.raises(ValueError, match="exists already"):
        write_mined(tmp_path / "mined", {}, NEGATIVES)
    lines = tmp_path / "mined" / "negatives.jsonl"
    lines.write_text(lines.read_text().splitlines()[0] + "\n")
    with pytest.raises(ValueError, match="1 queries where 2"):
        read_mined(tmp_path / "mined")
