"""What a run is expected to cost, and where that figure comes from."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from fieldmark.experiments.reproduce.plan import PlannedRun, ReproduceConfig
from fieldmark.experiments.reproduce.tables import FIELDGUIDE

TRAINING_IMAGES = {"cub": 5864, "cars": 8054, "aircraft": 5000, "inat": 37150}
"""Of the published splits: steps are counted without reading the archive."""

SECONDS_PER_STEP = {
    FIELDGUIDE: {"saga": 6.0, "metric": 0.9, "untrained": 0.0},
    "gpu": {"saga": 75.0, "metric": 1.5, "untrained": 0.0},
}
STATED = {
    FIELDGUIDE: "measured once on two cores (docs/log.md: 60 steps in 357 s and 55 s)",
    "gpu": "arithmetic for one H200 and an 8B supervisor, not a measurement",
}
EVALUATION_SECONDS = {FIELDGUIDE: 15.0, "gpu": 300.0}
"""Loading, validation and the test at the end, on top of the steps."""


@dataclass(frozen=True)
class Estimate:
    """Seconds, and how they were come by."""

    seconds: float
    basis: str


def estimate(planned: PlannedRun, everything: Sequence[PlannedRun], config: ReproduceConfig) -> Estimate:
    """The mean of finished runs of the same row; else of the same training by steps; else a stated figure."""
    same = [_seconds(p) for p in everything if p.row == planned.row and p.run.finished]
    if same:
        return Estimate(mean(same), f"{len(same)} finished of this row")
    steps = num_steps(planned, config)
    kind = [p for p in everything if p.row.trains == planned.row.trains and p.run.finished]
    if kind:
        figures = [_seconds(p) / max(1, num_steps(p, config)) for p in kind]
        return Estimate(mean(figures) * max(1, steps), f"{len(kind)} finished of the same training, by steps")
    where = FIELDGUIDE if config.benchmark == FIELDGUIDE else "gpu"
    rate = SECONDS_PER_STEP[where][planned.row.trains]
    return Estimate(
        steps * rate + EVALUATION_SECONDS[where],
        f"stated: {steps} steps of {rate:g} s and {EVALUATION_SECONDS[where]:g} s around them",
    )


def num_steps(planned: PlannedRun, config: ReproduceConfig) -> int:
    """Optimiser steps of a run, by the published number of training pictures where epochs count."""
    if planned.row.trains == "untrained":
        return 0
    c = planned.run.config
    if c.schedule.steps:
        return c.schedule.steps
    if planned.world is not None:
        images = round(planned.world.species * planned.world.train_share) * planned.world.per
    else:
        images = TRAINING_IMAGES[config.benchmark]
    return max(1, round(c.schedule.epochs * images * (1 - c.data.validation_fraction) / c.data.batch_size))


def listing(planned: Sequence[PlannedRun], config: ReproduceConfig) -> str:
    """The runs, one a line: state, row, seed, cost and its basis; and the sum of what is missing."""
    lines, total, listed = [], 0.0, set()
    for p in planned:
        if p.run.folder in listed:
            continue
        listed.add(p.run.folder)
        if p.run.finished:
            lines.append(f"finished   {p.row.key:<22} seed {p.seed:<6} {_clock(_seconds(p)):>9}  (measured)")
            continue
        cost = estimate(p, planned, config)
        total += cost.seconds
        state = "to go on" if (p.run.folder / "config.yaml").is_file() else "to run"
        lines.append(f"{state:<10} {p.row.key:<22} seed {p.seed:<6} {_clock(cost.seconds):>9}  ({cost.basis})")
    missing = sum(not line.startswith("finished") for line in lines)
    lines.append(f"\n{missing} of {len(lines)} runs to do, about {_clock(total)} one after the other")
    if any("(stated" in line for line in lines):
        lines.append(f"stated figures: {STATED[FIELDGUIDE if config.benchmark == FIELDGUIDE else 'gpu']}")
    if config.limit is not None:
        lines[-1] += f"; this call would do {min(config.limit, missing)}"
    return "\n".join(lines)


def _seconds(planned: PlannedRun) -> float:
    return float(json.loads((planned.run.folder / "results.json").read_text())["seconds"])


def _clock(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
