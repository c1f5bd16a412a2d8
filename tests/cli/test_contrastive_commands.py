"""Stage 1, stage 2, mining and training on what was mined, from the command line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Said, printed
from tests.fixtures_models import save_tiny
from tests.fixtures_retrieval import write_squares

Cli = Callable[..., Said]
SMALL = (
    "--model.embedder.image_size", "16", "--model.adapter.rank", "2", "--batch_size", "6", "--chunk_size", "4",
    "--data.workers", "0", "--schedule.steps", "2", "--schedule.validate_every", "2",
    "--validation.queries", "3", "--validation.candidates", "10",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("checkpoint"))


def test_two_stages_with_mined_negatives(fieldmark: Cli, tmp_path: Path, checkpoint: Path) -> None:
    root = write_squares(tmp_path / "mbeir")
    triplets = tmp_path / "nli.csv"
    triplets.write_text("sent0,sent1,hard_neg\n" + "".join(f"bird {i},animal {i},plane {i}\n" for i in range(20)))
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))

    said = fieldmark("train", "contrastive", "--data", triplets, "--base", checkpoint, "--run", one, *SMALL)
    assert said.code == 0 and f"--base {one} --data COLLECTION" in said.out, said.err
    said = fieldmark("train", "contrastive", "--data", root, "--base", one, "--run", two, *SMALL)
    assert said.code == 0, said.err
    assert "held-out R@1" in said.out and f"--embedder {two}" in said.out
    assert json.loads((two / "results.json").read_text())["steps"] == 2

    said = fieldmark("data", "mine", "--embedder", two, "--data", root, "--hard", "3", "--random", "2")
    assert said.code == 0, said.err
    assert "48 queries" in said.out and (two / "mined" / "negatives.jsonl").is_file()
    more = ("--hard_negatives", "2", "--mined", two / "mined")
    said = fieldmark("train", "contrastive", "--data", root, "--base", one, "--run", three, *SMALL, *more)
    assert said.code == 0, said.err

    said = fieldmark("train", "contrastive", "--data", root, "--base", one, "--run", two, *SMALL)
    assert said.code == 2 and "--resume" in said.err


def test_published_defaults(fieldmark: Cli) -> None:
    config = printed(fieldmark, "train", "contrastive")
    assert (config["batch_size"], config["temperature"], config["schedule"]["epochs"]) == (960, 0.05, 1.0)
    optimiser = config["optimiser"]
    assert (optimiser["lr"], optimiser["warmup_fraction"], optimiser["weight_decay"]) == (1e-4, 0.03, 0.0)
    mining = printed(fieldmark, "data", "mine")
    assert (mining["hard"], mining["random"]) == (50, 50)
