"""Which of a table's runs are done, and what the others are expected to cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Protocol, TypeVar

from fieldmark.experiments.tables.cells import clock
from fieldmark.experiments.tables.rows import Row


class AnyRun(Protocol):
    """A run of a table, done or not."""

    @property
    def results(self) -> Path:
        """The last file that it writes: two rows that ask for the same are one run."""

    @property
    def finished(self) -> bool: ...
    @property
    def begun(self) -> bool: ...


class Planned(Protocol):
    """A row with a seed, and its run."""

    @property
    def row(self) -> Row: ...
    @property
    def seed(self) -> int: ...
    @property
    def run(self) -> AnyRun: ...


AnyPlanned = TypeVar("AnyPlanned", bound=Planned)


@dataclass(frozen=True)
class Estimate:
    """Seconds, and how they were come by."""

    seconds: float
    basis: str


def estimate_cost(
    planned: AnyPlanned,
    everything: Sequence[AnyPlanned],
    *,
    seconds: Callable[[AnyPlanned], float],
    steps: Callable[[AnyPlanned], int],
    rate: float,
    around: float,
) -> Estimate:
    """The mean of finished runs of the same row; else of the same training by steps; else a stated figure.

    Args:
        seconds: of a finished run.
        steps: optimiser steps of a run.
        rate, around: stated seconds of one step, and of what is around the steps.
    """
    same = [seconds(p) for p in everything if p.row == planned.row and p.run.finished]
    if same:
        return Estimate(mean(same), f"{len(same)} finished of this row")
    asked = steps(planned)
    kind = [p for p in everything if p.row.trains == planned.row.trains and p.run.finished]
    if kind:
        figures = [seconds(p) / max(1, steps(p)) for p in kind]
        return Estimate(mean(figures) * max(1, asked), f"{len(kind)} finished of the same training, by steps")
    return Estimate(asked * rate + around, f"stated: {asked} steps of {rate:g} s and {around:g} s around them")


def list_runs(
    planned: Sequence[AnyPlanned],
    *,
    seconds: Callable[[AnyPlanned], float],
    estimate: Callable[[AnyPlanned], Estimate],
    stated: str,
    limit: int | None,
) -> str:
    """The runs, one a line: state, row, seed, cost and its basis; and the sum of what is missing.

    Args:
        seconds: of a finished run.
        stated: where stated figures come from.
        limit: most runs that this call would do.
    """
    lines, total, listed = [], 0.0, set()
    for p in planned:
        if p.run.results in listed:
            continue
        listed.add(p.run.results)
        if p.run.finished:
            lines.append(f"finished   {p.row.key:<22} seed {p.seed:<6} {clock(seconds(p)):>9}  (measured)")
            continue
        cost = estimate(p)
        total += cost.seconds
        state = "to go on" if p.run.begun else "to run"
        lines.append(f"{state:<10} {p.row.key:<22} seed {p.seed:<6} {clock(cost.seconds):>9}  ({cost.basis})")
    missing = sum(not line.startswith("finished") for line in lines)
    lines.append(f"\n{missing} of {len(lines)} runs to do, about {clock(total)} one after the other")
    if any("(stated" in line for line in lines):
        lines.append(f"stated figures: {stated}")
    if limit is not None:
        lines[-1] += f"; this call would do {min(limit, missing)}"
    return "\n".join(lines)


def missing_runs(planned: Sequence[AnyPlanned]) -> list[AnyPlanned]:
    """What is not finished, each run once, in order."""
    first: dict[Path, AnyPlanned] = {}
    for p in planned:
        if not p.run.finished:
            first.setdefault(p.run.results, p)
    return list(first.values())
