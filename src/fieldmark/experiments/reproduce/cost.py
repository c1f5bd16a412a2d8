"""What a run is expected to cost, and where that figure comes from."""

import json
from collections.abc import Sequence

from fieldmark.experiments.reproduce.plan import PlannedRun, ReproduceConfig
from fieldmark.experiments.reproduce.tables import FIELDGUIDE
from fieldmark.experiments.tables.costs import Estimate, estimate_cost, list_runs

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


def estimate(planned: PlannedRun, everything: Sequence[PlannedRun], config: ReproduceConfig) -> Estimate:
    """What a run is expected to cost: see `estimate_cost`."""
    where = FIELDGUIDE if config.benchmark == FIELDGUIDE else "gpu"
    return estimate_cost(
        planned,
        everything,
        seconds=_seconds,
        steps=lambda p: num_steps(p, config),
        rate=SECONDS_PER_STEP[where][planned.row.trains],
        around=EVALUATION_SECONDS[where],
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
    """The runs, one a line, and what is missing: see `list_runs`."""
    return list_runs(
        planned,
        seconds=_seconds,
        estimate=lambda p: estimate(p, planned, config),
        stated=STATED[FIELDGUIDE if config.benchmark == FIELDGUIDE else "gpu"],
        limit=config.limit,
    )


def _seconds(planned: PlannedRun) -> float:
    return float(json.loads(planned.run.results.read_text())["seconds"])
