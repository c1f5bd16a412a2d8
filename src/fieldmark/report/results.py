"""Section "Result": who stands where, how sure that is, and what may be concluded."""

from collections.abc import Sequence

from fieldmark.evaluation.retrieval import Interval
from fieldmark.report.charts import IntervalRow, data_table, interval_chart
from fieldmark.report.html import Html, el, join
from fieldmark.report.inputs import ROLE_WORDS, Report
from fieldmark.report.measure import (
    METRIC_TITLES,
    METRICS,
    Figure,
    Measured,
    baseline_of,
    paired_difference,
    points,
    signed,
)
from fieldmark.report.page import Section, missing, verdict
from fieldmark.report.svg import marker_icon

R1 = "recall_at_1"


def result_section(report: Report, measured: Sequence[Measured]) -> Section:
    """Sentences, charts, table, comparisons."""
    baseline = baseline_of(report, measured)
    differences = {
        one.method.name: paired_difference(one, baseline, R1, report.seed)
        for one in measured
        if baseline is not None and one is not baseline
    }
    body = [
        _verdict(report, measured, baseline),
        el(
            "div",
            _recall_chart(measured, baseline),
            _difference_chart(measured, differences, baseline),
            class_="columns",
        ),
        _table(measured, baseline, differences),
        _roles(measured),
        _comparisons(report, measured),
    ]
    queries = {one.result.metrics.num_queries for one in measured if one.result is not None}
    asked = f"{next(iter(queries))} pictures" if len(queries) == 1 else f"{len(report.test)} pictures"
    lead = (
        f"{asked} of {report.test.num_classes} classes that no method has seen in training. Each picture "
        "asks for its like among all the others; R@1 is the share whose nearest neighbour is of the same "
        "class."
    )
    return Section("result", "Result", lead, join(body))


def _verdict(report: Report, measured: Sequence[Measured], baseline: Measured | None) -> Html:
    """What the figures say, in sentences that do not say more."""
    methods: list[tuple[list[str | Html], list[Html]]] = []
    for one in measured:
        if one.method.role != "method" or R1 not in one.figures:
            continue
        parts: list[str | Html] = [el("strong", one.title), f" reaches R@1 {points(one.figures[R1].value)} %"]
        others = [m for m in measured if m is baseline or m.method.role in ("control", "start", "ceiling")]
        clauses = [clause for other in others if (clause := _clause(report, one, other))]
        methods.append((parts, clauses))
    caveat = (
        "Intervals are at 95 % and resample whole classes: they say how far a figure could move with other "
        "classes, not with another training seed."
    )
    return verdict(methods, caveat)


def _clause(report: Report, one: Measured, other: Measured) -> Html | None:
    difference = paired_difference(one, other, R1, report.seed)
    if difference is None:
        return None
    role = other.method.role
    name = {
        "baseline": "the baseline",
        "control": "the control",
        "start": "the start",
        "ceiling": "the ceiling",
        "method": "the method",
    }[role]
    verdict = _read(difference)
    meaning = {
        ("control", "higher"): ": this much of its place is owed to the signal that the control lacks",
        ("control", "open"): ": what it gains cannot be credited to the signal that the control lacks",
        ("control", "lower"): ": the signal that the control lacks does harm here",
        ("start", "lower"): ": training made unseen classes harder to tell apart",
    }.get((role, verdict), "")
    words = {"higher": "higher by", "lower": "lower by", "open": "not distinguishable:"}[verdict]
    size = signed(difference.mean) if verdict == "open" else points(abs(difference.mean))
    return el(
        "li",
        f"against {name} ",
        el("b", other.title),
        f", {words} {size} points ({_interval(difference)}){meaning}",
        class_=f"reads-{verdict}",
    )


def _read(difference: Interval) -> str:
    return "higher" if difference.low > 0 else "lower" if difference.high < 0 else "open"


def _interval(interval: Interval) -> str:
    return f"{signed(interval.low)} to {signed(interval.high)}"


def _recall_chart(measured: Sequence[Measured], baseline: Measured | None) -> Html:
    rows = [
        IntervalRow(m.title, m.style, m.method.role, f.value, f.low, f.high, f"{points(f.value)} %")
        for m in measured
        if (f := m.figures.get(R1)) is not None
    ]
    if not rows:
        return missing("No row has a figure for R@1.")
    line = baseline.figures[R1].value if baseline is not None and R1 in baseline.figures else None
    chart = interval_chart(rows, summary="R@1 with 95 % intervals.", reference=line, unit="%")
    return _figure("R@1 on unseen classes", "The upright line is the baseline." if line is not None else "", chart)


