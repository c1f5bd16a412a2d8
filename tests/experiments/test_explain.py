"""`run_explain`: from two files and a run to three files."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fieldmark.evaluation.correspondence import explain_pair
from fieldmark.experiments import explain as module
from fieldmark.experiments.explain import ExplainConfig, explained_text, run_explain
from fieldmark.models.backbone import load_backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.policy.adjudication import RolloutConfig
from fieldmark.search.encoders import EncoderInput, load_search_encoder
from fieldmark.search.index import Index
from fieldmark.search.schema import Row, picture_id, rows_table

SAGA = "rollouts:\n  vocabulary: fieldguide\n  attributes_per_prompt: 3\n  max_new_tokens: 64\n"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like a SAGA run's, with the bundled tower."""
    folder = tmp_path_factory.mktemp("run") / "saga"
    backbone = load_backbone(bundled_path())
    pooler = build_pooler("attention", backbone.hidden_size, 16, torch.Generator().manual_seed(0))
    RetrievalEncoder(backbone.tower, pooler, 96).save_pretrained(folder / "encoder")
    (folder / "config.yaml").write_text(SAGA)
    return folder


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    random = np.random.default_rng(0)
    paths = tmp_path / "a.png", tmp_path / "b.jpg"
    for path in paths:
        Image.fromarray(random.integers(0, 255, (50, 70, 3), np.uint8)).save(path)
    return paths


