"""The list of frequent words against counting by hand."""

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fixtures_retrieval import COLOURS, write_squares

from fieldmark.experiments.word_listing import WordsConfig, write_words
from fieldmark.models.new_words import read_words
from fieldmark.training.retrieval_data import RetrievalDataConfig


def test_words_by_frequency(tmp_path: Path):
    squares = RetrievalDataConfig(path=str(write_squares(tmp_path / "mbeir")))
    config = WordsConfig(out=str(tmp_path / "words.txt"), data=squares, at_least=3)
    said = write_words(config)
    words = read_words(tmp_path / "words.txt")
    assert set(COLOURS) <= set(words) and {"dark", "plain", "pale", "square"} <= set(words)
    assert words.index("square") < words.index("dark") < words.index("red"), "more frequent first"
    assert "?" not in " ".join(words) and f"{len(words)} of" in said
    few = replace(config, out=str(tmp_path / "few.txt"), most=2)
    write_words(few)
    assert read_words(tmp_path / "few.txt") == words[:2]
    with pytest.raises(ValueError, match="exists already"):
        write_words(config)
    with pytest.raises(ValueError, match="--at_least"):
        write_words(replace(config, out=str(tmp_path / "none.txt"), at_least=10_000))
    for change in ({"most": 0}, {"at_least": 0}):
        with pytest.raises(ValueError, match=next(iter(change))):
            replace(config, **change)
    with pytest.raises(ValueError, match="--out"):
        write_words(replace(config, out=""))
