"""Columns of ELVA's tables: what is found among a run's figures, and how it is shown."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any

from fieldmark.data.multimodal.mbeir_layout import TaskName
from fieldmark.evaluation.mbeir import direction
from fieldmark.experiments.elva.measure import CANDIDATES
from fieldmark.experiments.elva.signals import SIGNALS
from fieldmark.experiments.tables.cells import spread

Find = Callable[[Mapping[str, Any]], float | None]
"""A run's figures → a number; None where it was not measured."""


@dataclass(frozen=True)
class Column:
    """A title, where its number is, and how it is shown: times ``factor``, with so many ``digits``."""

    title: str
    find: Find
    factor: float = 100
    digits: int = 1


@dataclass(frozen=True)
class Section:
    """Columns that are shown together."""

    title: str
    note: str
    columns: Callable[[Sequence[Mapping[str, Any]]], Sequence[Column]]


def shown_columns(section: Section, measured: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Those that some run has a number for."""
    figures = [r["figures"] for r in measured]
    return [c for c in section.columns(figures) if any(c.find(one) is not None for one in figures)]


def cells(columns: Sequence[Column], runs: Sequence[Mapping[str, Any]]) -> list[str]:
    """Mean and spread over the runs of a row; a dash where none has a number."""
    found = []
    for column in columns:
        values = [column.factor * value for r in runs if (value := column.find(r["figures"])) is not None]
        found.append(spread(values, digits=column.digits) if values else "–")
    return found


def signal_cells(runs: Sequence[Mapping[str, Mapping[str, float]]]) -> list[str]:
    """'0.21 → 0.34' for each of `SIGNALS`."""
    found = []
    for name in SIGNALS:
        both = [one[name] for one in runs if name in one]
        first, last = ([one[when] for one in both] for when in ("first", "last"))
        found.append(f"{mean(first):.3g} → {mean(last):.3g}" if both else "–")
    return found


def _at(*places: str) -> Find:
    def find(figures: Mapping[str, Any]) -> float | None:
        here: Any = figures
        for place in places:
            here = None if here is None else here.get(place)
        return None if here is None else float(here)

    return find


def _by_direction(figures: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Recall by what searches what; a collection with several data sets has the mean over them."""
    names = {TaskName.parse(name) for one in figures for name in one.get("recall", {})}
    columns = [Column("average", _at("average"))]
    for task in sorted({name.task for name in names}):
        title = direction(next(name for name in names if name.task == task))

        def find(one: Mapping[str, Any], task: int = task) -> float | None:
            found = [v["mean"] for name, v in one.get("recall", {}).items() if TaskName.parse(name).task == task]
            return mean(found) if found else None

        columns.append(Column(title, find))
    return [*columns, Column("MRBench", _at("mrbench", "average"))]


def _by_grains(figures: Sequence[Mapping[str, Any]]) -> list[Column]:
    levels = sorted({int(count) for one in figures for count in one.get("by_grains", {})})
    columns = [Column(f"{n} grain{'s' * (n > 1)}", _at("by_grains", str(n), "mean")) for n in levels]
    return [
        *columns,
        Column("2 and more", _at("multi_grain", "mean")),
        Column("distance, a grain dropped", _at("sensitivity", "distance"), 1, 3),
        Column("relative to unrelated", _at("sensitivity", "relative")),
        Column("grains satisfied by the 5 best", _at("compliance", "satisfied")),
        Column("near miss before match", _at("compliance", "misordered")),
    ]


def _milliseconds(part: str) -> Find:
    def find(figures: Mapping[str, Any]) -> float | None:
        cost = figures.get(part)
        return None if cost is None else 1000 * cost["seconds"] / cost["requests"]

    return find


def _of_summaries(figures: Sequence[Mapping[str, Any]]) -> list[Column]:
    names = [name for one in figures for name in one.get("truth", {}) if name != CANDIDATES]
    texts = sorted({name for name in names if TaskName.parse(name).task == 3})
    pictures = texts[0] if texts else CANDIDATES
    return [
        Column("true, of pictures asked with", _at("truth", pictures, "true")),
        Column("marks named", _at("truth", pictures, "named")),
        Column("true, of candidates", _at("truth", CANDIDATES, "true")),
        Column("unreadable", _at("truth", CANDIDATES, "unreadable")),
        Column("tokens, query", _at("queries", "tokens"), 1),
        Column("tokens, candidate", _at("candidates", "tokens"), 1),
        Column("forced", _at("candidates", "forced")),
        Column("ms, query", _milliseconds("queries"), 1),
        Column("ms, candidate", _milliseconds("candidates"), 1),
    ]


def _of_videos(figures: Sequence[Mapping[str, Any]]) -> list[Column]:
    columns = [Column(f"R@{k}", _at("video", f"recall_at_{k}")) for k in (1, 5, 10)]
    return [*columns, Column("median rank", _at("video", "median_rank"), 1)]


MEASURED: tuple[Section, ...] = (
    Section("Recall by direction", "Recall@5 in each task's own pool, test queries.", _by_direction),
    Section(
        "By grains",
        "Text → image. *Distance*: how far a query's embedding moves when one grain is dropped from its text; "
        "*relative*: in percent of the distance between unrelated queries. *Near miss*: lacks exactly one grain.",
        _by_grains,
    ),
    Section(
        "Summaries and cost",
        "*True*: of what summaries state, the share that holds; *marks named*: of what is known, the share that they "
        "state. Times are of embedding, pictures decoded in them, on a machine that did other work beside.",
        _of_summaries,
    ),
    Section("Text to video", "Every caption searches all videos.", _of_videos),
)
"""Sections below the table of the headline; one without any figure is left out."""
