"""One run from its resolved configuration, and many of them in processes: what every experiment is a list of."""

import json
import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch

from fieldmark.evaluation.zero_shot import evaluate_encoder
from fieldmark.experiments.tables.recipes import read_recipe
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.training.config import EARLIER, MetricConfig, SagaConfig
from fieldmark.training.loop import MAY_DIFFER, how_measured
from fieldmark.training.metric import train_metric
from fieldmark.training.run_folder import differing_fields, prepare_run, read_config, to_plain
from fieldmark.training.saga import train_saga
from fieldmark.training.session import load_split, load_supervisor

Training = Literal["untrained", "metric", "saga"]
TRAININGS: tuple[str, ...] = get_args(Training)

# Change nothing in what a run measures.
_WHERE_AND_HOW = (*MAY_DIFFER, "data.path", "model.supervisor")

_Task = TypeVar("_Task")
_Outcome = TypeVar("_Outcome")


@dataclass(frozen=True)
class Run:
    """What is trained, and the whole configuration, its folder (``config.run``) and seed included.

    A metric run takes of the configuration what `MetricConfig` has. An untrained one is the supervisor's tower as it
    is, mean pooled, without projection.
    """

    training: Training
    config: SagaConfig

    @property
    def folder(self) -> Path:
        """Where it is kept."""
        return Path(self.config.run)

    @property
    def results(self) -> Path:
        """results.json, the last file of a run."""
        return self.folder / "results.json"

    @property
    def finished(self) -> bool:
        """Whether its last file is there."""
        return self.results.is_file()

    @property
    def begun(self) -> bool:
        """Whether it can go on where it stopped."""
        return (self.folder / "config.yaml").is_file()

    @property
    def resolved(self) -> SagaConfig | MetricConfig:
        """The configuration that is stored with the run: of a metric or untrained run, without the policy's part."""
        if self.training == "saga":
            return self.config
        if self.training == "untrained":
            # What trains is left at its defaults: it changes nothing here.
            model = replace(self.config.model, pooler="mean", embedding_size=None)
            return MetricConfig(run=self.config.run, seed=self.config.seed, data=self.config.data, model=model)
        return MetricConfig(**{f.name: getattr(self.config, f.name) for f in fields(MetricConfig)})


def load_saga_config(path: Path) -> SagaConfig:
    """A recipe: a YAML file of `fieldmark train saga`. Errors as `read_recipe`'s."""
    return read_recipe(SagaConfig, path)


def execute(run: Run) -> dict[str, Any]:
    """Do a run (or go on with it, or read it, if finished); returns its results.json.

    Raises:
        ValueError: if the folder's run was made with another configuration. Fields that this version added do not
            count: a run made before has their defaults.
    """
    if run.finished:
        require_made_so(run.folder, run.resolved, _WHERE_AND_HOW)
        return json.loads(run.results.read_text())  # type: ignore[no-any-return]
    config = run.resolved
    if isinstance(config, SagaConfig):
        return train_saga(config, resume=True)
    return train_metric(config, resume=True) if run.training == "metric" else _untrained(config)


def in_processes(
    tasks: Sequence[_Task], work: Callable[[_Task], _Outcome], processes: int
) -> Iterator[tuple[_Task, _Outcome]]:
    """Do tasks in so many processes, each with its share of the threads; yields each as it is done.

    A task that fails ends the whole; those beside it are finished first. The processes end with the one that started
    them, however that ends. ``tasks`` and ``work`` travel to them: ``work`` is a function of a module, perhaps a
    partial one.
    """
    threads = max(1, torch.get_num_threads() // processes)
    # Spawned, since a forked child of a process that has used torch's threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, _prepare_worker, (threads,)) as pool:
        futures = {pool.submit(work, task): task for task in tasks}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _prepare_worker(threads: int) -> None:
    torch.set_num_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        parent.join()
        # Not sys.exit, which would end this thread only. A run can be killed anywhere: it resumes.
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def require_made_so(folder: Path, config: Any, may_differ: Collection[str]) -> None:
    """Hold that a finished run is the one that is asked for. Fields that only one of the two configurations has, since
    a version added or removed them, do not count.

    Args:
        may_differ: dotted fields that change nothing in what the run measures.

    Raises:
        ValueError: it was made with another configuration.
    """
    stored, asked = read_config(folder), to_plain(config)
    differing = differing_fields(_shared(stored, asked), _shared(asked, stored), may_differ)
    if differing:
        raise ValueError(
            f"{folder} holds a finished run that was made with another {', '.join(differing)}: delete it, "
            "or choose another folder"
        )


def _shared(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The part of ``one`` whose keys ``other`` has too."""
    nested = {k: (one[k], other[k]) for k in one if k in other}
    return {
        k: _shared(a, b) if isinstance(a, Mapping) and isinstance(b, Mapping) else a for k, (a, b) in nested.items()
    }


def _untrained(config: MetricConfig) -> dict[str, Any]:
    """The supervisor's tower as it is: evaluated, saved, not trained."""
    began = time.perf_counter()
    folder = prepare_run(config.run, config, resume=True, earlier=EARLIER)
    backbone = load_supervisor(config.model)
    encoder = RetrievalEncoder(backbone.tower, build_pooler("mean", backbone.hidden_size, None), config.data.image_size)
    split = load_split(config.data)
    test = evaluate_encoder(encoder, split.test)
    encoder.save_pretrained(folder.encoder)
    validation = evaluate_encoder(encoder, split.validation, nmi_seeds=())
    results = {
        "test": test.as_json(),
        "validation": {"recall_at_1": validation.recall_at_k[1], "best_step": 0},
        "steps": 0,
        "pictures_seen": 0,
        **how_measured(config.seed, time.perf_counter() - began),
    }
    folder.write_json("results.json", results)
    return results
