from pathlib import Path

import pytest

from fieldmark.data.multimodal.nli import Triplet, nli_task, read_nli, write_nli


def test_read_what_was_written(tmp_path: Path) -> None:
    triplets = [Triplet('He said "go", and left.', "He left.", "He stayed."), Triplet("ä\nb", "c", "d")]
    write_nli(tmp_path / "nli" / "a.csv", triplets)
    assert (tmp_path / "nli" / "a.csv").read_text().startswith("sent0,sent1,hard_neg\n")
    assert read_nli(tmp_path / "nli" / "a.csv") == triplets


def test_columns_may_come_in_any_order(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("hard_neg,x,sent0,sent1\nc,1,a,b\n")
    assert read_nli(tmp_path / "a.csv") == [Triplet("a", "b", "c")]


def test_empty_cells_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("sent0,sent1,hard_neg\na,b,c\na,,c\na,b\n")
    with pytest.warns(UserWarning, match="2 lines have an empty cell"):
        assert len(read_nli(tmp_path / "a.csv")) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sent0,sent1\na,b\n", "lacks the column 'hard_neg'; it has sent0, sent1"),
        ("sent0,sent1,hard_neg\n", "no triplet"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_nli(tmp_path / "a.csv")
    with pytest.raises(ValueError, match="cannot be read"):
        read_nli(tmp_path / "b.csv")


def test_as_a_task() -> None:
    task = nli_task([Triplet("a", "b", "c"), Triplet("d", "e", "f")])
    assert [(q.id, q.item.text, q.negatives) for q in task.queries] == [("0", "a", ("0-",)), ("1", "d", ("1-",))]
    assert [(c.id, c.text) for c in task.candidates] == [("0+", "b"), ("1+", "e"), ("0-", "c"), ("1-", "f")]
    assert task.relevance == {"0": {"0+": 1.0}, "1": {"1+": 1.0}}
    assert task.candidates[-1].id == "1-" and task.candidates[1:3] == [task.candidates[1], task.candidates[2]]
    with pytest.raises(IndexError):
        task.queries[2]
