"""Two rows of a table, seed by seed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fieldmark.experiments.elva.tables import FIELDGUIDE, HEADLINES, Figures, Row, Table

Measured = Mapping[str, Any]
"""A finished run: row, label, seed, run, and what it stored (`runs.execute`)."""


@dataclass(frozen=True)
class Comparison:
    """What one row has above another, by seed that both have; a figure that one lacks is left out.

    Attributes:
        points: of the table's headline, times 100.
        relative: the same in percent of the other row's.
        sensitivity: grain sensitivity relative to unrelated queries, as a multiple of the other row's.
        single_grain: points of Recall@5 on queries of one grain.
    """

    points: tuple[float, ...]
    relative: tuple[float, ...]
    sensitivity: tuple[float, ...]
    single_grain: tuple[float, ...]


def compare(table: Table, benchmark: str, measured: Sequence[Measured], row: Row, other: Row) -> Comparison:
    """One row against another."""
    headline = _paired(table, benchmark, measured, row, other, HEADLINES[table.gains_in(benchmark)][1])
    heard = _paired(table, benchmark, measured, row, other, _sensitivity)
    single = _paired(table, benchmark, measured, row, other, _single_grain)
    return Comparison(
        tuple(100 * (one - base) for one, base in headline),
        tuple(100 * (one / base - 1) for one, base in headline if base),
        tuple(one / base for one, base in heard if base),
        tuple(100 * (one - base) for one, base in single),
    )


def _paired(
    table: Table,
    benchmark: str,
    measured: Sequence[Measured],
    row: Row,
    other: Row,
    find: Callable[[Figures], float | None],
) -> list[tuple[float, float]]:
    """(a row's, the other's) by seed; a start that is measured once counts for every seed."""
    values: list[dict[int, float]] = []
    for one in (row, other):
        found = {r["seed"]: find(r["figures"]) for r in measured if r["row"] == one.key}
        values.append({seed: value for seed, value in found.items() if value is not None})
    mine, base = values
    if other.trains == "none" and benchmark != FIELDGUIDE and len(base) == 1:
        base = dict.fromkeys(mine, next(iter(base.values())))
    return [(value, base[seed]) for seed, value in sorted(mine.items()) if seed in base]


def _sensitivity(figures: Figures) -> float | None:
    found = figures.get("sensitivity")
    return None if found is None else float(found["relative"])


def _single_grain(figures: Figures) -> float | None:
    found = figures.get("single_grain")
    return None if found is None else float(found["mean"])
