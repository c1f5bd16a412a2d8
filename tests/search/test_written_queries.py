"""Queries as they are written: weights, files or words, ids or paths."""

from pathlib import Path

import pytest
from tests.fixtures_search import colour_id, colour_index

from fieldmark.search.index import Index
from fieldmark.search.queries import MINUS_WEIGHT, Part
from fieldmark.search.written_queries import row_id, split_weight, written_query


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Index:
    return colour_index(tmp_path_factory.mktemp("colours"))[0]


def facts(parts: tuple[Part, ...]) -> list[tuple[float, object, str | None]]:
    return [(part.weight, part.image, part.text) for part in parts]


@pytest.mark.parametrize(
    ("written", "value", "weight"),
    [
        ("red", "red", None),
        ("red^2", "red", 2.0),
        ("yellow eye ^ .5 ", "yellow eye", 0.5),
        ("x^2^3", "x^2", 3.0),
        ("2^x", "2^x", None),
        ("^2", "^2", None),
        ("red^+1.5", "red", 1.5),
    ],
)
def test_a_weight_stands_behind_a_caret(written: str, value: str, weight: float | None) -> None:
    assert split_weight(written) == (value, weight)


@pytest.mark.parametrize("written", ["red^0", "red^-1"])
def test_a_weight_must_be_positive(written: str) -> None:
    with pytest.raises(ValueError, match="must be above 0"):
        split_weight(written)


def test_parts_keep_their_kind_and_weight(index: Index) -> None:
    red, blue = str(index.root / "red-0.png"), str(index.root / "blue-0.png")
    query = written_query(
        index,
        images=[red, f"{blue}^0.5"],
        texts=["white^2"],
        minus=[blue, "green^0.8"],
        more_like=["yellow-0.png"],
        less_like=[colour_id("orange")],
        where="warm",
        k=3,
        instruction="Find it.",
        min_score=0.5,
    )
    assert facts(query.parts) == [
        (1.0, red, None),
        (0.5, blue, None),
        (2.0, None, "white"),
        (MINUS_WEIGHT, blue, None),
        (-0.8, None, "green"),
    ]
    assert query.more_like == (colour_id("yellow"),) and query.less_like == (colour_id("orange"),)
    assert (query.where, query.k, query.instruction, query.min_score) == ("warm", 3, "Find it.", 0.5)


def test_together_puts_the_words_to_each_picture(index: Index) -> None:
    red, blue = str(index.root / "red-0.png"), str(index.root / "blue-0.png")
    query = written_query(index, images=[f"{red}^3", blue], texts=["with a", "hat"], together=True)
    assert facts(query.parts) == [(3.0, red, "with a hat"), (1.0, blue, "with a hat")]
    with pytest.raises(ValueError, match="give an image and text"):
        written_query(index, images=[red], together=True)


def test_a_file_whose_name_ends_like_a_weight_is_a_file(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a^2").write_bytes(b"")
    assert facts(written_query(index, images=["a^2"]).parts) == [(1.0, "a^2", None)]
    assert facts(written_query(index, images=["a^2^2"]).parts) == [(2.0, "a^2", None)]


@pytest.mark.parametrize("given", [{"images": ["no.png"]}, {"texts": ["x"], "minus": ["no.JPG^2"]}])
def test_a_picture_that_is_not_there_is_not_taken_for_words(index: Index, given: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match=r"there is no picture no\."):
        written_query(index, **given)  # type: ignore[arg-type]


def test_rows_are_named_by_id_path_or_file(index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = colour_id("blue")
    monkeypatch.chdir(index.root.parent)
    for name in (expected, "blue-0.png", "./blue-0.png", "pictures/blue-0.png", str(index.root / "blue-0.png")):
        assert row_id(index, name) == expected
    for name in ("0" * 16, "blue", "../pictures/nothing.png", "a\0b", ""):
        with pytest.raises(ValueError, match="no row with the id or path"):
            row_id(index, name)