def _difference_chart(
    measured: Sequence[Measured], differences: dict[str, Interval | None], baseline: Measured | None
) -> Html:
    rows = [
        IntervalRow(m.title, m.style, m.method.role, d.mean, d.low, d.high, signed(d.mean))
        for m in measured
        if (d := differences.get(m.method.name)) is not None
    ]
    if baseline is None or not rows:
        return missing("Paired differences need a baseline and the encoders of both rows; they are left out.")
    chart = interval_chart(rows, summary=f"R@1 minus that of {baseline.title}.", reference=0.0, unit="points")
    return _figure(
        f"Difference to {baseline.title}",
        "Query by query, so narrower than the two intervals beside it.",
        chart,
    )


def _figure(title: str, note: str, chart: Html) -> Html:
    return el("figure", el("figcaption", el("b", title), f" {note}" if note else None), chart)


def _table(measured: Sequence[Measured], baseline: Measured | None, differences: dict[str, Interval | None]) -> Html:
    columns = [name for name in METRICS if any(name in m.figures for m in measured)]
    rivals = [m for m in measured if m.method.role != "ceiling"]
    best = {
        name: max(f.value for m in rivals if (f := m.figures.get(name)))
        for name in columns
        if any(name in m.figures for m in rivals)
    }
    head = [
        el("th", "Method", scope="col"),
        *(el("th", METRIC_TITLES[name], scope="col") for name in columns),
    ]
    if baseline is not None:
        head.append(el("th", f"R@1 − {baseline.title}", scope="col"))
    body = []
    for one in measured:
        icon = el("span", marker_icon(one.method.role), class_=one.style)
        name = el("th", icon, el("b", one.title), el("small", one.method.role), scope="row")
        cells = [
            _cell(one.figures.get(column), one in rivals and _is_best(one.figures.get(column), best.get(column)))
            for column in columns
        ]
        if baseline is not None:
            difference = differences.get(one.method.name)
            cells.append(
                el(
                    "td",
                    "–" if one is baseline or difference is None else signed(difference.mean),
                    None if difference is None else el("small", _interval(difference)),
                )
            )
        body.append(el("tr", name, cells, class_=f"role-{one.method.role}"))
    caption = "Retrieval and clustering on the test classes, in percent, with 95 % intervals over classes"
    table = el(
        "table",
        el("caption", caption, class_="visually-hidden"),
        el("thead", el("tr", head)),
        el("tbody", body),
        class_="results",
    )
    legend = (
        "All in percent. Below each figure its 95 % interval over classes (NMI: ± spread over k-means "
        "seeds). ★ best of its column; ceilings do not compete, controls do."
    )
    remarks = [el("p", f"{one.title}: {one.remark}.", class_="missing") for one in measured if one.remark]
    return join(
        el("div", table, class_="scroll", role="region", aria_label=caption, tabindex=0),
        el("p", legend, class_="small"),
        remarks,
    )


def _is_best(figure: Figure | None, best: float | None) -> bool:
    return figure is not None and best is not None and figure.value >= best - 1e-9


def _cell(figure: Figure | None, best: bool) -> Html:
    if figure is None:
        return el("td", "–")
    below = None
    if figure.low is not None and figure.high is not None:
        below = f"{points(figure.low)}–{points(figure.high)}"
    elif figure.spread is not None:
        below = f"± {points(figure.spread)}"
    star = (
        join(" ", el("span", "★", aria_hidden="true"), el("span", "best", class_="visually-hidden")) if best else None
    )
    return el(
        "td",
        points(figure.value),
        star,
        el("small", below) if below else None,
        class_="best" if best else None,
    )


def _roles(measured: Sequence[Measured]) -> Html:
    """What each row is, and how it was made."""
    items = []
    for one in measured:
        icon = el("span", marker_icon(one.method.role), class_=one.style)
        note = f" {one.method.note}" if one.method.note else ""
        items += [
            el("dt", icon, one.title, el("span", one.method.role, class_="role")),
            el("dd", f"{ROLE_WORDS[one.method.role].capitalize()}.{note}"),
        ]
    return el("dl", items, class_="roles")


def _comparisons(report: Report, measured: Sequence[Measured]) -> Html | None:
    rows = []
    for one in measured:
        for other in measured:
            if one.method.role != "method" or other is one:
                continue
            cells = []
            for metric in (R1, "map_at_r"):
                difference = paired_difference(one, other, metric, report.seed)
                cells.append("–" if difference is None else f"{signed(difference.mean)} ({_interval(difference)})")
            rows.append([f"{one.title} − {other.title}", other.method.role, *cells])
    if not rows:
        return None
    caption = "Paired differences in points with 95 % intervals"
    return data_table(caption, ["", "Role", "R@1", "MAP@R"], rows, fold="The method against every other row")
