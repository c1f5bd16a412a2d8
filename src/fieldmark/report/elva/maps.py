"""Section "Maps": the pool around single queries, before and after."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fieldmark.evaluation.embedding_map import LEAST_POINTS, AlignedMaps, aligned_maps
from fieldmark.report.elva.inputs import ElvaReport
from fieldmark.report.elva.items import query_words
from fieldmark.report.elva.looking import Looked, Side
from fieldmark.report.html import Html, el, join, number
from fieldmark.report.page import Section, missing

KINDS = ("other", "near", "match", "query")
"""What a point is, in the order of drawing: what matters lies on top."""
_WORDS = {
    "match": "has every part of the query",
    "near": "lacks exactly one part",
    "other": "lacks more",
    "query": "the query",
}
_SHAPES = {
    "other": "M-1.1,0a1.1,1.1 0 1 0 2.2,0a1.1,1.1 0 1 0 -2.2,0Z",
    "near": "M0,-2L1.9,1.5H-1.9Z",
    "match": "M0,-2.4L2,0L0,2.4L-2,0Z",
    "query": "M-3,0a3,3 0 1 0 6,0a3,3 0 1 0 -6,0ZM-4.4,0H-1.6M1.6,0H4.4M0,-4.4V-1.6M0,1.6V4.4",
}


def maps_section(report: ElvaReport, looked: Looked) -> Section:
    """One layout for all; the points of each shown query are marked in a pair of panels of its own."""
    title = "Maps before and after"
    if looked.before is None:
        return Section("maps", title, "", missing("There is one embedder only, so nothing to compare."), short="Maps")
    shown = [query for query in looked.shown if query in looked.changes][: report.sizes.maps]
    if not shown:
        nothing = missing("No query with parts (grains) is shown, so there is nothing to mark on a map.")
        return Section("maps", title, "", nothing, short="Maps")
    candidates = map_candidates(looked, shown, report.sizes.map_points)
    if len(candidates) + len(shown) < LEAST_POINTS:
        return Section("maps", title, "", missing("The pool is too small for a map."), short="Maps")
    maps = aligned_maps(*(_points(side, candidates, shown) for side in (looked.before, looked.after)), seed=report.seed)
    lead = (
        f"{len(candidates)} candidates and {len(shown)} queries, by t-SNE (perplexity {maps.perplexity:.0f}). Each "
        "map is fitted alone, both from the same start, and the second is turned and mirrored onto the first: what "
        "differs between them differs between the embeddings. Near means near; distances between groups say little. "
        f"Trustworthiness {maps.trust_before:.2f} before, {maps.trust_after:.2f} after (1: all neighbours on the map "
        "are neighbours in the space)."
    )
    rows = []
    for place, query in enumerate(shown):
        kinds = _kinds(looked, query, candidates, place, len(shown))
        words = query_words(looked.queries[query])
        panels = [
            el(
                "figure",
                el("figcaption", side.row.title),
                map_panel(points, kinds, summary=f"{side.row.title}: the pool around “{words}”."),
            )
            for side, points in zip((looked.before, looked.after), (maps.before, maps.after), strict=True)
        ]
        rows.append(el("article", el("h3", words), el("div", panels, class_="map-pair")))
    legend = el("p", [_key(kind) for kind in reversed(KINDS)], class_="legend")
    return Section("maps", title, lead, join(legend, rows, _moved(maps)), short="Maps")


def map_candidates(looked: Looked, shown: Sequence[int], most: int) -> list[int]:
    """Places of the candidates that are drawn: what matters to the shown queries, then an even share of the rest."""
    wanted: list[int] = []
    for query in shown:
        missing_grains = _missing(looked, query)
        wanted += sorted(np.flatnonzero((missing_grains == 0) | (missing_grains == 1)).tolist())
    wanted = list(dict.fromkeys(wanted))[:most]
    rest = [i for i in range(len(looked.candidates)) if i not in set(wanted)]
    room = min(most - len(wanted), len(rest))
    return sorted([*wanted, *(rest[int((k + 0.5) * len(rest) / room)] for k in range(room))])


def map_panel(points: np.ndarray, kinds: Sequence[str], *, summary: str) -> Html:
    """A square of points (n, 2), each drawn by its kind; "hidden" is not drawn."""
    reach = float(np.abs(points).max()) * 1.14 or 1.0
    placed = 50 + 50 * points / reach
    shapes = [
        el("path", d=_SHAPES[kind], transform=f"translate({number(x)},{number(100 - y)})", class_=f"point {kind}")
        for drawn in KINDS
        for (x, y), kind in zip(placed.tolist(), kinds, strict=True)
        if kind == drawn
    ]
    counted = "; ".join(f"{kinds.count(kind)} points: {_WORDS[kind]}" for kind in KINDS if kind in kinds)
    return el("svg", shapes, viewBox="0 0 100 100", class_="map", role="img", aria_label=f"{summary} {counted}.")


def _points(side: Side, candidates: Sequence[int], shown: Sequence[int]) -> Tensor:
    return torch.cat([side.candidates.embeddings[list(candidates)], side.queries.embeddings[list(shown)]])


def _missing(looked: Looked, query: int) -> np.ndarray:
    """(m,) how many of the query's grains each candidate lacks."""
    grains = set(looked.queries[query].grains)
    return np.array([len(grains.difference(one.facts)) for one in looked.candidates])


def _kinds(looked: Looked, query: int, candidates: Sequence[int], place: int, queries: int) -> list[str]:
    lacking = _missing(looked, query)[list(candidates)]
    kinds = ["match" if count == 0 else "near" if count == 1 else "other" for count in lacking.tolist()]
    return kinds + ["query" if k == place else "hidden" for k in range(queries)]


def _key(kind: str) -> Html:
    sign = el("path", d=_SHAPES[kind], class_=f"point {kind}")
    icon = el("svg", sign, viewBox="-5 -5 10 10", class_="icon map-icon", aria_hidden="true")
    return el("span", icon, _WORDS[kind])


def _moved(maps: AlignedMaps) -> Html:
    share = float(np.median(maps.moved))
    return el(
        "p",
        f"Half of the points lie more than {share:.2f} from their first place, where 1 is the points' mean distance "
        "from the middle (root mean square).",
        class_="small",
    )
