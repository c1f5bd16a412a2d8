"""A figure that stands alone: one dot per seed, one row per method, one panel per condition. An SVG file."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from fieldmark.report.html import Html, el, number
from fieldmark.report.svg import padded, tick_text, ticks

LABEL_WIDTH, PLOT_WIDTH, GAP, ROW, HEAD, FOOT = 330, 230, 24, 26, 54, 34

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #24292f } .small { font-size: 11.5px; fill: #59636e }
.title { font-weight: 600 } .grid { stroke: #d1d9e0 } .mean { stroke: #24292f; stroke-width: 2.5 }
.dot { fill: #2f6f9f; fill-opacity: .75 } .main .dot { fill: #b3541e } .ground { fill: #ffffff }
@media (prefers-color-scheme: dark) {
  text { fill: #e6e8eb } .small { fill: #9aa4af } .grid { stroke: #3d444d } .mean { stroke: #e6e8eb }
  .dot { fill: #79b8e8 } .main .dot { fill: #f0925c } .ground { fill: #15181c } }
"""


@dataclass(frozen=True)
class DotRow:
    """One method: its label, whether it is the one that the figure is about, and its values by panel."""

    label: str
    main: bool
    values: Mapping[str, Sequence[float]]


def dot_plot(rows: Sequence[DotRow], panels: Sequence[str], *, title: str, unit: str) -> str:
    """The figure as the text of an SVG file, readable on light and dark ground.

    Args:
        rows: top to bottom; a row without values in a panel stays empty there.
        panels: left to right, all on one scale.
        unit: written under the axes.

    Raises:
        ValueError: if there is no value at all.
    """
    everything = [v for row in rows for values in row.values.values() for v in values]
    if not everything:
        raise ValueError("a dot plot needs at least one value")
    scale = padded([0.0, *everything], least=1.0)
    marks = [t for t in ticks(scale.low, scale.high) if t >= 0]
    width = LABEL_WIDTH + len(panels) * (PLOT_WIDTH + GAP)
    height = HEAD + len(rows) * ROW + FOOT
    bottom = HEAD + len(rows) * ROW
    body: list[Html] = [
        el("rect", width=width, height=height, class_="ground"),
        el("text", title, x=12, y=22, class_="title"),
    ]
    for k, row in enumerate(rows):
        at = HEAD + k * ROW + ROW / 2
        body.append(el("text", row.label, x=LABEL_WIDTH - 14, y=at + 4, text_anchor="end"))
    for p, panel in enumerate(panels):
        left = LABEL_WIDTH + p * (PLOT_WIDTH + GAP)

        def x(value: float, left: float = left) -> float:
            return left + PLOT_WIDTH * scale(value) / 100

        body.append(el("text", panel, x=left + PLOT_WIDTH / 2, y=HEAD - 10, text_anchor="middle"))
        for t in marks:
            body.append(el("line", x1=x(t), x2=x(t), y1=HEAD, y2=bottom, class_="grid"))
            label = tick_text(t, marks)
            body.append(el("text", label, x=x(t), y=bottom + 15, class_="small", text_anchor="middle"))
        body.append(el("text", unit, x=left + PLOT_WIDTH / 2, y=bottom + 30, class_="small", text_anchor="middle"))
        for k, row in enumerate(rows):
            at = HEAD + k * ROW + ROW / 2
            values = row.values.get(panel, ())
            shapes = [el("circle", cx=x(v), cy=at, r=4.5, class_="dot") for v in values]
            if values:
                m = x(mean(values))
                shapes.append(el("line", x1=m, x2=m, y1=at - 8, y2=at + 8, class_="mean"))
            body.append(el("g", shapes, class_="main" if row.main else None))
    heard = "; ".join(
        f"{row.label}, {panel}: {number(mean(row.values[panel]), 1)}"
        for panel in panels
        for row in rows
        if row.values.get(panel)
    )
    return el(
        "svg",
        el("title", f"{title}. Means: {heard}."),
        el("style", Html(_STYLE)),
        body,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {width} {height}",
        width=width,
        height=height,
        role="img",
    )
