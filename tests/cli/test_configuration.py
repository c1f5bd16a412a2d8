"""Options from defaults, files and the line."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.conftest import Said, printed

from fieldmark.cli.options import Options
from fieldmark.training.config import MetricConfig, SagaConfig

Cli = Callable[..., Said]
ROOT = Path(__file__).parents[2]


# --- configuration


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
