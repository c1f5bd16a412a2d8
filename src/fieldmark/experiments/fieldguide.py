"""One Fieldguide run by its method's name: what the demo, the evidence and the tables are lists of."""

import dataclasses
import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jsonargparse import ArgumentParser

from fieldmark.data.fieldguide.world import FieldguideConfig, is_fieldguide, write_fieldguide
from fieldmark.evaluation.zero_shot import evaluate_encoder
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.training.config import DataConfig, MetricConfig, SagaConfig
from fieldmark.training.metric import train_metric
from fieldmark.training.run_folder import prepare_run, write_text
from fieldmark.training.saga import train_saga
from fieldmark.training.session import load_split, load_supervisor

Method = Literal[
    "untrained", "metric_mean", "metric", "kl", "grpo", "saga", "saga_permuted_reward", "oracle", "wrong_descriptions"
]
METHODS: tuple[str, ...] = get_args(Method)
CONFIGS = Path(__file__).parents[3] / "configs" / "fieldguide"


@dataclass(frozen=True)
class Job:
    """One run: a method on a world, with a training seed."""

    method: Method
    world: Path
    run: Path
    seed: int


def load_recipe(path: Path = CONFIGS / "saga.yaml") -> SagaConfig:
    """The recipe of the Fieldguide runs; every method is derived from it.

    Raises:
        ValueError: if the file is missing or does not fit SagaConfig.
    """
    if not path.is_file():
        raise ValueError(
            f"{path} is missing: the Fieldguide recipes are part of the repository, run from a checkout of it"
        )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(SagaConfig)
    parsed = parser.instantiate(parser.parse_path(str(path)))
    return SagaConfig(**{f.name: parsed[f.name] for f in dataclasses.fields(SagaConfig)})


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


def method_config(job: Job, recipe: SagaConfig) -> SagaConfig | MetricConfig:
    """The configuration of a method: the recipe with as little changed as the method means."""
    base = replace(recipe, run=str(job.run), seed=job.seed, data=replace(recipe.data, path=str(job.world)))
    weights = base.weights
    if job.method in ("metric", "metric_mean"):
        model = base.model if job.method == "metric" else replace(base.model, pooler="mean")
        return MetricConfig(
            run=base.run,
            seed=base.seed,
            data=base.data,
            model=model,
            metric=base.metric,
            optimiser=base.optimiser,
            schedule=base.schedule,
        )
    if job.method == "kl":
        return replace(base, weights=replace(weights, policy=0.0, policy_relative=None))
    if job.method == "grpo":
        return replace(base, weights=replace(weights, alignment=0.0))
    supervision = {
        "saga": "verdict",
        "saga_permuted_reward": "permuted",
        "oracle": "oracle",
        "wrong_descriptions": "wrong",
    }
    return replace(base, supervision=supervision[job.method])  # type: ignore[arg-type]


def run_job(job: Job, recipe: SagaConfig) -> dict[str, Any]:
    """Run (or resume, or read, if finished) one job; returns its results.json with the method and seconds."""
    results = job.run / "results.json"
    if results.is_file():
        return json.loads(results.read_text())  # type: ignore[no-any-return]
    began = time.perf_counter()
    if job.method == "untrained":
        outcome = _untrained(job, recipe)
    else:
        config = method_config(job, recipe)
        outcome = (
            train_metric(config, resume=True) if isinstance(config, MetricConfig) else train_saga(config, resume=True)
        )
    outcome |= {
        "method": job.method,
        "seed": job.seed,
        "seconds": time.perf_counter() - began,
        "threads": torch.get_num_threads(),
    }
    write_text(results, json.dumps(outcome, indent=2) + "\n")
    return outcome


def _untrained(job: Job, recipe: SagaConfig) -> dict[str, Any]:
    """The supervisor's tower as it is, mean pooled, without projection."""
    data: DataConfig = replace(recipe.data, path=str(job.world))
    model = replace(recipe.model, pooler="mean", embedding_size=None)
    run = prepare_run(job.run, MetricConfig(run=str(job.run), seed=job.seed, data=data, model=model), resume=True)
    backbone = load_supervisor(model)
    encoder = RetrievalEncoder(backbone.tower, build_pooler("mean", backbone.hidden_size, None), data.image_size)
    split = load_split(data)
    test = evaluate_encoder(encoder, split.test)
    encoder.save_pretrained(run.encoder)
    validation = evaluate_encoder(encoder, split.validation, nmi_seeds=())
    return {
        "test": test.as_json(),
        "validation": {"recall_at_1": validation.recall_at_k[1], "best_step": 0},
        "steps": 0,
        "pictures_seen": 0,
    }
