"""One run of ELVA's tables: perhaps a training, and what comes out of it measured."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fieldmark.data.multimodal.video_tasks import read_video_task
from fieldmark.evaluation.embedding import EncodingConfig
from fieldmark.evaluation.video import evaluate_video
from fieldmark.experiments.elva.measure import measure_embedder, measure_mbeir
from fieldmark.experiments.elva.signals import read_signals
from fieldmark.experiments.elva.tables import Trains
from fieldmark.experiments.run_names import name_of_choices
from fieldmark.experiments.runs import require_made_so
from fieldmark.models.embedding_prompts import Mode
from fieldmark.models.universal_embedder import UniversalEmbedder, load_embedder
from fieldmark.training.contrastive import train_contrastive
from fieldmark.training.contrastive_config import ContrastiveConfig
from fieldmark.training.elva import train_elva
from fieldmark.training.elva_config import ElvaConfig
from fieldmark.training.embedder_model import embedder_folder
from fieldmark.training.loop import MAY_DIFFER
from fieldmark.training.run_folder import to_plain, write_text

# Change nothing in what a run measures.
_WHERE_AND_HOW = (*MAY_DIFFER, "data.path", "model.base", "mined", "negatives.mined")


@dataclass(frozen=True)
class Measurement:
    """On what an embedder is measured.

    Raises:
        ValueError: nothing is named.
    """

    root: str = ""
    """Collection in M-BEIR's layout, its test queries."""
    published_mbeir: bool = False
    """M-BEIR's own table, in place of the figures about grains."""
    mrbench: str | None = None
    """Multi-grain benchmark about the collection."""
    most_queries: int | None = None
    """Of each task at most, drawn at random; null takes all."""
    annotations: str | None = None
    """Captions of videos, which are searched in place of the collection …"""
    videos: str | None = None
    """… and where the videos are."""
    batch_size: int = 32
    """Requests embedded at a time."""
    workers: int = 0
    """Processes that decode pictures ahead; 0 decodes in line."""

    def __post_init__(self) -> None:
        if not self.root and self.annotations is None:
            raise ValueError("nothing to measure on: give a collection, or captions of videos")

    def of(self, model: UniversalEmbedder) -> dict[str, Any]:
        """The figures, as JSON."""
        encoding = EncodingConfig(self.batch_size, self.workers)
        if self.annotations is not None and self.videos is not None:
            task = read_video_task(self.annotations, self.videos)
            found = evaluate_video(model, task, encoding, np.random.default_rng(0))
            return {"mode": model.config.mode, "video": found.as_json()}
        if self.published_mbeir:
            return measure_mbeir(model, self.root, benchmark=self.mrbench, encoding=encoding)
        figures = measure_embedder(
            model, self.root, benchmark=self.mrbench, most_queries=self.most_queries, encoding=encoding
        )
        return figures.as_json()


@dataclass(frozen=True)
class ElvaRun:
    """What is trained, from what start, and how what comes out is measured.

    trains: "none" measures ``config.model.base`` as it is. config: its folder (``run``) and seed included. names: what
    stands for paths in the run's identity, by dotted field, so that a moved folder changes nothing. after: the run
    whose embedder this one starts from.
    """

    trains: Trains
    mode: Mode
    config: ElvaConfig | ContrastiveConfig
    measurement: Measurement
    after: "ElvaRun | None" = None
    names: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        """Where it is kept; runs that differ in ``mode`` alone share it, and the training in it."""
        return Path(self.config.run)

    @property
    def results(self) -> Path:
        """The last file that it writes."""
        m = self.measurement
        kind = "video" if m.annotations is not None else "mbeir" if m.published_mbeir else "grains"
        choices = {
            "most_queries": m.most_queries,
            "annotations": m.annotations,
            "videos": m.videos,
            "mrbench": self.names.get("mrbench"),
        }
        name = name_of_choices(f"{kind}-{self.mode}", choices, dict.fromkeys(choices))
        return self.folder / f"{name}.json"

    @property
    def finished(self) -> bool:
        """Whether its last file is there."""
        return self.results.is_file()

    @property
    def begun(self) -> bool:
        """Whether it can go on where it stopped."""
        return (self.folder / "config.yaml").is_file()

    @property
    def depth(self) -> int:
        """How many runs must be done before."""
        return 0 if self.after is None else 1 + self.after.depth

    def read(self) -> dict[str, Any]:
        """What was stored: "figures", and of the training "steps", "training_seconds" and "signals"."""
        return json.loads(self.results.read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def execute(runs: Sequence[ElvaRun]) -> list[dict[str, Any]]:
    """Do runs of one folder (or go on with them, or read them, if finished): one training, measured in each mode.

    Raises:
        ValueError: the folder's run was made with another configuration, or bad input.
    """
    return [run.read() if run.finished else _execute(run) for run in runs]


def _execute(run: ElvaRun) -> dict[str, Any]:
    trained = _train(run)
    began = time.perf_counter()
    figures = run.measurement.of(load_trained(run))
    stored = {
        "trains": run.trains,
        "seed": run.config.seed,
        "steps": trained.get("steps", 0),
        "training_seconds": trained.get("seconds", 0.0),
        "measuring_seconds": time.perf_counter() - began,
        "seconds": trained.get("seconds", 0.0) + time.perf_counter() - began,
        "threads": torch.get_num_threads(),
        "validation": trained.get("validation"),
        "signals": read_signals(run.folder / "log.jsonl") if run.trains == "elva" else {},
        "figures": figures,
    }
    run.folder.mkdir(parents=True, exist_ok=True)
    write_text(run.results, json.dumps(to_plain(stored), indent=1) + "\n")
    return stored


def load_trained(run: ElvaRun) -> UniversalEmbedder:
    """The embedder of a run that is trained, or of its start if it trains nothing, asked as the run says."""
    m = run.config.model
    base = embedder_folder(m.base) if run.trains == "none" else str(run.folder / "encoder")
    return load_embedder(base, config=replace(m.embedder, mode=run.mode), dtype=m.dtype, device=m.device)


def _train(run: ElvaRun) -> dict[str, Any]:
    """What the training's results.json holds; nothing for a run that trains nothing."""
    if run.trains == "none":
        return {}
    stored = run.folder / "results.json"
    if stored.is_file():
        require_made_so(run.folder, run.config, _WHERE_AND_HOW)
        return json.loads(stored.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    if isinstance(run.config, ElvaConfig):
        return train_elva(run.config, resume=True)
    return train_contrastive(run.config, resume=True)
