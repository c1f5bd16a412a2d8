"""The index's commands, from pictures to an exported file."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.cli.conftest import Said, printed
from tests.search.index_worlds import draw, draw_folder
from tests.search.test_search_encoders import retrieval_encoder

Cli = Callable[..., Said]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    retrieval_encoder().save_pretrained(folder / "encoder")
    return folder


def test_the_life_of_an_index(fieldmark: Cli, run: Path, tmp_path: Path) -> None:
    root, index = draw_folder(tmp_path / "birds", 6), tmp_path / "birds.index"
    (root / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    build = ("index", "build", "--encoder", run, "--images", root, "--index", index, "--workers", 0)

    said = fieldmark(*build)
    assert said.code == 0, said.err
    assert "6 added, 1 failed" in said.out and f"why they failed: {index / 'failures.jsonl'}" in said.out
    assert "6 pictures in" in said.out and f"next: fieldmark search --index {index}" in said.out
    assert "6 unchanged, 1 failed" in fieldmark(*build).out

    said = fieldmark("index", "info", "--index", index)
    assert "pictures:  6, relative to" in said.out and str(run) in said.out and "exact" in said.out
    told = json.loads(fieldmark("index", "info", "--index", index, "--measure-recall", "--json").out)
    assert (told["rows"], told["embedding_size"], told["failures"], told["recall"]["recall"]) == (6, 16, 1, 1.0)

    said = fieldmark("index", "verify", "--index", index, "--workers", 0)
    assert said.code == 0 and "6 rows, 6 embeddings computed again" in said.out and "all is well" in said.out
    draw(root / "kind-0" / "0.png", 99)
    said = fieldmark("index", "verify", "--index", index, "--workers", 0, "--sample", 0)
    assert said.code == 2 and "changed: kind-0/0.png" in said.out and "1 changed" in said.err
    assert "1 changed, 5 unchanged, 1 failed" in fieldmark(*build).out
    good = (root / "kind-0" / "0.png").read_bytes()
    (root / "kind-0" / "0.png").write_bytes(good[:50])
    said = fieldmark("index", "verify", "--index", index, "--workers", 0, "--sample", 0)
    assert "1 unreadable\n  repair the files" in said.err and "--prune drops" not in said.err
    assert "2 failed, 1 of them indexed before: its row is kept" in fieldmark(*build, "--prune").out
    (root / "kind-0" / "0.png").write_bytes(good)

    said = fieldmark("index", "compact", "--index", index, "--rebuild", "--vectors.kind", "approximate")
    assert said.code == 0 and "→ 1 fragments" in said.out
    assert "Hnsw" in fieldmark("index", "info", "--index", index).out

    out = tmp_path / "rows.jsonl"
    said = fieldmark("index", "export", "--index", index, "--out", out, "--where", "path LIKE 'kind-0/%'")
    assert said.code == 0 and "2 rows" in said.out
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    picture = np.array(Image.open(root / "kind-0" / "0.png").convert("RGB"))
    (row,) = (row for row in rows if row["path"] == "kind-0/0.png")
    own = retrieval_encoder().encode([Image.fromarray(picture)])[0].numpy()
    np.testing.assert_allclose(row["embedding"], own, atol=1e-5)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("build",), "no images given: set --images"),
        (("build", "--images", "pictures", "--index", "x"), "no encoder given: set --encoder"),
        (("build", "--batch_size", "0"), "batch_size must be at least 1"),
        (("info", "--index", "x"), "x is no index: build one"),
        (("verify", "--index", "x"), "x is no index"),
        (("compact",), "no index given: set --index"),
        (("compact", "--keep_minutes", "-1"), "keep_minutes"),
        (("export", "--index", "x", "--out", "y.parquet"), "x is no index"),
    ],
)
def test_wrong_input_is_one_clear_line(fieldmark: Cli, words: tuple[str, ...], message: str) -> None:
    said = fieldmark("index", *words)
    assert said.code == 2 and message in said.err and "Traceback" not in said.err


def test_what_needs_no_encoder_is_checked_before_it_is_loaded(fieldmark: Cli, run: Path, tmp_path: Path) -> None:
    root, empty = draw_folder(tmp_path / "birds", 1), tmp_path / "empty"
    empty.mkdir()
    lines = tmp_path / "birds.jsonl"
    lines.write_text(json.dumps({"path": "birds/kind-0/0.png", "IN": "x", "a b": 1, "id": 2, "größe": 3}))
    for images, index, message in (
        (tmp_path / "nowhere", "index", "there is no"),
        (empty, "index", "holds no pictures"),
        (root, "birds", "is not empty and holds no index"),
        (lines, "index", "called 'id' itself; 'a b', 'größe' cannot stand in a filter"),
    ):
        words = ("--encoder", run, "--images", images, "--index", tmp_path / index, "--workers", 0)
        said = fieldmark("index", "build", *words)
        assert said.code == 2 and message in said.err and "loading" not in said.err, said.err


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A folder that others may read; pytest's own are closed to them."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs the right to become somebody else")
def test_places_that_may_not_be_written_are_named(fieldmark: Cli, run: Path, open_path: Path) -> None:
    root, index = draw_folder(open_path / "birds", 2), open_path / "sealed" / "index"
    encoder = shutil.copytree(run, open_path / "run")
    build = ("index", "build", "--encoder", encoder, "--images", root, "--index", index, "--workers", 0)
    assert fieldmark(*build).code == 0
    page = ("search", "--index", index, "--more_like", "kind-0/0.png", "--html", index.parent / "new" / "found.html")
    new = (*build[:-3], index.parent / "other", "--workers", 0)
    os.seteuid(65534)
    try:
        found = [
            (fieldmark(*words), place)
            for words, place in (
                (build, index),
                (new, index.parent / "other"),
                (page, page[-1]),
                (("index", "compact", "--index", index), index),
                (("index", "export", "--index", index, "--out", index / "rows.jsonl"), index / "rows.jsonl"),
            )
        ]
        read = fieldmark("search", "--index", index, "--more_like", "kind-0/0.png")
    finally:
        os.seteuid(0)
    for said, place in found:
        assert said.code == 2 and said.out == "" and "from a library" not in said.err
        assert f"{place} cannot be written (Permission denied): get the right" in said.err and "loading" not in said.err
    assert read.code == 0 and "1 of 2 pictures" in read.out


def test_filters_of_an_export_are_checked(fieldmark: Cli, run: Path, tmp_path: Path) -> None:
    root, index = draw_folder(tmp_path / "birds", 1), tmp_path / "index"
    fieldmark("index", "build", "--encoder", run, "--images", root, "--index", index, "--workers", 0)
    said = fieldmark("index", "export", "--index", index, "--out", tmp_path / "a.jsonl", "--where", "embedding = 1")
    assert said.code == 2 and "embedding" in said.err and not (tmp_path / "a.jsonl").exists()


def test_the_configuration_of_a_build_can_be_kept_in_a_file(fieldmark: Cli) -> None:
    config = printed(fieldmark, "index", "build", "--images", "birds", "--vectors.m", "32")
    assert config["images"] == "birds" and config["vectors"]["m"] == 32 and config["columns"] is None
