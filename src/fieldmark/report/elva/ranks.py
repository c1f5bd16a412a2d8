"""Section "Ranks": where matches and near misses stand before and after, query by query."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fieldmark.evaluation.rank_changes import RankChange
from fieldmark.report.charts import data_table
from fieldmark.report.elva.inputs import ElvaReport
from fieldmark.report.elva.items import query_words
from fieldmark.report.elva.looking import Looked
from fieldmark.report.html import Html, el, join, number
from fieldmark.report.page import Section, missing
from fieldmark.report.svg import Scale, line, marker, marker_icon, text

_ROW = 26
_MIDDLE = 13


@dataclass(frozen=True)
class RankRow:
    """One line of the plot: what moves, whether it is the match, and its two ranks from 1."""

    label: str
    is_match: bool
    before: int
    after: int


def ranks_section(report: ElvaReport, looked: Looked) -> Section:
    """A plot for each shown query, and all queries as a table."""
    title = "Ranks of matches and near misses"
    if looked.before is None:
        return Section("ranks", title, "", missing("There is one embedder only, so no rank changes."), short="Ranks")
    if not looked.changes:
        nothing = missing(
            "The collection does not say what is true of its candidates, or no query has two parts (grains): near "
            "misses are not known."
        )
        return Section("ranks", title, "", nothing, short="Ranks")
    lead = (
        "A near miss lacks exactly one part of the query. Each plot: the best rank of anything that has all, and of "
        "anything that lacks only the part that is named. The circle is before the training, the filled sign after; "
        "further left is nearer. A part that is heard moves what lacks it to the right of the match."
    )
    size = len(looked.candidates)
    shown = [query for query in looked.shown if query in looked.changes]
    figures = [
        el(
            "figure",
            el("figcaption", el("b", query_words(looked.queries[query]))),
            rank_plot(
                rank_rows(looked.changes[query]),
                size,
                summary=f"Ranks before and after, {query_words(looked.queries[query])}.",
            ),
        )
        for query in shown
    ]
    legend = el(
        "p",
        el("span", el("span", marker_icon("method"), class_="c-method-0"), "has every part"),
        el("span", el("span", marker_icon("control"), class_="c-baseline-0"), "lacks the part that is named"),
        el("span", el("span", marker_icon("start"), class_="c-start-0"), "the same before"),
        class_="legend",
    )
    table = _table(list(looked.changes.values()), looked)
    return Section("ranks", title, lead, join(legend, el("div", figures, class_="columns"), table), short="Ranks")


def rank_rows(change: RankChange) -> list[RankRow]:
    """The match, then what lacks each grain."""
    rows = [RankRow("has every part", True, change.match_before, change.match_after)]
    return rows + [RankRow(f"lacks {one.grain}", False, one.before, one.after) for one in change.near_misses]


def rank_plot(rows: Sequence[RankRow], pool: int, *, summary: str) -> Html:
    """Ranks on a logarithmic axis from 1 to the pool's size: from a circle (before) to a filled sign (after)."""
    scale = Scale(0.0, math.log10(max(pool, 2)))
    marks = [mark for power in range(7) for step in (1, 3) if (mark := step * 10**power) <= max(pool, 2)]

    def x(rank: int) -> str:
        return scale.percent(math.log10(rank))

    body = []
    for row in rows:
        style, role = ("c-method-0", "method") if row.is_match else ("c-baseline-0", "control")
        shapes = [line(x(mark), -3, x(mark), _ROW + 3, "grid") for mark in marks]
        shapes.append(line(x(row.before), _MIDDLE, x(row.after), _MIDDLE, "whisker"))
        shapes.append(marker("start", x(row.before), _MIDDLE))
        if row.before != row.after:
            shapes.append(marker(role, x(row.after), _MIDDLE))
        else:
            shapes[-1] = marker(role, x(row.after), _MIDDLE)
        body += [
            el("span", row.label, class_="row-label"),
            el("svg", shapes, class_=f"track {style}", height=_ROW),
            el("span", f"{row.before} → {row.after}", class_="row-value"),
        ]
    axis = [text(x(mark), 14, str(mark), "tick") for mark in marks]
    body += [
        el("span", class_="row-label axis-gap"),
        el("svg", axis, class_="track", height=20),
        el("span", "rank", class_="row-value unit"),
    ]
    heard = "; ".join(f"{row.label}: {row.before} before, {row.after} after" for row in rows)
    return el("div", body, class_="rows ranks", role="img", aria_label=f"{summary} {heard}.")


def _table(changes: Sequence[RankChange], looked: Looked) -> Html:
    assert looked.before is not None
    rows = []
    sizes = {change.query: len(set(looked.queries[change.query].grains)) for change in changes}
    for count in (*sorted(set(sizes.values())), 0):
        own = [change for change in changes if not count or sizes[change.query] == count]
        near = [(change, miss) for change in own for miss in change.near_misses]
        rows.append(
            [
                str(count) if count else "all",
                str(len(own)),
                _pair([change.match_before for change in own], [change.match_after for change in own], np.median),
                _pair([miss.before for _, miss in near], [miss.after for _, miss in near], np.median),
                _pair(
                    [100.0 * (miss.before < change.match_before) for change, miss in near],
                    [100.0 * (miss.after < change.match_after) for change, miss in near],
                    np.mean,
                    " %",
                ),
                f"{sum(change.gain > 0 for change in own)} / {sum(change.gain < 0 for change in own)}",
            ]
        )
    heads = [
        "Parts of the query", "Queries", "Rank of the best match, median", "Rank of the best near miss, median",
        "Near miss before the match", "Match rose / fell",
    ]  # fmt: skip
    caption = f"Ranks before → after ({looked.before.row.title} → {looked.after.row.title})"
    return data_table(caption, heads, rows)


def _pair(before: Sequence[float], after: Sequence[float], mean: object, unit: str = "") -> str:
    if not before:
        return "–"
    assert callable(mean)
    return f"{number(float(mean(before)), 1)} → {number(float(mean(after)), 1)}{unit}"
