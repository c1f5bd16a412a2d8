"""`make demo`: SAGA against what a user would do without it, with its control and its ceiling, on the bundled world."""

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fieldmark.data.fieldguide.world import FieldguideConfig
from fieldmark.experiments.evidence import evidence_world
from fieldmark.experiments.evidence_table import TITLES
from fieldmark.experiments.fieldguide import Job, load_recipe, make_world, run_job
from fieldmark.experiments.run_reports import report_runs
from fieldmark.training.run_folder import versions, write_text

DEMO_METHODS = ("untrained", "metric_mean", "metric", "saga", "saga_permuted_reward", "oracle")
DEMO_HABITAT = 0.8
"""ρ: four training pictures in five show the species' own habitat. At 1 the metric loss is fully content with habitats,
at 0 there is no shortcut; docs/evidence has both."""


@dataclass(frozen=True)
class DemoConfig:
    """The demo."""

    out: str = "runs/demo"
    """Folder of the world, the runs, report.html and results.json. Finished runs are not repeated."""
    seed: int = 0
    """World and training seed."""
    short: bool = False
    """A pass of a minute through everything, on a handful of species: for tests, its figures mean nothing."""


def run_demo(config: DemoConfig) -> Path:
    """Run every method, write results.json and report.html; returns the report's path."""
    out, began = Path(config.out), time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    recipe = load_recipe()
    world_config: FieldguideConfig = evidence_world(DEMO_HABITAT, config.seed)
    if config.short:
        world_config = replace(world_config, species=16, per=6, train_share=0.625)
        recipe = replace(
            recipe,
            data=replace(recipe.data, batch_size=12, workers=0),
            pairs=replace(recipe.pairs, pairs_per_round=4),
            rollouts=replace(recipe.rollouts, group_size=4),
            schedule=replace(recipe.schedule, steps=2, validate_every=1, checkpoint_every=1),
        )
    print(f"Drawing {world_config.species} species of birds, {world_config.per} pictures each …", flush=True)
    world = make_world(world_config, out / "world")
    rows: list[dict[str, Any]] = []
    for number, method in enumerate(DEMO_METHODS, start=1):
        print(f"[{number}/{len(DEMO_METHODS)}] {TITLES[method]}", flush=True)
        outcome = run_job(Job(method, world, out / method, config.seed), recipe)  # type: ignore[arg-type]
        rows.append({"run": method, **outcome})
        print(f"      Recall@1 on unseen species: {100 * outcome['test']['recall_at_1']:.1f} %", flush=True)
    summary = summarise(rows, config, world_config, time.perf_counter() - began)
    write_text(out / "results.json", json.dumps(summary, indent=2) + "\n")
    report = report_runs(
        [out / method for method in DEMO_METHODS],
        out / "report.html",
        baseline=summary["baseline"],
        title="SAGA on Fieldguide",
        settings={key: summary[key] for key in ("seed", "world", "versions", "command", "seconds")},
    )
    print(f"\n{_table(summary)}\n\nReport: {report}\nFigures: {out / 'results.json'}")
    print(f"Search its pictures in the browser: make serve-demo (or fieldmark demo serve --out {out})")
    return report


def summarise(
    rows: list[dict[str, Any]], config: DemoConfig, world: FieldguideConfig, seconds: float
) -> dict[str, Any]:
    """results.json: one row per method; ``potential_field`` is its better pooler on the validation classes."""
    by_run = {row["run"]: row for row in rows}
    baseline = max(("metric_mean", "metric"), key=lambda m: by_run[m]["validation"]["recall_at_1"])
    names = {
        "untrained": "untrained",
        baseline: "potential_field",
        "saga": "saga",
        "saga_permuted_reward": "saga_permuted_reward",
        "oracle": "oracle",
    }
    other = "metric" if baseline == "metric_mean" else "metric_mean"
    names[other] = "potential_field_other_pooler"
    return {
        "rows": [
            {
                "method": names[row["run"]],
                "run": row["run"],
                **row["test"],
                "validation_recall_at_1": row["validation"]["recall_at_1"],
                "steps": row["steps"],
                "pictures_seen": row["pictures_seen"],
                "seconds": row["seconds"],
            }
            for row in rows
        ],
        "baseline": baseline,
        "baseline_chosen_by": "Recall@1 on the validation part of the training species",
        "seed": config.seed,
        "world": vars(world).copy(),
        "versions": versions(),
        "command": f"fieldmark demo --out {config.out} --seed {config.seed}" + (" --short" if config.short else ""),
        "seconds": seconds,
    }


def _table(summary: dict[str, Any]) -> str:
    lines = [f"{'method':<32}{'R@1':>7}{'R@2':>7}{'MAP@R':>8}{'NMI':>7}"]
    for row in summary["rows"]:
        lines.append(
            f"{row['method']:<32}{100 * row['recall_at_1']:>7.1f}{100 * row['recall_at_2']:>7.1f}"
            f"{100 * row['map_at_r']:>8.1f}{100 * row['nmi']:>7.1f}"
        )
    return "\n".join(lines)
