"""The command line: options, files, errors, exit codes; each command once on something tiny."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fieldmark.cli import main
from fieldmark.cli.commands import COMMANDS
from fieldmark.cli.names import nearest_names
from fieldmark.cli.options import Options
from fieldmark.data.decode import BadImage
from fieldmark.training.checkpoint import CheckpointError
from fieldmark.training.config import MetricConfig, SagaConfig
from fieldmark.training.optimiser import NonFiniteLoss

ROOT = Path(__file__).parents[1]


@dataclasses.dataclass(frozen=True)
class Said:
    code: int
    out: str
    err: str


@pytest.fixture
def fieldmark(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Runs the command line in this process."""
    monkeypatch.delenv("FIELDMARK_TRACEBACK", raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*words: str | Path) -> Said:
        code = main([str(word) for word in words])
        told = capsys.readouterr()
        return Said(code, told.out, told.err)

    return run


Cli = Callable[..., Said]

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


# --- configuration


def printed(fieldmark: Cli, *words: str | Path) -> dict[str, Any]:
    said = fieldmark(*words, "--print_config")
    assert said.code == 0, said.err
    return yaml.safe_load(said.out)


@pytest.mark.parametrize(("method", "config"), [("metric", MetricConfig()), ("saga", SagaConfig())])
def test_printed_defaults_are_the_dataclass(fieldmark: Cli, method: str, config: Any) -> None:
    expected = json.loads(json.dumps(dataclasses.asdict(config)))  # tuples as lists
    assert printed(fieldmark, "train", method) == expected


def test_config_round_trip(fieldmark: Cli, tmp_path: Path) -> None:
    words = (
        "--data", "my folder: 1", "--supervisor", "null", "--skip-bad", "--tensorboard", "--run=a",
        "--optimiser.betas", "[0.8, 0.95]", "--optimiser.eps", "1e-9", "--optimiser.clip_norm", ".inf",
        "--pairs.quota", "{same: 3, random: 5}", "--pairs.contributing_pairs", "null",
        "--weights.policy_relative", "2", "--rollouts.reward_options.a", "3", "--data.horizontal-flip", "false",
        "--supervision", "permuted",
    )  # fmt: skip
    first = fieldmark("train", "saga", *words, "--print_config")
    assert first.code == 0, first.err
    path = tmp_path / "printed.yaml"
    path.write_text(first.out)
    again = fieldmark("train", "saga", "--config", path, "--print_config")
    assert again.out == first.out
    content = yaml.safe_load(first.out)
    assert content["data"] | {"path": "my folder: 1", "skip_bad": True, "horizontal_flip": False} == content["data"]
    assert content["model"]["supervisor"] == "null"  # a text, not nothing
    assert content["optimiser"]["betas"] == [0.8, 0.95] and content["optimiser"]["clip_norm"] == float("inf")
    assert content["pairs"]["quota"] == {"same": 3, "random": 5} and content["pairs"]["contributing_pairs"] is None
    assert content["weights"]["policy_relative"] == 2.0 and content["rollouts"]["reward_options"] == {"a": 3}
    assert "# λ_dml." in first.out


def test_line_wins_over_file_and_later_file_over_earlier(fieldmark: Cli, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("seed: 1\ndata: {workers: 2, image_size: 96}\n")
    (tmp_path / "b.yaml").write_text("data: {workers: 3}\n")
    files = ("--config", tmp_path / "a.yaml", "--config", tmp_path / "b.yaml")
    content = printed(fieldmark, "train", "metric", *files, "--seed", "7")
    assert (content["seed"], content["data"]["workers"], content["data"]["image_size"]) == (7, 3, 96)


def test_shipped_recipes_fit(fieldmark: Cli) -> None:
    recipes = sorted((ROOT / "configs").rglob("saga*.yaml"))
    assert recipes
    for path in recipes:
        printed(fieldmark, "train", "saga", "--config", path)


def test_supervisor_check_takes_the_recipe_of_a_training(fieldmark: Cli, tmp_path: Path) -> None:
    path = tmp_path / "saga.yaml"
    path.write_text("run: x\nrollouts: {group_size: 3}\npairs: {max_rounds: 2}\nschedule: {steps: 5}\n")
    content = printed(fieldmark, "supervisor", "check", "--config", path)
    assert content["rollouts"]["group_size"] == 3 and content["rollouts"]["vocabulary"] == ""
    assert "pairs" not in content
    path.write_text("rollout: {group_size: 3}\n")
    assert "unknown key 'rollout'" in fieldmark("supervisor", "check", "--config", path).err
    assert fieldmark("supervisor", "check", "--pairs.max_rounds", "2").code == 2  # on the line it is a mistake


def test_switches_and_spellings() -> None:
    @dataclasses.dataclass(frozen=True)
    class Config:
        """Of this test."""

        some_switch: bool = False
        """A switch."""
        name: str = "x"
        """A name."""

    def parse(*words: str) -> Any:
        options = Options("test", "Nothing.")
        options.config(Config, {"short": "name"})
        options.add("path", "A path.")
        options.flag("--force", "A flag.")
        return options.parse(words)

    given = parse("--some-switch", "a", "--short=b")
    assert (given.config, given.path, given.force) == (Config(True, "b"), "a", False)
    assert parse("a", "--some_switch", "false", "--force").config == Config(False)
    assert parse("--some_switch=false", "a").config == Config(False)


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


# --- commands that need no model


def test_prompt_show(fieldmark: Cli) -> None:
    from fieldmark.policy.prompts import pair_prompt
    from fieldmark.policy.vocabulary import load_vocabulary

    cars, birds = load_vocabulary("cars"), load_vocabulary("fieldguide")
    assert fieldmark("prompt", "show", "--vocabulary", "cars").out == pair_prompt(cars) + "\n"
    some = fieldmark("prompt", "show", "--attributes", "leg color, bill shape").out
    assert some == pair_prompt(birds, "structured", ("leg color", "bill shape")) + "\n"
    assert fieldmark("prompt", "show", "--style", "generic").out == pair_prompt(birds, "generic") + "\n"


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
