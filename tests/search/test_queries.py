"""What a query finds, worked out by hand on pictures of one colour each."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.fixtures_search import COLOURS, ColourEncoder, colour_id, colour_index

from fieldmark.data.decode import BadImage
from fieldmark.search.index import Index
from fieldmark.search.queries import MAX_PARTS, Hit, Part, SearchQuery, SearchResults, search


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Index, ColourEncoder]:
    return colour_index(tmp_path_factory.mktemp("colours"))


def names(results: SearchResults) -> list[str]:
    return [hit.path.removesuffix("-0.png") for hit in results]


def ask(indexed: tuple[Index, ColourEncoder], *parts: Part, k: int = 3, **more: object) -> list[str]:
    index, encoder = indexed
    return names(search(index, SearchQuery(parts, k=k, **more), encoder))  # type: ignore[arg-type]


def test_every_kind_of_picture_finds_itself(indexed: tuple[Index, ColourEncoder]) -> None:
    file = indexed[0].root / "purple-0.png"
    as_array = np.full((5, 9, 3), COLOURS["purple"], np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(as_array).save(buffer, "WEBP", lossless=True)
    for picture in (file, str(file), file.read_bytes(), buffer.getvalue(), as_array, Image.fromarray(as_array)):
        assert ask(indexed, Part(image=picture))[0] == "purple"


def test_hits_tell_rank_score_and_metadata(indexed: tuple[Index, ColourEncoder]) -> None:
    index, encoder = indexed
    results = search(index, SearchQuery((Part(text="yellow"),), k=3), encoder)
    assert [hit.rank for hit in results] == [1, 2, 3] and len(results) == 3 and results.seconds > 0
    cosines = {name: np.dot((1, 1, 0), colour) / np.linalg.norm(colour) / 2**0.5 for name, colour in COLOURS.items()}
    wanted = sorted(cosines, key=cosines.__getitem__, reverse=True)[:3]
    assert names(results) == wanted == ["yellow", "orange", "white"]
    assert [hit.score for hit in results] == pytest.approx([cosines[name] for name in wanted], abs=1e-6)
    first = results[0]
    assert first.id == colour_id("yellow") and first.path == "yellow-0.png"
    assert dict(first.metadata) == {"colour": "yellow", "number": 3, "warm": True}


def test_parts_are_weighed(indexed: tuple[Index, ColourEncoder]) -> None:
    assert ask(indexed, Part(text="red"), Part(text="blue"))[0] == "purple"
    assert ask(indexed, Part(text="red"), Part(0.0, text="blue"))[0] == "red"
    assert ask(indexed, Part(text="red"), Part(0.5, text="green"))[0] == "orange"
    assert ask(indexed, Part(text="white"), Part(-1.0, text="blue"))[0] == "yellow"
    picture = np.full((6, 6, 3), COLOURS["yellow"], np.uint8)
    assert ask(indexed, Part(image=picture), Part(-0.7, text="red"))[0] == "green"


def test_picture_and_words_of_one_part_are_read_together(indexed: tuple[Index, ColourEncoder]) -> None:
    index, encoder = indexed
    encoder.seen.clear()
    picture = np.full((6, 6, 3), COLOURS["red"], np.uint8)
    query = SearchQuery((Part(image=picture, text="blue"), Part(text="green")), instruction="Find the bird.")
    search(index, query, encoder)
    first, second = encoder.seen
    assert first.picture is not None and first.text == "blue" and second.picture is None
    assert first.instruction == second.instruction == "Find the bird."


def test_examples_move_the_query_and_are_no_results(indexed: tuple[Index, ColourEncoder]) -> None:
    found = ask(indexed, Part(text="red"), more_like=(colour_id("blue"),), less_like=(colour_id("green"),), k=9)
    assert found[0] == "purple" and "blue" not in found and "green" not in found and len(found) == 5
    index, _ = indexed
    alone = search(index, SearchQuery(more_like=(colour_id("red"), colour_id("yellow")), k=2))  # no encoder needed
    assert names(alone) == ["orange", "white"]


def test_a_row_of_the_index_is_a_part(indexed: tuple[Index, ColourEncoder]) -> None:
    index, _ = indexed
    found = search(index, SearchQuery((Part(id=colour_id("red")), Part(0.5, id=colour_id("green"))), k=9))
    assert names(found)[0] == "orange" and not {"red", "green"} & set(names(found)) and len(found) == 5
    with pytest.raises(ValueError, match="no row with the id"):
        search(index, SearchQuery((Part(id="0" * 16),)))


def test_words_that_are_cut_are_told(indexed: tuple[Index, ColourEncoder]) -> None:
    index, encoder = indexed
    query = SearchQuery((Part(text="red and more of it"), Part(text="blue")), where=("number < 9", "width > 1"), k=3)
    (note,) = search(index, query, encoder).notes
    assert "begin with 'red and more of it'" in note and "first 12 tokens" in note
    assert query.condition == "(number < 9) AND (width > 1)"


def test_conditions_narrow(indexed: tuple[Index, ColourEncoder]) -> None:
    assert ask(indexed, Part(text="yellow"), where="colour != 'yellow' AND number < 3 AND width >= 9") == [
        "green",
        "blue",
    ]
    assert ask(indexed, Part(text="red"), where="warm", k=9) == ["orange", "yellow"]
    assert ask(indexed, Part(text="red"), where="warm IS NULL", k=9) == ["red"]
    assert ask(indexed, Part(text="red"), where="number = 99") == []
    encoder = indexed[1]
    encoder.seen.clear()
    for where, message in (
        ("lower(colour) = 'red'", "functions"),
        ("embedding = 1", "no column"),
        ("number = 'x'", "holds numbers"),
    ):
        with pytest.raises(ValueError, match=message):
            ask(indexed, Part(text="red"), where=where)
    assert encoder.seen == []  # refused before the encoder was asked


def test_exact_search_is_the_same_on_a_small_index(indexed: tuple[Index, ColourEncoder]) -> None:
    index, encoder = indexed
    query = SearchQuery((Part(text="orange"),), k=7)
    assert search(index, query, encoder).hits == index.search(query, encoder, exact=True).hits


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Part(), "is empty"),
        (lambda: Part(text=" "), "text is empty"),
        (lambda: Part(float("nan"), text="x"), "finite"),
        (lambda: Part(text="x", id="0" * 16), "two parts"),
        (lambda: SearchQuery(()), "nothing says"),
        (lambda: SearchQuery((Part(-1.0, text="x"),)), "nothing says"),
        (lambda: SearchQuery((Part(0.0, text="x"),)), "nothing says"),
        (lambda: SearchQuery(less_like=("0" * 16,)), "nothing says"),
        (lambda: SearchQuery((Part(text="x"),), k=0), "k is 0"),
        (lambda: SearchQuery((Part(text="x"),), k=10_001), "k is 10001"),
        (lambda: SearchQuery((Part(text="x"),) * (MAX_PARTS + 1)), "parts has 65 entries"),
    ],
)
def test_queries_that_make_no_sense_are_refused(make: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()  # type: ignore[operator]


def test_parts_that_cancel_are_refused(indexed: tuple[Index, ColourEncoder]) -> None:
    with pytest.raises(ValueError, match="cancel"):
        ask(indexed, Part(text="red"), Part(-1.0, text="red"))


def test_the_encoder_must_be_the_right_one(indexed: tuple[Index, ColourEncoder], tmp_path: Path) -> None:
    index, encoder = indexed
    query = SearchQuery((Part(text="red"),))
    with pytest.raises(ValueError, match=r"needs the encoder that made the index \(colours\)"):
        search(index, query)
    with pytest.raises(ValueError, match="was built with the encoder colours"):
        search(index, query, ColourEncoder(fingerprint="d0" * 32))
    with pytest.raises(ValueError, match="reads pictures only, so it cannot look for 'red'"):
        search(index, query, ColourEncoder(reads_words=False))
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    with pytest.raises(BadImage, match=r"bad\.png"):
        search(index, SearchQuery((Part(image=bad),)), encoder)
    with pytest.raises(ValueError, match=r"uint8 \(H, W, 3\)"):
        search(index, SearchQuery((Part(image=np.zeros((4, 4))),)), encoder)


def test_results_become_tables() -> None:
    hits = (
        Hit(1, "a", "a.png", 0.5, {"genus": "x", "rank": 7}),
        Hit(2, "b", "b.png", 0.25, {"genus": None, "rank": 8}),
    )
    table = SearchResults(hits, 0.1).to_arrow()
    assert table.column_names == ["rank", "id", "path", "score", "genus", "metadata.rank"]
    assert table.to_pylist()[1] == {
        "rank": 2, "id": "b", "path": "b.png", "score": 0.25, "genus": None, "metadata.rank": 8,
    }  # fmt: skip
    assert [str(one) for one in table.schema.types[:4]] == ["int32", "string", "string", "float"]
    empty = SearchResults((), 0.1).to_arrow()
    assert empty.num_rows == 0 and empty.schema.names == ["rank", "id", "path", "score"]


def test_results_become_data_frames() -> None:
    pandas = pytest.importorskip("pandas")
    frame = SearchResults((Hit(1, "a", "a.png", 0.5, {"genus": "x"}),), 0.1).to_pandas()
    assert isinstance(frame, pandas.DataFrame) and frame.loc[0, "genus"] == "x"
    assert list(SearchResults((), 0.1).to_pandas().columns) == ["rank", "id", "path", "score"]


def test_without_pandas_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ValueError, match="pip install pandas"):
        SearchResults((), 0.1).to_pandas()
