"""The charts: dots with intervals, curves, stacked bars. Values in, HTML with inline SVG out."""

from collections.abc import Sequence
from dataclasses import dataclass

from fieldmark.report.html import Html, el, join, number
from fieldmark.report.svg import Scale, line, marker, marker_icon, padded, spread, text, tick_text, ticks


@dataclass(frozen=True)
class IntervalRow:
    """One dot: label, CSS class of its colour, role (its sign), value and interval, and the value as text."""

    label: str
    style: str
    role: str
    value: float
    low: float | None
    high: float | None
    shown: str


def interval_chart(rows: Sequence[IntervalRow], *, summary: str, reference: float | None, unit: str) -> Html:
    """Dots with intervals, one row each, on a common scale.

    Args:
        summary: what the chart shows, for those who cannot see it; the values are added.
        reference: value of the upright line (the baseline's, or zero).
        unit: written under the axis.
    """
    values = [v for row in rows for v in (row.value, row.low, row.high) if v is not None]
    scale = padded([*values, *([] if reference is None else [reference])], least=0.02)
    marks = ticks(scale.low, scale.high)
    heard = "; ".join(f"{row.label}: {row.shown}" for row in rows)
    height, middle = 30, 15
    body = []
    for row in rows:
        x = scale.percent(row.value)
        # A little longer than the row: a label of two lines makes its row higher.
        shapes = [line(scale.percent(t), -3, scale.percent(t), height + 3, "grid") for t in marks]
        if reference is not None:
            at = scale.percent(reference)
            shapes.append(line(at, -3, at, height + 3, "reference"))
        if row.low is not None and row.high is not None:
            low, high = scale.percent(row.low), scale.percent(row.high)
            shapes.append(line(low, middle, high, middle, "whisker"))
            shapes += [line(end, middle - 4, end, middle + 4, "whisker") for end in (low, high)]
        shapes.append(marker(row.role, x, middle))
        body += [
            el("span", row.label, class_="row-label"),
            el("svg", shapes, class_=f"track {row.style}", height=height),
            el("span", row.shown, class_="row-value"),
        ]
    axis = [text(scale.percent(t), 14, tick_text(100 * t, [100 * m for m in marks]), "tick") for t in marks]
    body += [
        el("span", class_="row-label axis-gap"),
        el("svg", axis, class_="track", height=20),
        el("span", unit, class_="row-value unit"),
    ]
    return el("div", body, class_="rows", role="img", aria_label=f"{summary} {heard}.")


@dataclass(frozen=True)
class Curve:
    """One method's curve: points (step, value), and whether the raw points jump and need a running mean."""

    label: str
    style: str
    role: str
    points: tuple[tuple[float, float], ...]


PLOT_HEIGHT = 200
_LABEL_GAP = 15.0


def line_chart(curves: Sequence[Curve], *, summary: str, percent: bool, smooth: int) -> Html:
    """Curves over steps, labelled at their ends.

    Args:
        percent: the values are shares and are written in percent.
        smooth: points of the running mean; above 1 the raw points stay visible, faintly.
    """
    factor = 100.0 if percent else 1.0
    shown = [(c, [(s, factor * v) for s, v in c.points]) for c in curves]
    averaged = [(c, running_mean(points, smooth)) for c, points in shown]
    x = Scale(0, max(s for _, points in shown for s, _ in points) or 1)
    y = padded([v for _, points in averaged for _, v in points], 0.12, 1.0 if percent else 0.02)
    if min(v for _, points in averaged for _, v in points) >= 0 > y.low:
        y = Scale(0, y.high)
    marks, steps = ticks(y.low, y.high), ticks(0, x.high, 5)

    def down(value: float) -> float:
        return PLOT_HEIGHT * (1 - min(1.0, max(0.0, y(value) / 100)))

    grid = [line(0, number(down(t)), "100%", number(down(t)), "grid") for t in marks]
    drawn = []
    for (curve, points), (_, mean) in zip(shown, averaged, strict=True):
        layers = [("raw", points)] if smooth > 1 and len(points) > 2 else []
        for kind, path in [*layers, ("curve", mean)]:
            coordinates = " ".join(f"{number(x(s))},{number(100 - min(200.0, max(-100.0, y(v))))}" for s, v in path)
            drawn.append(el("polyline", points=coordinates, class_=f"{kind} {curve.style}"))
    inner = el("svg", drawn, viewBox="0 0 100 100", preserveAspectRatio="none", height=PLOT_HEIGHT, class_="stretch")
    ends = [mean[-1] for _, mean in averaged]
    dots = [
        el("g", marker(c.role, x.percent(s), round(down(v), 2)), class_=c.style)
        for (c, _), (s, v) in zip(averaged, ends, strict=True)
    ]
    anchors = ["start", *["middle"] * (len(steps) - 2), "end"] if len(steps) > 1 else ["start"]
    bottom = [
        text(
            x.percent(t),
            PLOT_HEIGHT + 18,
            tick_text(t, steps),
            "tick",
            anchor if x(t) > 97 or x(t) < 3 else "middle",
        )
        for t, anchor in zip(steps, anchors, strict=True)
    ]
    places = spread([down(v) for _, v in ends], _LABEL_GAP, 6, PLOT_HEIGHT - 6)
    named = [f"{_cut(c.label)} {_short(v, percent)}" for (c, _), (_, v) in zip(averaged, ends, strict=True)]
    labels = [
        text(0, round(place + 4, 2), name, f"end-label {c.style}", "start")
        for (c, _), name, place in zip(averaged, named, places, strict=True)
    ]
    left = [text("100%", round(down(t) + 4, 2), tick_text(t, marks), "tick", "end") for t in marks]
    height = PLOT_HEIGHT + 24
    width = round(8 + 6.7 * max(map(len, named)))  # text cannot be measured here: about its width
    below = [
        el("li", el("span", marker_icon(c.role), class_=c.style), f"{c.label} {_short(v, percent)}")
        for (c, _), (_, v) in zip(averaged, ends, strict=True)
    ]
    heard = "; ".join(f"{c.label} from {_short(m[0][1], percent)} to {_short(m[-1][1], percent)}" for c, m in averaged)
    return el(
        "div",
        el("svg", left, class_="y-axis", height=height),
        el("svg", grid, inner, dots, bottom, class_="plot-area", height=height),
        el("svg", labels, class_="end-labels", height=height, width=width),
        el("ul", below, class_="end-list"),
        class_="plot",
        role="img",
        aria_label=f"{summary} {heard}.",
    )


