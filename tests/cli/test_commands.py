"""Each command once on something tiny."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import Said, printed

from fieldmark.cli import main

Cli = Callable[..., Said]


# --- commands that need no model


def test_prompt_show(fieldmark: Cli) -> None:
    from fieldmark.policy.prompts import pair_prompt
    from fieldmark.policy.vocabulary import load_vocabulary

    cars, birds = load_vocabulary("cars"), load_vocabulary("fieldguide")
    assert fieldmark("prompt", "show", "--vocabulary", "cars").out == pair_prompt(cars) + "\n"
    some = fieldmark("prompt", "show", "--attributes", "leg color, bill shape").out
    assert some == pair_prompt(birds, "structured", ("leg color", "bill shape")) + "\n"
    assert fieldmark("prompt", "show", "--style", "generic").out == pair_prompt(birds, "generic") + "\n"


def test_prompt_show_as_a_supervisor_sees_it(fieldmark: Cli) -> None:
    from fieldmark.policy.prompts import pair_prompt
    from fieldmark.policy.vocabulary import load_vocabulary

    words = ("prompt", "show", "--supervisor", "bundled", "--image_size", "96")
    text, pad = pair_prompt(load_vocabulary("fieldguide")), "<|vision_start|><|image_pad|>*64<|vision_end|>"
    prompt, size = fieldmark(*words).out.rsplit("\n\n", 1)
    assert prompt == f"<|im_start|>user\n{pad}{pad}{text}<|im_end|>\n<|im_start|>assistant\n"
    lines = fieldmark(*words, "--tokens").out.splitlines()
    assert size.startswith(f"{len(lines) + 2 * 63} tokens: {len(lines) - 2} of text, 2 pictures of 64; ")
    assert lines[0].endswith("'<|im_start|>'") and sum(line.endswith("'<|image_pad|>'  * 64") for line in lines) == 2
    assert "multiple of 12" in fieldmark(*words[:-1], "100").err
    assert "--supervisor" in fieldmark("prompt", "show", "--tokens").err


def test_fieldguide_writes_a_world(fieldmark: Cli, tmp_path: Path) -> None:
    out = tmp_path / "world"
    words = ("data", "fieldguide", "--out", out, "--species", "4", "--per", "2", "--size", "32", "--workers", "1")
    said = fieldmark(*words, "--seed", "3", "--train-share", "0.25")
    assert said.code == 0, said.err
    assert f"contact sheet: {out / 'contact_sheet.png'}" in said.out and (out / "contact_sheet.png").is_file()
    assert json.loads((out / "fieldguide.json").read_text())["seed"] == 3
    assert len(json.loads((out / "split.json").read_text())["train"]) == 1

    again = fieldmark(*words)
    assert again.code == 2 and "--force" in again.err
    assert fieldmark(*words, "--force").code == 0
    assert json.loads((out / "fieldguide.json").read_text())["seed"] == 0

    said = fieldmark("data", "inspect", out)
    assert said.code == 0 and "8 pictures of 4 classes" in said.out
    assert json.loads(fieldmark("data", "inspect", out, "--json").out)["num_classes"] == 4


# --- training and after, with a supervisor of random weights


TINY = (
    "--data.image_size", "16", "--data.batch_size", "8", "--data.images_per_class", "2", "--data.workers", "0",
    "--data.validation_fraction", "0.34", "--model.embedding_size", "8",
    "--schedule.steps", "2", "--schedule.validate_every", "1", "--schedule.checkpoint_every", "1",
)  # fmt: skip
GENERIC = ("--rollouts.style", "generic", "--rollouts.group_size", "2", "--rollouts.max_new_tokens", "6")


@pytest.fixture(scope="module")
def supervisor(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.fixtures_models import save_tiny

    return save_tiny(tmp_path_factory.mktemp("supervisor"))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six species to train on, two of them for validation, and six for testing; four pictures each."""
    out = tmp_path_factory.mktemp("worlds") / "world"
    few = ["--species", "12", "--per", "4", "--size", "32", "--workers", "1"]
    assert main(["data", "fieldguide", "--out", str(out), *few]) == 0
    return out


