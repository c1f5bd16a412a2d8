"""Section "Result": what every embedder reaches, how sure that is, and what may be concluded."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fieldmark.evaluation.retrieval import Interval, bootstrap_interval
from fieldmark.report.charts import IntervalRow, data_table, interval_chart
from fieldmark.report.elva.inputs import ROLE_WORDS, ElvaReport, EmbedderRow
from fieldmark.report.html import Html, el, join
from fieldmark.report.measure import points, signed
from fieldmark.report.page import Section, missing, verdict
from fieldmark.report.svg import marker_icon

Figures = Mapping[str, Any]

_TASKS = {"0": "t→i", "1": "t→t", "2": "t→i,t", "3": "i→t", "4": "i→i", "6": "i,t→t", "7": "i,t→i", "8": "i,t→i,t"}


def result_section(report: ElvaReport, styles: Mapping[str, str]) -> Section:
    """Sentences, charts, tables."""
    rows = [row for row in report.rows if row.figures]
    if not rows:
        nothing = missing("No row brings figures. `fieldmark evaluate mrbench` measures an embedder.")
        return Section("result", "Result", "", join(nothing, _roles(report.rows, styles)))
    queries = {(_get(row.figures, "multi_grain", "queries") or 0) for row in rows}
    asked = f"{max(queries)} text queries of two parts (grains) and more" if max(queries) else "Text queries"
    lead = (
        f"{asked}, whose combinations of parts and whose species no training has seen. R@5 is the share of queries "
        "with something right among the five best. Grain sensitivity is how far a query's embedding moves when one "
        "part is dropped, relative to the distance between unrelated queries, so that spreading everything out does "
        "not count."
    )
    charts = [
        _chart(rows, styles, "R@5, several grains", "multi_grain", _recall),
        _chart(rows, styles, "R@5, a single grain", "single_grain", _recall),
        _chart(rows, styles, "Grain sensitivity, relative", "sensitivity", _sensitivity),
        _chart(rows, styles, "Grains that the five best satisfy", "compliance", _compliance),
    ]
    body = [
        _verdict(report, rows),
        el("div", [chart for chart in charts if chart is not None], class_="columns"),
        _recall_table(rows),
        _grain_table(rows),
        _cost_table(rows),
        _roles(report.rows, styles),
    ]
    return Section("result", "Result", lead, join(body))


def paired_difference(one: EmbedderRow, other: EmbedderRow, seed: int) -> Interval | None:
    """Mean over queries of several grains of ``one − other`` in Recall@5; None if one has no hits."""
    first, second = (row.figures.get("multi_grain_hits") for row in (one, other))
    if not first or not second:
        return None
    return bootstrap_interval([a - b for a, b in zip(first, second, strict=True)], seed)


def _verdict(report: ElvaReport, rows: Sequence[EmbedderRow]) -> Html:
    """What the figures say, in sentences that do not say more."""
    methods: list[tuple[list[str | Html], list[Html]]] = []
    for one in rows:
        value = _get(one.figures, "multi_grain", "mean")
        if one.role != "method" or value is None:
            continue
        clauses = [clause for other in rows if other is not one and (clause := _clause(report, one, other))]
        head: list[str | Html] = [el("strong", one.title), f" finds {points(value)} % of the queries of several grains"]
        methods.append((head, clauses))
    caveat = (
        "Differences are taken query by query; intervals are at 95 % and resample the queries: they say how far a "
        "figure could move with other queries, not with another training seed."
    )
    return verdict(methods, caveat)


def _clause(report: ElvaReport, one: EmbedderRow, other: EmbedderRow) -> Html | None:
    found = paired_difference(one, other, report.seed)
    base = _get(other.figures, "multi_grain", "mean")
    if found is None or base is None:
        return None
    verdict = "higher" if found.low > 0 else "lower" if found.high < 0 else "open"
    words = {"higher": "higher by", "lower": "lower by", "open": "not distinguishable:"}[verdict]
    size = signed(found.mean) if verdict == "open" else points(abs(found.mean))
    relative = f", {signed(found.mean / base)} % relative" if base and verdict != "open" else ""
    meaning = {
        ("control", "higher"): ": this much is owed to the signal that the control lacks",
        ("control", "open"): ": what it gains cannot be credited to the signal that the control lacks",
        ("control", "lower"): ": the signal that the control lacks does harm here",
    }.get((other.role, verdict), "")
    interval = f"{signed(found.low)} to {signed(found.high)}"
    return el(
        "li",
        "against ",
        el("b", other.title),
        f" ({other.role}), {words} {size} points ({interval}){relative}{meaning}",
        class_=f"reads-{verdict}",
    )


# ---- charts and tables


def _chart(
    rows: Sequence[EmbedderRow],
    styles: Mapping[str, str],
    title: str,
    key: str,
    read: Callable[[Figures], tuple[float, float, float]],
) -> Html | None:
    shown = []
    for row in rows:
        found = row.figures.get(key)
        if found is not None:
            value, low, high = read(found)
            shown.append(IntervalRow(row.title, styles[row.name], row.role, value, low, high, f"{points(value)} %"))
    if not shown:
        return None
    chart = interval_chart(shown, summary=f"{title}, with 95 % intervals.", reference=None, unit="%")
    return el("figure", el("figcaption", el("b", title)), chart)


def _recall(found: Figures) -> tuple[float, float, float]:
    return found["mean"], found["low"], found["high"]


def _sensitivity(found: Figures) -> tuple[float, float, float]:
    return found["relative"], *found["relative_interval"]


def _compliance(found: Figures) -> tuple[float, float, float]:
    return found["satisfied"], *found["interval"]


def _recall_table(rows: Sequence[EmbedderRow]) -> Html:
    counts = sorted({int(count) for row in rows for count in row.figures.get("by_grains", {})})
    tasks = list(dict.fromkeys(task for row in rows for task in row.figures.get("recall", {})))
    cells = [
        [
            row.title,
            *(_percent(_get(row.figures, "by_grains", str(count), "mean")) for count in counts),
            *(_percent(_get(row.figures, "recall", task, "mean")) for task in tasks),
            _percent(row.figures.get("average")),
        ]
        for row in rows
    ]
    heads = [
        "R@5 in %",
        *(f"{count} grain{'s' * (count > 1)}" for count in counts),
        *map(_task, tasks),
        "Mean of tasks",
    ]
    return data_table("Recall at 5 by number of grains and by task, in percent", heads, cells)


def _grain_table(rows: Sequence[EmbedderRow]) -> Html:
    heads = [
        "Grains", "distance, one dropped", "relative", "satisfied by the 5 best", "by chance", "near miss before match",
        "true statements, queries", "candidates", "grains named",
    ]  # fmt: skip
    cells = []
    for row in rows:
        f = row.figures
        truths = [one for name, one in (f.get("truth") or {}).items() if name != "candidates"]
        cells.append(
            [
                row.title,
                _plain(_get(f, "sensitivity", "distance"), 3),
                _percent(_get(f, "sensitivity", "relative")),
                _percent(_get(f, "compliance", "satisfied")),
                _percent(_get(f, "compliance", "random")),
                _percent(_get(f, "compliance", "misordered")),
                _percent(_mean([one.get("true") for one in truths])),
                _percent(_get(f, "truth", "candidates", "true")),
                _percent(_mean([one.get("named") for one in truths])),
            ]
        )
    return data_table("How every part of a query is heard, in percent but for the distance", heads, cells)


def _cost_table(rows: Sequence[EmbedderRow]) -> Html:
    heads = ["Cost", "ms a query", "ms a candidate", "tokens a summary", "forced endings"]
    cells = []
    for row in rows:
        f = row.figures
        times = [
            1000 * one["seconds"] / one["requests"] if (one := f.get(key)) and one["requests"] else None
            for key in ("queries", "candidates")
        ]
        cells.append(
            [
                row.title,
                *(_plain(one, 1) for one in times),
                _plain(_get(f, "queries", "tokens"), 1),
                _percent(_get(f, "queries", "forced")),
            ]
        )
    return data_table("What an embedding costs", heads, cells, fold="What an embedding costs")


def _roles(rows: Sequence[EmbedderRow], styles: Mapping[str, str]) -> Html:
    """What each row is, and how it was made."""
    items = []
    for row in rows:
        icon = el("span", marker_icon(row.role), class_=styles[row.name])
        note = f" {row.note}" if row.note else ""
        items += [
            el("dt", icon, row.title, el("span", row.role, class_="role")),
            el("dd", f"{ROLE_WORDS[row.role].capitalize()}.{note}"),
        ]
    return el("dl", items, class_="roles")


def _get(figures: Figures, *path: str) -> Any:
    value: Any = figures
    for key in path:
        if value is None:
            return None
        value = value.get(key)
    return value


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _percent(value: float | None) -> str:
    return "–" if value is None else points(value)


def _plain(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"


def _task(name: str) -> str:
    """ "fieldguide_task7" → "i,t→i"."""
    return _TASKS.get(name.rsplit("_task", 1)[-1], name)
