import json
from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Said

Cli = Callable[..., Said]
FEW = ["--species", "24", "--per", "3", "--siblings", "2", "--size", "16", "--habitat", "0", "--workers", "1",
       "--retrieval.train_queries", "8", "--retrieval.nli", "10"]  # fmt: skip


def test_fieldguide_as_mbeir_and_its_inspection(fieldmark: Cli, tmp_path: Path) -> None:
    out = tmp_path / "birds"
    said = fieldmark("data", "fieldguide", "--as", "mbeir", "--out", out, *FEW)
    assert said.code == 0, said.err
    assert "task7 test" in said.out and "near misses a query" in said.out
    said = fieldmark("data", "mbeir", "--root", out)
    assert said.code == 0, said.err
    assert "fieldguide_task0" in said.out and "image,text → image" in said.out and "Missing" not in said.out
    said = fieldmark("data", "mbeir", "--root", out, "--json", "--skip_pictures")
    assert json.loads(said.out)["pictures"] == 0
    said = fieldmark("data", "fieldguide", "--as", "mbeir", "--out", out, *FEW)
    assert said.code == 2 and "--force" in said.err


def test_fieldguide_as_folders_is_what_it_was(fieldmark: Cli, tmp_path: Path) -> None:
    said = fieldmark("data", "fieldguide", "--out", tmp_path / "w", "--species", "4", "--per", "2", "--size", "16")
    assert said.code == 0 and "4 species, 2 pictures each" in said.out
    assert set(json.loads((tmp_path / "w" / "fieldguide.json").read_text())) >= {"species", "format"}
    assert "retrieval" not in json.loads((tmp_path / "w" / "fieldguide.json").read_text())
    said = fieldmark("data", "fieldguide", "--out", tmp_path / "w", "--as", "zip")
    assert said.code == 2 and "'folders', 'mbeir'" in said.err


def test_convert(fieldmark: Cli, tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"id": "q", "text": "lacing", "positives": ["a"]}\n')
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "How to lace."}\n{"id": "b", "text": "How to polish."}\n')
    words = ["--queries", tmp_path / "q.jsonl", "--candidates", tmp_path / "c.jsonl", "--name", "shop"]
    said = fieldmark("data", "convert", *words, "--out", tmp_path / "shop")
    assert said.code == 0, said.err
    assert "task1 test: 1 queries" in said.out and (tmp_path / "shop/query/test/mbeir_shop_task1_test.jsonl").is_file()
    said = fieldmark("data", "convert", *words, "--out", tmp_path / "shop")
    assert said.code == 2 and "exists" in said.err
    said = fieldmark("data", "mbeir", "--root", tmp_path)
    assert said.code == 2 and "has no queries" in said.err