def running_mean(points: Sequence[tuple[float, float]], width: int) -> list[tuple[float, float]]:
    """Mean of the last ``width`` values (of fewer at the beginning)."""
    if width <= 1:
        return list(points)
    averaged = []
    for i, (step, _) in enumerate(points):
        window = [v for _, v in points[max(0, i + 1 - width) : i + 1]]
        averaged.append((step, sum(window) / len(window)))
    return averaged


def _cut(label: str) -> str:
    return label if len(label) <= 22 else f"{label[:21].rstrip()}…"


def _short(value: float, percent: bool) -> str:
    return f"{value:.1f} %".replace("-", "−") if percent else f"{value:.3g}".replace("-", "−")


@dataclass(frozen=True)
class BarRow:
    """One stacked bar: label, colour and role of its sign (None: no sign), shares in the order of the
    legend."""

    label: str
    style: str
    role: str | None
    shares: tuple[float, ...]


def stacked_bars(rows: Sequence[BarRow], parts: Sequence[str], *, summary: str) -> Html:
    """Bars of shares that sum to one. Part k is drawn in the class ``part-k``."""
    legend = [el("span", el("span", class_=f"swatch part-{k}"), part) for k, part in enumerate(parts)]
    heard = "; ".join(
        f"{row.label}: " + ", ".join(f"{part} {100 * s:.0f} %" for part, s in zip(parts, row.shares, strict=True))
        for row in rows
    )
    body = []
    for row in rows:
        shapes, start = [], 0.0
        for k, share in enumerate(row.shares):
            shapes.append(
                el(
                    "rect",
                    x=f"{number(100 * start)}%",
                    width=f"{number(100 * share)}%",
                    y=3,
                    height=24,
                    class_=f"part-{k}",
                )
            )
            if share >= 0.07:
                shapes.append(text(f"{number(100 * (start + share / 2))}%", 20, f"{100 * share:.0f} %", f"on-part-{k}"))
            start += share
        icon = marker_icon(row.role) if row.role else None
        body += [
            el("span", el("span", icon, class_=row.style), row.label, class_="row-label"),
            el("svg", shapes, class_="track bar", height=30),
        ]
    return join(
        el("p", legend, class_="legend", aria_hidden="true"),
        el("div", body, class_="rows bars", role="img", aria_label=f"{summary} {heard}."),
    )


def data_table(
    caption: str, heads: Sequence[str], rows: Sequence[Sequence[str | Html]], fold: str | None = None
) -> Html:
    """A plain table that scrolls inside itself; ``fold`` puts it behind a disclosure with that title."""
    head = el("tr", [el("th", name, scope="col") for name in heads])
    body = [el("tr", el("th", row[0], scope="row"), [el("td", cell) for cell in row[1:]]) for row in rows]
    table = el(
        "div",
        el("table", el("caption", caption, class_="visually-hidden"), el("thead", head), el("tbody", body)),
        class_="scroll",
        role="region",
        aria_label=caption,
        tabindex=0,
    )
    return table if fold is None else el("details", el("summary", fold), table)
