"""What a run of ELVA's tables is expected to cost, and where that figure comes from."""

from collections.abc import Mapping, Sequence

from fieldmark.experiments.elva.plan import PUBLISHED_QUERIES, ElvaTableConfig, PlannedRun
from fieldmark.experiments.elva.tables import EMOJI, FIELDGUIDE, MBEIR
from fieldmark.experiments.tables.costs import Estimate, estimate_cost, list_runs

MBEIR_TRAINING_QUERIES = 1_100_000
"""Of the published union, with its repetitions: steps are counted without reading it."""

_SMALL = {"elva": 8.0, "contrastive": 4.0, "none": 0.0}
SECONDS_PER_STEP: Mapping[str, Mapping[str, float]] = {
    FIELDGUIDE: _SMALL,
    EMOJI: _SMALL,
    MBEIR: {"elva": 60.0, "contrastive": 120.0, "none": 0.0},
}
MEASURING_SECONDS = {FIELDGUIDE: 90.0, EMOJI: 400.0, MBEIR: 40_000.0}
"""Loading, and the test's queries and pools."""
_ONE_CORE = "arithmetic from 25 ms for a training request and 30 ms for a summary on one core, not a measurement"
STATED = {
    FIELDGUIDE: f"{_ONE_CORE}; drawing a world and mining come on top, about 4 minutes for each seed",
    EMOJI: f"{_ONE_CORE}; mining comes on top",
    MBEIR: "arithmetic for one H200 and a 7B model, not a measurement; mining comes on top",
}


def estimate(planned: PlannedRun, everything: Sequence[PlannedRun], config: ElvaTableConfig) -> Estimate:
    """What a run is expected to cost: see `estimate_cost`."""
    return estimate_cost(
        planned,
        everything,
        seconds=_seconds,
        steps=num_steps,
        rate=SECONDS_PER_STEP[config.benchmark][planned.row.trains],
        around=MEASURING_SECONDS[config.benchmark],
    )


def num_steps(planned: PlannedRun) -> int:
    """Optimiser steps of a run, by the published number of queries where epochs count on M-BEIR; 0 if it is trained,
    and only has to be measured in another mode."""
    trained = (planned.run.folder / "results.json").is_file() and not planned.run.finished
    if planned.row.trains == "none" or trained:
        return 0
    c = planned.run.config
    if c.schedule.steps:
        return c.schedule.steps
    world = planned.place.world
    if planned.row.trains == "elva":
        queries = PUBLISHED_QUERIES if world is None else 4 * world.retrieval.train_queries
        return max(1, round(c.schedule.epochs * queries / c.queries_per_step))  # type: ignore[union-attr]
    queries = MBEIR_TRAINING_QUERIES if world is None else 4 * world.retrieval.train_queries
    return max(1, round(c.schedule.epochs * queries / c.batch_size))  # type: ignore[union-attr]


def listing(planned: Sequence[PlannedRun], config: ElvaTableConfig) -> str:
    """The runs, one a line, and what is missing: see `list_runs`."""
    return list_runs(
        planned,
        seconds=_seconds,
        estimate=lambda p: estimate(p, planned, config),
        stated=STATED[config.benchmark],
        limit=config.limit,
    )


def _seconds(planned: PlannedRun) -> float:
    return float(planned.run.read()["seconds"])
