"""Help, unknown names, bad input, errors of the library, exit codes."""

import functools
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.cli.conftest import Said

from fieldmark.cli import main
from fieldmark.cli.commands import COMMANDS
from fieldmark.cli.names import nearest_names
from fieldmark.data.decode import BadImage
from fieldmark.experiments.runs import in_processes
from fieldmark.losses.import_path import import_function
from fieldmark.training.checkpoint import CheckpointError
from fieldmark.training.optimiser import NonFiniteLoss

Cli = Callable[..., Said]
ROOT = Path(__file__).parents[2]


# --- help


def test_help_lists_every_command(fieldmark: Cli) -> None:
    said = fieldmark("--help")
    assert said.code == 0
    for command in COMMANDS.values():
        assert f"  {command.words} " in said.out and command.summary in said.out


@pytest.mark.parametrize("words", COMMANDS)
def test_every_command_explains_itself(fieldmark: Cli, words: str) -> None:
    said = fieldmark(*words.split(), "--help")
    assert said.code == 0 and said.err == ""
    assert f"usage: fieldmark {words} [options]" in said.out
    assert f"\n  fieldmark {words}" in said.out, "no example"


def test_help_shows_the_docstrings_of_fields(fieldmark: Cli) -> None:
    said = fieldmark("train", "saga", "--help")
    assert "--optimiser.tower_lr" in said.out
    assert "Recall@1 on the validation classes, or the last" in " ".join(said.out.split())
    assert "default: verdict" in said.out
    assert "--data CONFIG" not in said.out  # jsonargparse's file per part, which --data means something else for


@pytest.mark.parametrize(("words", "code"), [([], 2), (["data"], 2), (["data", "--help"], 0), (["-h"], 0)])
def test_part_of_a_command(fieldmark: Cli, words: list[str], code: int) -> None:
    said = fieldmark(*words)
    assert said.code == code
    assert "data inspect" in (said.err if code else said.out)


def test_version(fieldmark: Cli) -> None:
    from fieldmark import __version__

    assert fieldmark("--version") == Said(0, f"fieldmark {__version__}\n", "")


LIGHT = """
import sys
from fieldmark.cli import main
code = main(sys.argv[1:])
heavy = {"torch", "transformers", "sklearn", "pytorch_metric_learning"} & set(sys.modules)
assert code == 0, code
assert not heavy, heavy
"""


@pytest.mark.parametrize("words", [["--help"], ["prompt", "show"], ["data", "fieldguide", "--help"], ["--version"]])
def test_light_commands_load_no_torch(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LIGHT, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])},
    )
    assert done.returncode == 0, done.stderr


# --- what is unknown or wrong


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["trian", "saga"], "'train saga'"),
        (["train", "sage"], "'train saga'"),
        (["evalute", "--encoder", "x"], "'evaluate'"),
        (["tiny_model"], "'tiny-model'"),
        (["train", "saga", "--data.pth", "x"], "'--data.path'"),
        (["train", "saga", "--batch-size", "8"], "'--data.batch_size'"),
        (["train", "saga", "--tower_lr=1"], "'--optimiser.tower_lr'"),
        (["train", "saga", "--resme"], "'--resume'"),
        (["train", "metric", "--proxy_lr_factor", "1"], "'--metric.proxy_lr_factor' or '--optimiser.proxy_lr_factor'"),
        (["prompt", "show", "--vocab", "birds"], "'--vocabulary'"),
    ],
)  # fmt: skip
def test_nearest_name_is_suggested(fieldmark: Cli, words: list[str], meant: str) -> None:
    said = fieldmark(*words)
    assert said.code == 2 and said.out == ""
    assert said.err.startswith("fieldmark: error: ") and f"did you mean {meant}?" in said.err
    assert "--help" in said.err and "Traceback" not in said.err


