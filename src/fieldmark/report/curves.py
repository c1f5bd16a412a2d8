"""Section "Training": figures by step, one small chart each."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fieldmark.report.charts import Curve, data_table, line_chart
from fieldmark.report.html import Html, el, join
from fieldmark.report.measure import Measured
from fieldmark.report.page import Section, missing

MAX_POINTS = 240


@dataclass(frozen=True)
class Panel:
    """One figure of the log, and how it is shown."""

    key: str
    title: str
    note: str
    percent: bool
    noisy: bool


PANELS = (
    Panel(
        "val_recall_at_1",
        "R@1 on validation classes",
        "Part of the training half; it chooses the weights.",
        True,
        False,
    ),
    Panel("loss", "Metric loss", "On the training batches.", False, True),
    Panel("reward", "Mean reward", "Of the groups that were trained on.", False, True),
    Panel("mixed", "Mixed groups", "Share of pairs whose rollouts disagree: only they teach.", True, True),
)


@dataclass(frozen=True)
class LoggedRun:
    """A run whose curves are drawn: what it is called, its colour and sign, its log.jsonl (None: there is none)."""

    title: str
    style: str
    role: str
    log: Path | None


def curves_section(measured: Sequence[Measured]) -> Section:
    """A chart for each figure that any of the logs has."""
    runs = [LoggedRun(one.title, one.style, one.method.role, one.method.log) for one in measured]
    return training_section(runs, PANELS, "What each run logged on its way. Test classes play no part in any of it.")


def training_section(runs: Sequence[LoggedRun], panels: Sequence[Panel], lead: str) -> Section:
    """The same for any runs and figures."""
    logs = [read_lines(run.log) for run in runs]
    charts = []
    for panel in panels:
        curves = [
            Curve(run.title, run.style, run.role, points)
            for run, lines in zip(runs, logs, strict=True)
            if (points := series(lines, panel.key))
        ]
        if curves:
            charts.append(_chart(panel, curves))
    without = [run.title for run, lines in zip(runs, logs, strict=True) if not lines]
    sentence = missing(f"Without a log: {', '.join(without)}.") if without else None
    body = join(el("div", charts, class_="columns") if charts else None, sentence)
    return Section("training", "Training", lead, body)


def _chart(panel: Panel, curves: list[Curve]) -> Html:
    longest = max(len(curve.points) for curve in curves)
    smooth = max(1, longest // 12) if panel.noisy else 1
    chart = line_chart(curves, summary=f"{panel.title} over steps.", percent=panel.percent, smooth=smooth)
    note = panel.note + (f" Bold: mean of the last {smooth} values." if smooth > 1 else "")
    unit = 100 if panel.percent else 1
    rows = [
        [
            c.label,
            str(len(c.points)),
            f"{unit * c.points[0][1]:.4g}",
            f"{unit * c.points[-1][1]:.4g}",
            f"{unit * min(v for _, v in c.points):.4g}",
            f"{unit * max(v for _, v in c.points):.4g}",
        ]
        for c in curves
    ]
    heads = ["Run", "Values", "First", "Last", "Lowest", "Highest"]
    caption = f"{panel.title}{' in percent' if panel.percent else ''}: the ends of each curve"
    return el(
        "figure",
        el("figcaption", el("b", panel.title), f" {note}"),
        chart,
        data_table(caption, heads, rows, fold="As numbers"),
    )


def read_lines(path: Path | None) -> list[dict[str, Any]]:
    """The "train" lines of a log; a last line that a kill left unfinished is passed over.

    Raises:
        ValueError: a finished line is no JSON object.
    """
    if path is None or not path.is_file():
        return []
    lines = []
    for number, raw in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), start=1):
        if not raw.endswith("\n"):
            break
        try:
            line = json.loads(raw)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number}, is no JSON: {error.msg}; repair or remove it") from None
        if not isinstance(line, dict):
            raise ValueError(f"{path.name}, line {number}, is no JSON object; repair or remove it")
        if line.get("kind", "train") == "train" and isinstance(line.get("step"), int):
            lines.append(line)
    return lines


def series(lines: Sequence[dict[str, Any]], key: str) -> tuple[tuple[float, float], ...]:
    """(step, value) of one figure where it is a number; long series are averaged in blocks to
    ``MAX_POINTS``."""
    found = [
        (float(line["step"]), float(line[key]))
        for line in lines
        if isinstance(line.get(key), int | float) and not isinstance(line.get(key), bool)
    ]
    block = -(-len(found) // MAX_POINTS)
    if block <= 1:
        return tuple(found)
    return tuple(
        (
            found[min(i + block, len(found)) - 1][0],
            sum(v for _, v in found[i : i + block]) / len(found[i : i + block]),
        )
        for i in range(0, len(found), block)
    )
