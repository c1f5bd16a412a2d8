"""`make evidence`: the grid of methods x seeds x worlds behind docs/evidence, resumable run by run."""

import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.fieldguide import METHODS, Job, load_recipe, make_world, run_job

TITLES = {
    "untrained": "untrained tower, mean pooled",
    "metric_mean": "Potential Field, mean pooler",
    "metric": "Potential Field, attention pooler",
    "kl": "+ attention alignment (KL)",
    "grpo": "+ GRPO",
    "saga": "SAGA: + GRPO + KL",
    "saga_permuted_reward": "control: SAGA, rewards permuted",
    "oracle": "ceiling: true descriptions in place of rollouts",
    "wrong_descriptions": "control: true descriptions of other pictures",
}


@dataclass(frozen=True)
class EvidenceConfig:
    """Which runs."""

    out: str = "runs/evidence"
    """Runs and worlds; finished runs are not repeated."""
    docs: str = "docs/evidence"
    """Where the table goes."""
    seeds: tuple[int, ...] = (101, 102, 103)
    """World and training seeds: never used for development."""
    habitats: tuple[float, ...] = (1.0, 0.0)
    """ρ. The full grid runs at the first; the others run ``elsewhere`` only."""
    methods: tuple[str, ...] = (
        "saga",
        "metric",
        "saga_permuted_reward",
        "untrained",
        "metric_mean",
        "kl",
        "grpo",
        "oracle",
        "wrong_descriptions",
    )
    """In this order: most telling first."""
    elsewhere: tuple[str, ...] = ("metric", "metric_mean", "saga", "untrained")
    """Methods at the other values of ρ."""
    limit: int | None = None
    """Stop after so many new runs."""

    def __post_init__(self) -> None:
        unknown = [m for m in (*self.methods, *self.elsewhere) if m not in METHODS]
        if unknown:
            raise ValueError(f"unknown method {unknown[0]!r}; methods: {', '.join(METHODS)}")


def evidence_world(habitat: float, seed: int) -> FieldguideConfig:
    """The worlds of demo and evidence: 60 training and 100 test species, 24 pictures each."""
    return FieldguideConfig(species=160, per=24, nuisance=0.35, habitat=habitat, seed=seed, train_share=60 / 160)


def evidence_jobs(config: EvidenceConfig) -> list[tuple[float, Job]]:
    """(ρ, job) of every run, most telling first."""
    out = Path(config.out)
    jobs = []
    for number, habitat in enumerate(config.habitats):
        for method in config.methods if number == 0 else config.elsewhere:
            for seed in config.seeds:
                place = out / f"habitat-{habitat:g}" / f"seed-{seed}"
                jobs.append((habitat, Job(method, place / "world", place / method, seed)))  # type: ignore[arg-type]
    return jobs


def run_evidence(config: EvidenceConfig) -> list[dict[str, Any]]:
    """Run what is missing and write the table after every run; returns the rows of all finished runs."""
    recipe = load_recipe()
    new = 0
    for habitat, job in evidence_jobs(config):
        if not (job.run / "results.json").is_file():
            if config.limit is not None and new >= config.limit:
                break
            make_world(evidence_world(habitat, job.seed), job.world)
            print(f"== {job.method}, habitat {habitat:g}, seed {job.seed}")
            run_job(job, recipe)
            new += 1
            write_table(collect(config), config)
    rows = collect(config)
    write_table(rows, config)
    return rows


def collect(config: EvidenceConfig) -> list[dict[str, Any]]:
    """One row per finished run: habitat, seed, method and test figures."""
    rows = []
    for habitat, job in evidence_jobs(config):
        path = job.run / "results.json"
        if path.is_file():
            stored = json.loads(path.read_text())
            rows.append(
                {
                    "habitat": habitat,
                    "seed": job.seed,
                    "method": job.method,
                    **stored["test"],
                    "seconds": stored.get("seconds"),
                    "validation_recall_at_1": stored["validation"]["recall_at_1"],
                    "best_step": stored["validation"]["best_step"],
                }
            )
    return rows


def write_table(rows: Sequence[dict[str, Any]], config: EvidenceConfig) -> None:
    """Two files in docs/evidence, a table and its JSON: means over seeds, paired differences to Potential Field."""
    folder = Path(config.docs)
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        "# SAGA on Fieldguide",
        "",
        "Made by `make evidence` ("
        + ", ".join(f"seed {s}" for s in config.seeds)
        + "). Recall in percent on unseen species; "
        "mean ± sample standard deviation over seeds. *Difference*: R@1 minus the better of both Potential Field rows "
        "of the same seed.",
    ]
    for habitat in config.habitats:
        here = [r for r in rows if r["habitat"] == habitat]
        lines += [
            "",
            f"## Habitat dial ρ = {habitat:g}",
            "",
            "| method | R@1 | R@2 | MAP@R | NMI | difference | seeds | R@1 on validation | seconds |",
            "|---|---|---|---|---|---|---|---|---|",
        ]
        for method in config.methods if habitat == config.habitats[0] else config.elsewhere:
            mine = [r for r in here if r["method"] == method]
            if not mine:
                lines.append(f"| {TITLES[method]} | not run yet | | | | | | | |")
                continue
            gaps = [gap for r in mine if (gap := paired_difference(here, r)) is not None]
            columns = ("recall_at_1", "recall_at_2", "map_at_r", "nmi")
            cells = [
                TITLES[method],
                *(_spread(100 * r[column] for r in mine) for column in columns),
                _spread(gaps, sign=True) if gaps else "–",
                str(len(mine)),
                _spread(100 * r["validation_recall_at_1"] for r in mine),
                _spread((r["seconds"] or 0 for r in mine), digits=0),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    stored = {"config": asdict(config), "rows": list(rows)}
    for suffix, text in ((".md", "\n".join(lines)), (".json", json.dumps(stored, indent=1))):
        (folder / "fieldguide").with_suffix(suffix).write_text(text + "\n")


def paired_difference(rows: Iterable[dict[str, Any]], row: dict[str, Any]) -> float | None:
    """R@1 in points of ``row`` minus the better Potential Field of the same world and seed; None if that is missing."""
    baselines = [
        r["recall_at_1"]
        for r in rows
        if r["method"] in ("metric", "metric_mean") and r["seed"] == row["seed"] and r["habitat"] == row["habitat"]
    ]
    return 100 * (row["recall_at_1"] - max(baselines)) if baselines else None


def _spread(values: Iterable[float], sign: bool = False, digits: int = 1) -> str:
    numbers = list(values)
    form = f"{'+' if sign else ''}.{digits}f"
    spread = f" ± {statistics.stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{statistics.mean(numbers):{form}}{spread}"