def test_nothing_near_suggests_nothing() -> None:
    assert nearest_names("qqqq", ["data.path", "run"]) == []
    assert nearest_names("data.workrs", ["data.path", "data.workers"]) == ["data.workers"]
    assert nearest_names("path", ["data.path", "run"]) == ["data.path"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["train", "saga", "--data.workers", "x"], "--data.workers: expected int. Got value: x"),
        (["train", "saga", "--schedule.select", "bst"], "expected one of 'best', 'last'. Got value: bst"),
        (["train", "saga", "--optimiser.clip_norm", "inf"], "Got value: inf (infinity is written .inf)"),
        (["train", "saga", "--data"], "--data.path needs a value"),
        (["train", "saga", "--config", "nowhere.yaml"], "there is no configuration file nowhere.yaml"),
        (["train", "saga", "--rollouts.group_size", "1"], "group_size must be at least 2"),
        (["train", "saga", "surplus"], "unrecognized arguments: surplus"),
        (["data", "inspect"], "PATH must be given"),
        (["data", "fieldguide"], "--out must be given"),
        (["data", "inspect", "nowhere"], "nowhere"),
        (["evaluate", "--encoder", "nowhere"], "nowhere is neither a run's folder nor a saved encoder"),
        (["supervisor", "check"], "--data.path FOLDER"),
        (["train", "metric", "--data", "x"], "set --run FOLDER"),
        (["report", "--run", "nowhere"], "nowhere is no run's folder"),
        (["prompt", "show", "--vocabulary", "boats"], "no vocabulary 'boats'"),
        (["prompt", "show", "--attributes", "bill"], "no attribute 'bill'"),
    ],
)
def test_wrong_input_is_one_clear_line(
    fieldmark: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    said = fieldmark(*words)
    assert said.code == 2
    assert said.err.startswith("fieldmark: error: ") and message in said.err, said.err
    assert "Traceback" not in said.err and "<class" not in said.err and "Parser key" not in said.err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: {pth: x}", "unknown key 'data.pth': did you mean 'data.path'?"),
        ("wieghts: {metric: 1}", "unknown key 'wieghts'"),
        ("batch_size: 3", "unknown key 'batch_size': did you mean 'data.batch_size'?"),
        ("resume: true", "unknown key 'resume'"),
        ("data: {workers: many}", "--data.workers: expected int. Got value: many"),
        ("- a\n- b", "must hold keys and values, not a list"),
        ("data: [", "is no YAML"),
    ],
)
def test_wrong_file_names_the_key(fieldmark: Cli, tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    for words in (["--config", path], [f"--config={path}"]):
        said = fieldmark("train", "saga", *words, "--print_config")
        assert said.code == 2 and said.out == ""
        assert message in said.err, said.err


# --- errors of the library


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a remedy"),
        FileNotFoundError(2, "a remedy", "x"),
        CheckpointError("a remedy"),
        NonFiniteLoss("a remedy"),
        BadImage("x.png", "a remedy"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_errors_for_users_have_no_traceback(fieldmark: Cli, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr("fieldmark.training.metric.train_metric", fail)
    said = fieldmark("train", "metric", "--run", "x")
    assert said.code == 2
    assert said.err.startswith("fieldmark: error: ") and "a remedy" in said.err and "Traceback" not in said.err
    assert "FIELDMARK_TRACEBACK=1" in said.err  # it was not raised by a line of the package

    monkeypatch.setenv("FIELDMARK_TRACEBACK", "1")
    with pytest.raises(type(error)):
        main(["train", "metric", "--run", "x"])


def test_own_messages_need_no_hint(fieldmark: Cli) -> None:
    assert "FIELDMARK_TRACEBACK" not in fieldmark("prompt", "show", "--vocabulary", "boats").err


def test_own_messages_from_another_process_need_no_hint(fieldmark: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def elsewhere(task: str) -> Callable[..., None]:
        work = functools.partial(import_function, what="reward") if task == "nothing" else int

        def fail(*_: Any, **__: Any) -> None:
            list(in_processes([task], work, processes=1))

        return fail

    for task, hinted in (("nothing", False), ("no number", True)):
        monkeypatch.setattr("fieldmark.training.metric.train_metric", elsewhere(task))
        said = fieldmark("train", "metric", "--run", "x")
        assert said.code == 2 and said.err.startswith("fieldmark: error: ")
        assert ("from a library" in said.err) is hinted, said.err


def test_mistakes_of_ours_are_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("an invariant")

    monkeypatch.setattr("fieldmark.training.metric.train_metric", fail)
    with pytest.raises(AssertionError, match="an invariant"):
        main(["train", "metric", "--run", "x"])


@pytest.mark.parametrize(
    ("target", "words", "how"),
    [
        ("training.metric.train_metric", ["train", "metric", "--run", "a b", "--overwrite"],
         "fieldmark train metric --run 'a b' --resume\n"),
        ("training.saga.train_saga", ["train", "saga", "--run", "r", "--resume"],
         "fieldmark train saga --run r --resume\n"),
        ("experiments.demo.run_demo", ["demo"], "The same command goes on where it stopped."),
        ("data.inspection.inspect_collection", ["data", "inspect", "x"], "interrupted"),
    ],
)  # fmt: skip
def test_interrupted_says_how_to_resume(
    fieldmark: Cli, monkeypatch: pytest.MonkeyPatch, target: str, words: list[str], how: str
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(f"fieldmark.{target}", interrupt)
    said = fieldmark(*words)
    assert said.code == 130
    assert how in said.err and "Traceback" not in said.err and "--overwrite" not in said.err
