"""`fieldmark explain` and `fieldmark explain evidence` from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.cli.conftest import Said
from tests.fixtures_models import tiny_backbone

from fieldmark.data.fieldguide.world import FieldguideConfig, write_fieldguide
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder

Cli = Callable[..., Said]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("explain")
    write_fieldguide(FieldguideConfig(species=4, per=1, siblings=2, size=32), folder / "world", workers=1)
    backbone = tiny_backbone(0)
    pooler = build_pooler("attention", backbone.hidden_size, 8, torch.Generator().manual_seed(0))
    RetrievalEncoder(backbone.tower, pooler, 32).save_pretrained(folder / "run" / "encoder")
    return folder


def test_explain(fieldmark: Cli, place: Path, tmp_path: Path) -> None:
    a, b = sorted((place / "world").glob("0*/*.png"))[:2]
    said = fieldmark("explain", a, b, "--run", place / "run", "--out", tmp_path / "why")
    assert said.code == 0, said.err
    assert said.out.startswith("cosine ") and f"written: {tmp_path / 'why' / 'explanation.html'}" in said.out
    assert json.loads((tmp_path / "why" / "explanation.json").read_text())["grid_a"] == [4, 4]


def test_explain_beyond_what_an_index_shares(fieldmark: Cli, place: Path, tmp_path: Path) -> None:
    a, b = sorted((place / "world").glob("0*/*.png"))[:2]
    index = tmp_path / "birds.index"
    words = ("--encoder", place / "run", "--images", place / "world", "--index", index)
    assert fieldmark("index", "build", *words).code == 0
    said = fieldmark("explain", a, b, "--run", place / "run", "--index", index, "--out", tmp_path / "why")
    assert said.code == 0 and said.out.startswith("centred cosine "), said.err
    said = fieldmark("explain", a, b, "--run", place / "run", "--index", tmp_path, "--out", tmp_path / "no")
    assert said.code == 2 and "is no index" in said.err


def test_evidence(fieldmark: Cli, place: Path, tmp_path: Path) -> None:
    words = ("--runs", f"[{place / 'run' / 'encoder'}]", "--world", place / "world", "--json", tmp_path / "found.json")
    said = fieldmark("explain", "evidence", *words)
    assert said.code == 0, said.err
    assert "| run | 1 |" in said.out and "(altered), 2 pairs per run" in said.out
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert [row["condition"] for row in rows] == ["found", "altered"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("explain", "a.png"), "B must be given"),
        (("explain", "a.png", "b.png"), "set --run"),
        (("explain", "a.png", "b.png", "--run", "bundled-embedder"), "bundled-embedder is a universal embedder"),
        (("explain", "evidence"), "set --runs"),
    ],
)
def test_what_is_missing_is_named(fieldmark: Cli, words: tuple[str, ...], says: str) -> None:
    said = fieldmark(*words)
    assert said.code == 2 and says in said.err
