"""Stage 3 from the command line, on mined negatives, with a reward of one's own; the published defaults."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Said, printed
from tests.fixtures_models import save_tiny
from tests.fixtures_retrieval import write_squares

from fieldmark.data.mined_negatives import QueryNegatives, write_mined

Cli = Callable[..., Said]
SMALL = (
    "--model.embedder.image_size", "16", "--model.embedder.max_new_tokens", "4", "--model.adapter.rank", "2",
    "--queries_per_step", "2", "--summaries.group_size", "2", "--data.workers", "0", "--schedule.steps", "1",
    "--validation.queries", "2", "--validation.candidates", "6",
)  # fmt: skip


def test_stage_three_with_mined_negatives_and_a_reward_of_ones_own(
    fieldmark: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, checkpoint = write_squares(tmp_path / "mbeir"), save_tiny(tmp_path / "checkpoint")
    mined, run = tmp_path / "mined", tmp_path / "run"
    ids = [f"10:{n}" for n in range(24)]
    lines = [
        QueryNegatives(name, tuple(ids[(i + k) % 24] for k in (3, 5)), (ids[i - 1],)) for i, name in enumerate(ids)
    ]
    write_mined(mined, {"threshold": None}, lines)
    (tmp_path / "rewards_beside_the_run.py").write_text(
        "def brief(positive, num_tokens):\n    return float(positive.max()) - num_tokens\n"
    )
    monkeypatch.chdir(tmp_path)

    asked = ("train", "elva", "--data", root, "--base", checkpoint, "--run", run, *SMALL)
    said = fieldmark(*asked)
    assert said.code == 2 and "data mine" in said.err and not run.exists()
    negatives = ("--mined", mined, "--negatives.hard", "2", "--negatives.random", "1")
    said = fieldmark(*asked, *negatives, "--reward.function", "rewards_beside_the_run:brief")
    assert said.code == 0, said.err
    assert "held-out R@1" in said.out
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == 1 and results["training_queries"] <= 24  # only what was mined
    line = json.loads((run / "log.jsonl").read_text().splitlines()[0])
    assert line["reward"] < 0 and "summaries" in line["seconds"]


def test_published_defaults(fieldmark: Cli) -> None:
    config = printed(fieldmark, "train", "elva")
    assert config["optimiser"]["lr"] == 1e-6 and config["policy"]["kl_weight"] == 0.2
    assert config["summaries"]["group_size"] == 8 and config["schedule"]["epochs"] == 1.0
    assert (config["negatives"]["hard"], config["negatives"]["random"]) == (50, 50)
    assert (config["reward"]["alpha"], config["reward"]["epsilon"]) == (0.4, 0.6)
    assert config["model"]["embedder"]["mode"] == "generative"
