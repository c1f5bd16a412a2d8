"""`make evidence`: the grid of methods x seeds x worlds behind docs/evidence, resumable run by run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.evidence_table import write_table
from fieldmark.experiments.fieldguide import METHODS, Job, load_recipe, make_world, run_job
from fieldmark.experiments.runs import in_processes


@dataclass(frozen=True)
class EvidenceConfig:
    """Which runs."""

    out: str = "runs/evidence"
    """Runs and worlds; finished runs are not repeated."""
    docs: str = "docs/evidence"
    """Where the table goes."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """World and training seeds: never used for development."""
    habitats: tuple[float, ...] = (0.8, 0.0, 1.0)
    """ρ. The full grid runs at the first; the others run ``elsewhere`` only."""
    methods: tuple[str, ...] = (
        "saga",
        "metric",
        "metric_mean",
        "saga_permuted_reward",
        "untrained",
        "oracle",
        "kl",
        "grpo",
        "wrong_descriptions",
    )
    """In this order: most telling first."""
    elsewhere: tuple[str, ...] = ("metric", "metric_mean", "saga", "untrained")
    """Methods at the other values of ρ."""
    processes: int = 2
    """Runs at a time, each with its share of the processor's threads: models as small as the bundled one finish sooner
    as two runs of one thread than one after the other with two."""
    limit: int | None = None
    """Stop after so many new runs."""

    def __post_init__(self) -> None:
        unknown = [m for m in (*self.methods, *self.elsewhere) if m not in METHODS]
        if unknown:
            raise ValueError(f"unknown method {unknown[0]!r}; methods: {', '.join(METHODS)}")
        if self.processes < 1:
            raise ValueError(f"processes must be at least 1, got {self.processes}")


def evidence_world(habitat: float, seed: int) -> FieldguideConfig:
    """The worlds of demo and evidence: 60 training and 100 test species, 24 pictures each."""
    return FieldguideConfig(species=160, per=24, nuisance=0.35, habitat=habitat, seed=seed, train_share=60 / 160)


def evidence_jobs(config: EvidenceConfig) -> list[tuple[float, Job]]:
    """(ρ, job) of every run, most telling first."""
    out = Path(config.out)
    jobs = []
    for habitat, methods in listed_methods(config).items():
        for method in methods:
            for seed in config.seeds:
                place = out / f"habitat-{habitat:g}" / f"seed-{seed}"
                jobs.append((habitat, Job(method, place / "world", place / method, seed)))  # type: ignore[arg-type]
    return jobs


def listed_methods(config: EvidenceConfig) -> dict[float, tuple[str, ...]]:
    """Methods by ρ: the full grid at the first, ``elsewhere`` at the others."""
    return {h: config.methods if i == 0 else config.elsewhere for i, h in enumerate(config.habitats)}


def run_evidence(config: EvidenceConfig) -> list[dict[str, Any]]:
    """Run what is missing and write the table after every run; returns the rows of all finished runs.

    A run that fails ends the whole; those beside it are finished first and kept.
    """
    missing = [(h, job) for h, job in evidence_jobs(config) if not _finished(job)][: config.limit]
    done = 0
    for habitat in config.habitats:
        jobs = [job for h, job in missing if h == habitat]
        for world, seed in {job.world: job.seed for job in jobs}.items():
            print(f"world: habitat {habitat:g}, seed {seed}", flush=True)
            make_world(evidence_world(habitat, seed), world)
        for job, outcome in in_processes(jobs, partial(run_job, recipe=load_recipe()), config.processes):
            test, done = outcome["test"], done + 1
            print(
                f"\n[{done}/{len(missing)}] habitat {habitat:g}, seed {job.seed}, {job.method}: "
                f"R@1 {100 * test['recall_at_1']:.1f} %",
                flush=True,
            )
            _write(config)
    _write(config)
    return collect(config)


def collect(config: EvidenceConfig) -> list[dict[str, Any]]:
    """One row per finished run: habitat, seed, method and test figures."""
    rows = []
    for habitat, job in evidence_jobs(config):
        if _finished(job):
            stored = json.loads((job.run / "results.json").read_text())
            rows.append(
                {
                    "habitat": habitat,
                    "seed": job.seed,
                    "method": job.method,
                    **stored["test"],
                    "seconds": stored["seconds"],
                    "threads": stored["threads"],
                    "validation_recall_at_1": stored["validation"]["recall_at_1"],
                    "best_step": stored["validation"]["best_step"],
                }
            )
    return rows


def _finished(job: Job) -> bool:
    return (job.run / "results.json").is_file()


def _write(config: EvidenceConfig) -> None:
    rows: Sequence[dict[str, Any]] = collect(config)
    seeds = ", ".join(str(s) for s in config.seeds)
    threads = sorted({r["threads"] for r in rows})
    intro = (
        f"Made by `make evidence`: seeds {seeds} of world and training; *seconds* are those of one run on "
        f"{' or '.join(map(str, threads)) or 'no'} thread{'' if threads == [1] else 's'}, {config.processes} at a time."
    )
    write_table(rows, listed_methods(config), Path(config.docs), intro, asdict(config))
