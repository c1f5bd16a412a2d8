import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.cli.conftest import Said
from tests.fixtures_models import tiny_backbone
from tests.fixtures_search import ColourEncoder, colour_id, colour_index

from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.search import queries
from fieldmark.search.encoders import EncoderInput, load_search_encoder
from fieldmark.search.index import Index
from fieldmark.search.schema import Row, picture_id, rows_table

Cli = Callable[..., Said]


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an index; "encoder" beside it stands for its encoder."""
    index, encoder = colour_index(tmp_path, copies=2)
    (tmp_path / "encoder").mkdir()
    known = {str(tmp_path / "encoder"): encoder, "other": ColourEncoder(fingerprint="d" * 64)}
    monkeypatch.setattr(queries, "load_search_encoder", lambda path, device: known[str(path)])
    return index.path


def hits(said: Said) -> list[str]:
    assert said.code == 0, said.err
    return [hit["path"] for hit in json.loads(said.out)["hits"]]


def test_search_by_picture_words_and_examples(fieldmark: Cli, colours: Path) -> None:
    root = colours.parent / "pictures"
    with_encoder = ["search", "--index", colours, "--encoder", colours.parent / "encoder", "--json"]
    red, blue = root / "red-0.png", root / "blue-0.png"
    assert set(hits(fieldmark(*with_encoder, "--image", red, blue, "-k", "2"))) == {"purple-0.png", "purple-1.png"}
    assert set(hits(fieldmark(*with_encoder, "--image", red, "--image", f"{blue}^0.01", "-k", "2"))) == {
        "red-0.png",
        "red-1.png",
    }
    assert hits(fieldmark(*with_encoder, "--text", "white", "--minus", "blue^1", "-k", "1"))[0].startswith("yellow")
    greens = hits(fieldmark(*with_encoder, "--text", "red", "--where", "colour = 'green' OR number = 3", "-k", "9"))
    assert sorted(greens) == ["green-0.png", "green-1.png"]
    found = hits(fieldmark("search", "--index", colours, "--more_like", "red-0.png", colour_id("blue", 1), "--json"))
    assert found[0].startswith("purple") and len(found) == 12
    duplicates = hits(fieldmark("search", "--index", colours, "--more-like", "red-0.png", "--duplicates", "--json"))
    assert duplicates == ["red-1.png"]


def test_search_prints_a_table_and_writes_a_page(fieldmark: Cli, colours: Path) -> None:
    page = colours.parent / "new" / "found.html"
    said = fieldmark(
        "search",
        "--index",
        colours,
        "--encoder",
        colours.parent / "encoder",
        "--text",
        "green",
        "-k",
        "3",
        "--html",
        page,
    )
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert lines[0].split() == ["rank", "score", "path", "id", "colour", "number", "warm"]
    assert lines[1].split()[:2] == ["1", "1.000"] and "green-" in lines[1] and "3 of 14 pictures" in lines[4]
    assert "<!DOCTYPE html>" in page.read_text() and f"written: {page}" in said.err
    said = fieldmark("search", "--index", colours, "--more_like", "red-0.png", "--where", "number > 99")
    assert said.out == "nothing was found among those with number > 99\n"


def test_notes_and_long_values(fieldmark: Cli, colours: Path) -> None:
    index = Index.open(colours)
    index.table.update(where="path = 'red-0.png'", values={"colour": "x" * 60})
    asked = ["search", "--index", colours, "--encoder", colours.parent / "encoder", "--text", "red and more of it"]
    said = fieldmark(*asked)
    assert said.code == 0 and said.err.startswith("note: the words that begin with 'red and")
    assert f" {'x' * 39}… " in said.out and "x" * 40 not in said.out
    told = json.loads(fieldmark(*asked, "--json").out)
    assert len(told["notes"]) == 1 and "x" * 60 in [hit["colour"] for hit in told["hits"]]


def test_near_duplicates_of_the_whole_index(fieldmark: Cli, colours: Path) -> None:
    page = colours.parent / "twins.html"
    said = fieldmark("search", "--index", colours, "--duplicates", "--where", "number < 4", "--html", page)
    assert said.code == 0, said.err
    assert "1. 2 pictures\n   1.000  green-1.png\n   1.000  green-0.png\n2. 2 pictures\n" in said.out
    assert "2 groups of pictures" in said.out
    assert page.is_file()
    said = fieldmark("search", "--index", colours, "--duplicates", "--threshold", "0.999", "--json")
    found = json.loads(said.out)
    assert found["rows"] == 14 and len(found["groups"]) == 7 and found["groups"][0][0]["score"] == 1.0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "nothing says what to look for"),
        (["--image", "no.png"], "there is no picture no.png"),
        (["--text", "red"], "the encoder of"),
        (["--text", "red", "--encoder", "other"], "was built with the encoder colours"),
        (["--more_like", "no.png"], "no row with the id or path 'no.png'"),
        (["--more_like", "red-0.png", "--where", "colr = 'x'"], "did you mean 'colour'"),
        (["--more_like", "red-0.png", "-k", "0"], "k is 0"),
        (["--duplicates", "--threshold", "2"], "the threshold is 2.0"),
        (["--text", " "], "a part's text is empty"),
        (["--text", "red", "--together"], "give an image and text"),
        (["--more_like", "red-0.png", "--html", "."], "is a folder"),
    ],
)
def test_mistakes_are_told(fieldmark: Cli, colours: Path, words: list[str], message: str) -> None:
    said = fieldmark("search", "--index", colours, *words)
    assert said.code == 2 and message in said.err, said.err


def test_no_index(fieldmark: Cli, tmp_path: Path) -> None:
    said = fieldmark("search", "--index", tmp_path, "--text", "red")
    assert said.code == 2 and "is no index" in said.err


def test_search_with_a_saved_encoder_where_it_lay_at_the_build(fieldmark: Cli, tmp_path: Path) -> None:
    backbone = tiny_backbone(0)
    pooler = build_pooler("attention", backbone.hidden_size, 8, torch.Generator().manual_seed(0))
    RetrievalEncoder(backbone.tower, pooler, 32).save_pretrained(tmp_path / "encoder")
    encoder = load_search_encoder(tmp_path / "encoder")
    coloured, _ = colour_index(tmp_path)
    paths = sorted(path.name for path in coloured.root.iterdir())
    index = Index.create(tmp_path / "real", encoder, coloured.root)
    inputs = [EncoderInput(queries.as_pixels(coloured.root / path, 32)) for path in paths]
    rows = [Row(picture_id(path), path, 1, "0" * 64, 8, 10) for path in paths]
    index.append(rows_table(index.table.schema, rows, np.concatenate([encoder.embed([one]) for one in inputs])))
    for path in paths[:3]:
        said = fieldmark("search", "--index", index.path, "--image", coloured.root / path, "-k", "1", "--json")
        assert hits(said) == [path]
        assert json.loads(said.out)["hits"][0]["score"] == pytest.approx(1.0, abs=1e-5)
    said = fieldmark("search", "--index", index.path, "--text", "red")
    assert said.code == 2 and "reads pictures only, so it cannot look for 'red'" in said.err
