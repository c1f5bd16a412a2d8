"""`make evidence`: the grid of methods x seeds x worlds behind docs/evidence, resumable run by run."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.evidence_table import stored_rows, write_table
from fieldmark.experiments.fieldguide import METHODS, Job, load_recipe, make_world, method_run
from fieldmark.experiments.run_names import placed, world_folder
from fieldmark.experiments.runs import Run, execute, in_processes


@dataclass(frozen=True)
class EvidenceConfig:
    """Which runs."""

    out: str = "runs/reproduce"
    """Runs and worlds, shared with `fieldmark reproduce`; finished runs are not repeated."""
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


@dataclass(frozen=True)
class EvidenceRun:
    """One run of the grid."""

    habitat: float
    method: str
    seed: int
    run: Run
    world: FieldguideConfig
    """What must be drawn at ``run.config.data.path`` first."""


def evidence_world(habitat: float, seed: int) -> FieldguideConfig:
    """The worlds of demo and evidence: 60 training and 100 test species, 24 pictures each."""
    return FieldguideConfig(species=160, per=24, nuisance=0.35, habitat=habitat, seed=seed, train_share=60 / 160)


def evidence_runs(config: EvidenceConfig) -> list[EvidenceRun]:
    """Every run, most telling first."""
    folder, recipe = Path(config.out) / "fieldguide", load_recipe()
    runs = []
    for habitat, methods in listed_methods(config).items():
        for method in methods:
            for seed in config.seeds:
                world = evidence_world(habitat, seed)
                job = Job(method, world_folder(folder, world), folder, seed)  # type: ignore[arg-type]
                runs.append(EvidenceRun(habitat, method, seed, placed(method_run(job, recipe), folder, world), world))
    return runs


def listed_methods(config: EvidenceConfig) -> dict[float, tuple[str, ...]]:
    """Methods by ρ: the full grid at the first, ``elsewhere`` at the others."""
    return {h: config.methods if i == 0 else config.elsewhere for i, h in enumerate(config.habitats)}


def run_evidence(config: EvidenceConfig) -> list[dict[str, Any]]:
    """Run what is missing and write the table after every run; returns its rows.

    A run that fails ends the whole; those beside it are finished first and kept.
    """
    missing = [r for r in evidence_runs(config) if not r.run.finished][: config.limit]
    done = 0
    for habitat in config.habitats:
        here = {r.run.folder: r for r in missing if r.habitat == habitat}
        for path, world in {r.run.config.data.path: r.world for r in here.values()}.items():
            print(f"world: habitat {habitat:g}, seed {world.seed}", flush=True)
            make_world(world, Path(path))
        for run, outcome in in_processes([r.run for r in here.values()], execute, config.processes):
            one, done = here[run.folder], done + 1
            print(
                f"\n[{done}/{len(missing)}] habitat {habitat:g}, seed {one.seed}, {one.method}: "
                f"R@1 {100 * outcome['test']['recall_at_1']:.1f} %",
                flush=True,
            )
            _write(config)
    _write(config)
    return collect(config)


def collect(config: EvidenceConfig) -> list[dict[str, Any]]:
    """One row per run of the grid: habitat, seed, method, the run's name and its test figures.

    A run that is not finished here keeps the row that the table in ``docs`` has of it, if that was the same run:
    finished elsewhere, with this recipe, this bundled model and this world.
    """
    kept = {(r["habitat"], r["seed"], r["method"], r.get("run")): r for r in stored_rows(Path(config.docs))}
    rows = []
    for one in evidence_runs(config):
        name = one.run.folder.parent.name
        if one.run.finished:
            stored = json.loads((one.run.folder / "results.json").read_text())
            rows.append(
                {
                    "habitat": one.habitat,
                    "seed": one.seed,
                    "method": one.method,
                    "run": name,
                    **stored["test"],
                    "seconds": stored["seconds"],
                    "threads": stored["threads"],
                    "validation_recall_at_1": stored["validation"]["recall_at_1"],
                    "best_step": stored["validation"]["best_step"],
                }
            )
        elif (row := kept.get((one.habitat, one.seed, one.method, name))) is not None:
            rows.append(dict(row))
    return rows


def _write(config: EvidenceConfig) -> None:
    rows: Sequence[dict[str, Any]] = collect(config)
    seeds = ", ".join(str(s) for s in config.seeds)
    threads = sorted({r["threads"] for r in rows})
    intro = (
        f"Made by `make evidence`: seeds {seeds} of world and training; *seconds* are those of one run on "
        f"{' or '.join(map(str, threads)) or 'no'} thread{'' if threads == [1] else 's'}, {config.processes} at a time."
    )
    write_table(rows, listed_methods(config), Path(config.docs), intro, asdict(config))