def test_train_evaluate_report(fieldmark: Cli, tmp_path: Path, world: Path, supervisor: Path) -> None:
    run = tmp_path / "runs" / "first"
    words = ("--data", world, "--supervisor", supervisor, *TINY)

    said = fieldmark("train", "metric", *words, "--run", run)
    assert said.code == 0, said.err
    assert "R@1" in said.out and f"encoder: {run}/encoder" in said.out and "95 % interval" in said.out
    results = json.loads((run / "results.json").read_text())
    assert results["steps"] == 2

    # The stored configuration is one that can be given again; without --resume the run is safe.
    assert printed(fieldmark, "train", "metric", "--config", run / "config.yaml")["run"] == str(run)
    again = fieldmark("train", "metric", "--config", run / "config.yaml")
    assert again.code == 2 and "--resume" in again.err and "--overwrite" in again.err

    # The test classes, data and figures of the run itself.
    found = tmp_path / "found.json"
    said = fieldmark("evaluate", "--encoder", run, "--workers", "0", "--json", found)
    assert said.code == 0, said.err
    assert "6 classes" in said.out and "NMI" in said.out
    figures = json.loads(found.read_text())
    assert {key: figures[key] for key in results["test"]} == results["test"]
    said = fieldmark("evaluate", "--encoder", run / "encoder", "--data", world, "--split", "all", "--workers", "0")
    assert said.code == 0 and "12 classes" in said.out

    said = fieldmark("evaluate", "--encoder", tmp_path / "runs")
    assert said.code == 2 and "neither a run's folder nor a saved encoder" in said.err
    said = fieldmark("report", "--run", run, "--out", tmp_path / "report.html")
    assert said.code == 0, said.err
    assert "Potential field, attention pooler" in (tmp_path / "report.html").read_text(encoding="utf-8")
    said = fieldmark("report", "--run", run, "--out", tmp_path / "report.html", "--baseline", "second")
    assert said.code == 2 and "baseline 'second' is none of the runs first" in said.err


VOCABULARY = """
expert: e
prefix: P
identifies: birds
targets: birds
item: bird
items: birds
example: red
verdict_label: Same
verdict_question: same bird
verdict_key: same
attributes: [leg color]
"""


def test_train_saga_and_check(fieldmark: Cli, tmp_path: Path, world: Path, supervisor: Path) -> None:
    run, short = tmp_path / "run", tmp_path / "short.yaml"
    short.write_text(VOCABULARY)  # the random supervisor reads bytes, 512 at most
    words = ("--data", world, "--supervisor", supervisor, *GENERIC)
    said = fieldmark(
        "train", "saga", *words, *TINY, "--run", run, "--rollouts.vocabulary", short,
        "--weights.alignment", "0", "--pairs.pairs_per_round", "2", "--pairs.contributing_pairs", "null",
    )  # fmt: skip
    assert said.code == 0, said.err
    assert json.loads((run / "results.json").read_text())["steps"] == 2

    found = tmp_path / "check.json"
    recipe = ("--config", run / "config.yaml", "--check.pairs_per_type", "2")
    said = fieldmark("supervisor", "check", *recipe, "--json", found)
    assert said.code == 0, said.err
    assert "worth training" in said.out and "norm of the gradient at the tower: metric loss" in said.out
    report = json.loads(found.read_text())
    assert set(report["by_type"]) == {"same", "random", "hard"} and report["metric_gradient_norm"] > 0
    assert report["by_type"]["same"]["oracle_self_cosine"] is None  # one batch has no halves
    assert report["by_type"]["same"]["gradient_norm"] is not None


def test_fieldguide_brings_its_vocabulary(fieldmark: Cli, world: Path, supervisor: Path) -> None:
    few = (
        "--check.pairs_per_type",
        "1",
        "--check.gradients",
        "false",
        "--data.image_size",
        "16",
        "--data.workers",
        "0",
    )
    said = fieldmark("supervisor", "check", "--data", world, "--supervisor", supervisor, *GENERIC, *few)
    assert said.code == 0, said.err
    assert "worth training" in said.out and "norm of the gradient" not in said.out


def test_run_keeps_its_own_split(fieldmark: Cli, tmp_path: Path, world: Path, supervisor: Path) -> None:
    """Without split.json the test classes follow train_fraction: evaluation takes the run's, not the default."""
    folders, run = tmp_path / "folders", tmp_path / "run"
    for species in world.iterdir():
        if species.is_dir() and species.name != "masks":
            shutil.copytree(species, folders / species.name)
    words = ("--data", folders, "--supervisor", supervisor, *TINY, "--data.train_fraction", "0.75")
    assert fieldmark("train", "metric", *words, "--run", run).code == 0
    assert "3 classes" in fieldmark("evaluate", "--encoder", run, "--workers", "0").out
    said = fieldmark("evaluate", "--encoder", run, "--workers", "0", "--train_fraction", "0.5")
    assert "6 classes" in said.out
    said = fieldmark("supervisor", "check", "--data", folders, "--supervisor", supervisor, "--data.workers", "0")
    assert said.code == 2 and "no vocabulary given: set rollouts.vocabulary" in said.err