def test_three_files_that_say_the_same(run: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    explained = run_explain(*files, ExplainConfig(run=str(run), out=str(tmp_path / "deep" / "why")))
    assert sorted(p.name for p in (tmp_path / "deep" / "why").iterdir()) == sorted(module.NAMES), "nothing else is left"
    content = json.loads(explained.json.read_text())
    encoder = RetrievalEncoder.from_pretrained(run / "encoder")
    direct = explain_pair(encoder, *[Image.open(path) for path in files])
    assert content["cosine"] == pytest.approx(direct.cosine) and content["supervisor"] is None
    np.testing.assert_allclose(content["contribution"], direct.contribution, atol=1e-8)
    assert content["settings"]["pictures"] == [str(path) for path in files]
    assert Image.open(explained.png).format == "PNG"
    assert f"{direct.cosine:.4f}" in explained.html.read_text()
    assert explained_text(explained).startswith(f"cosine {direct.cosine:.4f} (attention pooling, sum of 4096 parts)")


def make_index(folder: Path, run: Path, count: int) -> Index:
    """Of random pictures, which need no files."""
    encoder, random = load_search_encoder(run), np.random.default_rng(1)
    index = Index.create(folder, encoder, folder.parent)
    shades = [np.full((96, 96, 3), random.integers(0, 255, 3), np.uint8) for _ in range(count)]
    rows = [Row(picture_id(f"{n}.png"), f"{n}.png", 1, f"{n:064x}", 96, 96, {}) for n in range(count)]
    index.append(rows_table(index.table.schema, rows, encoder.embed([EncoderInput(one) for one in shades])))
    return index


@pytest.mark.parametrize("dimensions", [None, 5])
def test_with_an_index_all_three_files_are_of_the_centred_cosine(
    run: Path, files: tuple[Path, Path], tmp_path: Path, dimensions: int | None
) -> None:
    index = make_index(tmp_path / "index", run, 9)
    out = str(tmp_path / "why")
    explained = run_explain(*files, ExplainConfig(run=str(run), out=out, index=str(index.path), dimensions=dimensions))
    rows = torch.from_numpy(index.vectors([picture_id(f"{n}.png") for n in range(9)]))[:, :dimensions]
    centre = torch.nn.functional.normalize(rows.double(), dim=-1).mean(0)
    encoder = RetrievalEncoder.from_pretrained(run / "encoder")
    pictures = [Image.open(path) for path in files]
    direct = explain_pair(encoder, *pictures, dimensions=dimensions, centre=centre)
    content = json.loads(explained.json.read_text())
    assert content["centred_cosine"] == pytest.approx(direct.centred_cosine, abs=1e-6)
    assert np.sum(content["contribution"]) == pytest.approx(content["centred_cosine"], abs=1e-5)
    assert content["settings"]["index"] == str(index.path)
    assert f"{direct.centred_cosine:.4f} (with it {direct.cosine:.4f})" in explained.html.read_text()
    assert explained_text(explained).startswith(f"centred cosine {direct.centred_cosine:.4f} (attention pooling")
    assert "beyond their shares" not in explained_text(explained)


def test_an_index_of_another_encoder_or_without_a_mean_is_refused(
    run: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, index = tmp_path / "other", make_index(tmp_path / "index", run, 3)
    encoder = RetrievalEncoder.from_pretrained(run / "encoder")
    with torch.no_grad():
        encoder.pooler.query.mul_(2)
    encoder.save_pretrained(other)
    monkeypatch.setattr(RetrievalEncoder, "from_pretrained", None)
    for encoder_run, path, says in [
        (other, index.path, rf"built with the encoder {run} \(\w+\), not with {other} \("),
        (run, index.path, "has 3 pictures, which says nothing"),
        (run, tmp_path / "none", "is no index"),
    ]:
        with pytest.raises(ValueError, match=says):
            run_explain(*files, ExplainConfig(run=str(encoder_run), index=str(path), out=str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


def test_the_supervisor_is_asked_as_the_run_asked(run: Path, files: tuple[Path, Path], tmp_path: Path) -> None:
    config = ExplainConfig(run=str(run), out=str(tmp_path), supervisor="bundled", completions=1)
    explained = run_explain(*files, config)
    account = explained.match.account
    assert [len(one.attributes) for one in account.answers] == [3, 3, 2]
    assert sum(one.same + one.different + one.unreadable for one in account.answers) == 3
    content = json.loads(explained.json.read_text())["supervisor"]
    assert [one["name"] for one in content["attributes"]] == [one.name for one in account.attributes]
    assert "supervisor: same species? " in explained_text(explained)


def test_another_vocabulary_is_asked_for_whole(run: Path) -> None:
    asked = module._rollouts(ExplainConfig(vocabulary="cars", max_new_tokens=7), run / "encoder")
    assert asked == RolloutConfig(vocabulary="cars", attributes_per_prompt=None, max_new_tokens=7)
    kept = module._rollouts(ExplainConfig(), run / "encoder")
    assert (kept.vocabulary, kept.attributes_per_prompt, kept.max_new_tokens) == ("fieldguide", 3, 64)


def test_what_is_wrong_is_told_before_anything_is_loaded(
    run: Path, files: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RetrievalEncoder, "from_pretrained", None)
    a, b = files
    embedder, bare, broken = tmp_path / "elva", tmp_path / "bare", tmp_path / "broken.png"
    embedder.mkdir()
    (embedder / "embedder.json").write_text("{}")
    bare.mkdir()
    (bare / "config.json").write_text("{}")
    broken.write_bytes(b"nothing")
    (tmp_path / "file").touch()
    for pictures, options, says in [
        ((a, b), {}, "set --run"),
        ((a, b), {"run": str(tmp_path / "none")}, "neither a run's folder nor a saved encoder"),
        ((a, b), {"run": str(embedder)}, "no exact decomposition"),
        ((a, b), {"run": str(bare), "supervisor": "bundled"}, "set --vocabulary"),
        ((a, tmp_path / "none.png"), {"run": str(run)}, "none.png is no file"),
        ((a, broken), {"run": str(run)}, "broken.png"),
        ((a, b), {"run": str(run), "out": str(tmp_path / "file")}, "names a folder"),
    ]:
        with pytest.raises(ValueError, match=says):
            run_explain(*pictures, ExplainConfig(**{"out": str(tmp_path / "out"), **options}))
    with pytest.raises(ValueError, match="completions must be at least 1"):
        ExplainConfig(completions=0)
