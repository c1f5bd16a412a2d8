"""Figures that a publication prints, to stand beside ours. Nothing here is measured by Fieldmark."""

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """One printed figure."""

    table: str
    row: str
    benchmark: str
    metric: str
    """As in a run's results."""
    percent: float
    spread: float | None = None
    """The publication's ±."""

    def as_text(self) -> str:
        """'87.9 ± 0.3'."""
        return f"{self.percent:.1f}" + ("" if self.spread is None else f" ± {self.spread:.1f}")


class PrintedFigures:
    """What one publication prints. paper: its name and number. figures: in its order."""

    def __init__(self, paper: str, figures: Iterable[Published]) -> None:
        self.paper, self.figures = paper, tuple(figures)
        self._by_place = {(p.table, p.row, p.benchmark, p.metric): p for p in self.figures}

    def find(self, table: str, row: str, benchmark: str, metric: str) -> Published | None:
        """The printed figure of a row, or None if the publication has none (or our copy of it lost it)."""
        return self._by_place.get((table, row, benchmark, metric))

    def benchmarks(self, table: str) -> tuple[str, ...]:
        """Benchmarks for which the publication prints rows of this table, in its order."""
        return tuple(dict.fromkeys(p.benchmark for p in self.figures if p.table == table))

    def of_table(self, table: str) -> tuple[Published, ...]:
        """Every figure of a table."""
        return tuple(p for p in self.figures if p.table == table)
