"""Files of known summaries: what is read is what was written, and every mistake is named with its line."""

from pathlib import Path

import pytest

from fieldmark.data.summaries import KnownSummary, read_summaries, summary_lines

KNOWN = [
    KnownSummary("query", "20:1", "a red bill, écru"),
    KnownSummary("candidate", "20:1", "leg color red"),
    KnownSummary("query", "20:1", "a red bill"),
]


def test_written_lines_are_read_back(tmp_path: Path):
    file = tmp_path / "summaries.jsonl"
    file.write_text(summary_lines(KNOWN) + "\n", encoding="utf-8")
    assert read_summaries(file) == KNOWN, "ids are shared: by a query and a candidate, by two summaries"


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("", "holds no summary"),
        ("nonsense\n", "line 1 is not"),
        ('{"summary": "x"}\n', "line 1 is not"),
        ('{"qid": "1", "did": "2", "summary": "x"}\n', "line 1 is not"),
        ('{"qid": "1", "summary": " "}\n', "needs an id and words"),
        ('{"qid": "1", "summary": 3}\n', "line 1 is not"),
        ('["qid"]\n', "line 1 is not"),
        ('{"qid": "1", "summary": "x"}\n{"qid": "1", "summary": "x"}\n', "line 2: query '1' has this summary already"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, named: str):
    file = tmp_path / "summaries.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=named):
        read_summaries(file)


def test_a_missing_file_says_what_writes_one(tmp_path: Path):
    with pytest.raises(ValueError, match="fieldmark data summaries"):
        read_summaries(tmp_path / "nothing.jsonl")
