"""Small pieces of SVG: scales, ticks, markers.

Charts have no view box: x is given in percent and y in pixels, so that they grow with the page while their
text keeps its size, on a phone as on a wide screen. Curves lie in a nested, stretched view box of 100 × 100.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fieldmark.report.html import Html, el, number


@dataclass(frozen=True)
class Scale:
    """Linear map of ``low..high`` onto ``0..100`` percent."""

    low: float
    high: float

    def __call__(self, value: float) -> float:
        return 100 * (value - self.low) / (self.high - self.low)

    def percent(self, value: float) -> str:
        """Position as an SVG length, kept inside the chart."""
        return f"{number(min(100.0, max(0.0, self(value))))}%"


def ticks(low: float, high: float, count: int = 6) -> list[float]:
    """About ``count`` round numbers within ``low..high``."""
    if not high > low:
        return [low]
    rough = (high - low) / max(1, count - 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 2.5, 5, 10) if m * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(k * step, 12) for k in range(first, last + 1)]


def padded(values: Sequence[float], share: float = 0.06, least: float = 0.0) -> Scale:
    """A scale around the values with some air, at least ``least`` wide."""
    low, high = min(values), max(values)
    width = max(high - low, least, 1e-9)
    middle = (low + high) / 2
    return Scale(middle - width * (0.5 + share), middle + width * (0.5 + share))


def tick_text(value: float, step_of: Sequence[float]) -> str:
    """A tick's label with as many decimals as its neighbours need."""
    decimals = 0
    while decimals < 6 and any(abs(t - round(t, decimals)) > 1e-9 for t in step_of):
        decimals += 1
    return f"{value:.{decimals}f}".replace("-", "−")


def line(x1: str | float, y1: str | float, x2: str | float, y2: str | float, class_: str) -> Html:
    """A straight line."""
    return el("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def text(x: str | float, y: str | float, content: str, class_: str = "", anchor: str = "middle") -> Html:
    """A piece of text."""
    return el("text", content, x=x, y=y, class_=class_ or None, text_anchor=anchor)


_MARKERS = {
    "start": "M-5,0a5,5 0 1 0 10,0a5,5 0 1 0 -10,0Z",
    "baseline": "M-5,-5H5V5H-5Z",
    "method": "M-6,0a6,6 0 1 0 12,0a6,6 0 1 0 -12,0Z",
    "control": "M0,-6L6,5H-6Z",
    "ceiling": "M0,-7L6,0L0,7L-6,0Z",
}


def marker(role: str, x: str | float, y: float) -> Html:
    """The sign of a role: shapes differ, so that colour is not needed to tell them apart."""
    hollow = " hollow" if role == "start" else ""
    return el("svg", el("path", d=_MARKERS[role], class_=f"marker{hollow}"), x=x, y=y, overflow="visible")


def marker_icon(role: str) -> Html:
    """The same sign for text and legends; decoration only."""
    path = el("path", d=_MARKERS[role], class_=f"marker{' hollow' if role == 'start' else ''}")
    return el("svg", path, viewBox="-8 -8 16 16", class_="icon", aria_hidden="true")


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move labels apart to at least ``gap`` within ``low..high``, each as near to its wanted place as its
    order lets."""
    order = sorted(range(len(wanted)), key=lambda i: (wanted[i], i))
    gap = min(gap, (high - low) / max(1, len(wanted) - 1)) if len(wanted) > 1 else gap
    # Blocks of labels that touch: each block sits at the mean of what its members want.
    blocks: list[tuple[list[int], float]] = []
    for i in order:
        blocks.append(([i], min(high, max(low, wanted[i]))))
        while len(blocks) > 1 and blocks[-1][1] - blocks[-2][1] < gap * (len(blocks[-2][0]) + len(blocks[-1][0])) / 2:
            members = blocks[-2][0] + blocks[-1][0]
            half = gap * (len(members) - 1) / 2
            centre = sum(wanted[k] for k in members) / len(members)
            blocks[-2:] = [(members, min(high - half, max(low + half, centre)))]
    placed = [0.0] * len(wanted)
    for members, centre in blocks:
        for position, i in enumerate(members):
            placed[i] = centre + gap * (position - (len(members) - 1) / 2)
    return placed
