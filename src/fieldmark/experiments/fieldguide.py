"""One Fieldguide run by its method's name: what the demo and the evidence are lists of."""

import dataclasses
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from fieldmark.data.fieldguide.world import FieldguideConfig, is_fieldguide, write_fieldguide
from fieldmark.experiments.runs import Run, Training, execute, load_saga_config
from fieldmark.training.config import MetricConfig, SagaConfig

Method = Literal[
    "untrained", "metric_mean", "metric", "kl", "grpo", "saga", "saga_permuted_reward", "oracle", "wrong_descriptions"
]
METHODS: tuple[str, ...] = get_args(Method)
CONFIGS = Path(__file__).parents[3] / "configs"


@dataclass(frozen=True)
class Job:
    """One run: a method on a world, with a training seed."""

    method: Method
    world: Path
    run: Path
    seed: int


def load_recipe(path: Path = CONFIGS / "fieldguide" / "saga.yaml") -> SagaConfig:
    """The recipe of the Fieldguide runs; every method is derived from it. Errors as `load_saga_config`'s."""
    return load_saga_config(path)


def make_world(config: FieldguideConfig, folder: Path) -> Path:
    """The world's folder, drawn if it is not there yet.

    Raises:
        ValueError: if ``folder`` holds another world.
    """
    if is_fieldguide(folder):
        stored = json.loads((folder / "fieldguide.json").read_text())
        stored.pop("format")
        if stored != dataclasses.asdict(config):
            raise ValueError(f"{folder} holds another world ({stored}): delete it or choose another folder")
        return folder
    return write_fieldguide(config, folder)


def method_run(job: Job, recipe: SagaConfig) -> Run:
    """The run of a method: the recipe with as little changed as the method means."""
    base = replace(recipe, run=str(job.run), seed=job.seed, data=replace(recipe.data, path=str(job.world)))
    training: Training = "saga"
    if job.method in ("untrained", "metric", "metric_mean"):
        training = "untrained" if job.method == "untrained" else "metric"
        if job.method == "metric_mean":
            base = replace(base, model=replace(base.model, pooler="mean"))
    elif job.method == "kl":
        base = replace(base, weights=replace(base.weights, policy=0.0, policy_relative=None))
    elif job.method == "grpo":
        base = replace(base, weights=replace(base.weights, alignment=0.0))
    else:
        supervision = {
            "saga": "verdict",
            "saga_permuted_reward": "permuted",
            "oracle": "oracle",
            "wrong_descriptions": "wrong",
        }
        base = replace(base, supervision=supervision[job.method])  # type: ignore[arg-type]
    return Run(training, base)


def method_config(job: Job, recipe: SagaConfig) -> SagaConfig | MetricConfig:
    """The configuration that is stored with a method's run."""
    return method_run(job, recipe).resolved


def run_job(job: Job, recipe: SagaConfig) -> dict[str, Any]:
    """Run (or resume, or read, if finished) one job; returns its results.json."""
    return execute(method_run(job, recipe))
