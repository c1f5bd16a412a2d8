"""Section "What the embedding looks at": attention on each part of the query, before and after."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fieldmark.evaluation.grain_attention import GrainAttention, attention_layer, grain_attention
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import UniversalEmbedder
from fieldmark.report.attention import heat_controls
from fieldmark.report.charts import BarRow, stacked_bars
from fieldmark.report.elva.inputs import ElvaReport
from fieldmark.report.elva.items import ItemPictures, query_words
from fieldmark.report.elva.looking import Looked, Side
from fieldmark.report.html import Html, el, join, number
from fieldmark.report.page import Section, missing
from fieldmark.report.pictures import heat_uri
from fieldmark.report.svg import Scale, line, marker_icon, text, tick_text, ticks

_ROW = 24


@dataclass(frozen=True)
class GrainBar:
    """One bar: what it is about, its colour and sign, and its two parts (shares of all attention)."""

    label: str
    style: str
    role: str
    prompt: float
    summary: float


def attention_section(report: ElvaReport, looked: Looked, pictures: ItemPictures) -> Section:
    """The mean over many queries, then bars for the shown ones."""
    title = "What the embedding looks at"
    with_grains = [i for i, query in enumerate(looked.queries) if query.grains]
    if not with_grains:
        nothing = missing("The collection does not list the parts (grains) of its queries.")
        return Section("attention", title, "", nothing, short="Attention")
    shown = [query for query in looked.shown if looked.queries[query].grains]
    spaced = np.linspace(0, len(with_grains) - 1, min(report.sizes.attention_queries, len(with_grains)))
    averaged = sorted({with_grains[int(i)] for i in spaced})
    wanted = sorted({*averaged, *shown})
    asked = [looked.queries[i] for i in wanted]
    requests, grains = [Request(one.item, one.instruction) for one in asked], [one.grains for one in asked]
    found = [
        (side, dict(zip(wanted, attended(side.model, requests, grains, report), strict=True))) for side in looked.sides
    ]
    layer = report.attention_layer if report.attention_layer is not None else attention_layer(looked.after.model)
    lead = (
        f"The embedding is the model's state at one position. Shares of that position's attention in layer {layer} "
        f"(counted from 0, of {looked.after.model.backbone.num_layers}), averaged over heads, on the words of each "
        "part of the query, where they stand in the prompt and in the summary. Where a layer reads is not yet what "
        "decides: shares are compared between parts and embedders, and prove no cause."
    )
    bars = [
        BarRow(side.row.title, side.style, side.row.role, _mean_shares([one[query] for query in averaged]))
        for side, one in found
    ]
    mean = stacked_bars(bars, ("parts of the query", "picture", "everything else"), summary="Shares of attention.")
    figures = []
    for query in shown:
        rows = grain_rows(looked.queries[query].grains, [(side, one[query]) for side, one in found])
        words = query_words(looked.queries[query])
        rest = [(side, one[query]) for side, one in found]
        figures.append(
            el(
                "figure",
                el("figcaption", el("b", words)),
                grain_bars(rows, summary=f"Attention on each part of the query, {words}."),
                [el("p", _said(side, one), class_="small") for side, one in rest],
            )
        )
    legend = el(
        "p",
        el("span", el("span", class_="swatch in-prompt"), "in the prompt"),
        el("span", el("span", class_="swatch in-summary"), "in the summary"),
        class_="legend",
    )
    body = join(
        el("h3", "Queries", el("small", f" mean over {len(averaged)}")),
        mean,
        _pictures(report, looked, pictures),
        el("h3", "Single queries"),
        legend,
        el("div", figures, class_="columns"),
    )
    return Section("attention", title, lead, body, short="Attention")


def attended(
    model: UniversalEmbedder, requests: Sequence[Request], grains: Sequence[Sequence[str]], report: ElvaReport
) -> list[GrainAttention]:
    """Where each request's embedding looks. Summaries are written again, greedily: their tokens are needed."""
    found: list[GrainAttention] = []
    for start in range(0, len(requests), report.batch_size):
        block = slice(start, start + report.batch_size)
        summaries = None
        if model.config.mode == "generative":
            # Greedy: what the generator gives decides nothing.
            groups = model.sample_summaries(
                requests[block], num_samples=1, temperature=0.0, top_p=1.0, generator=torch.Generator()
            )
            summaries = [one.completion.ids for (one,) in groups]
        found += grain_attention(model, requests[block], grains[block], summaries, layer=report.attention_layer)
    return found


def _pictures(report: ElvaReport, looked: Looked, pictures: ItemPictures) -> Html | None:
    """Candidates that are pictures: the mean over many, and a right one of each shown query under its attention."""
    known = [i for i, one in enumerate(looked.candidates) if one.image is not None and not one.text and one.facts]
    if not known:
        return None
    spaced = np.linspace(0, len(known) - 1, min(report.sizes.attention_queries, len(known)))
    averaged = sorted({known[int(i)] for i in spaced})
    right = [next((i for i in known if i in looked.relevant[query]), None) for query in looked.shown]
    shown = list(dict.fromkeys(i for i in right if i is not None))
    wanted = sorted({*averaged, *shown})
    items = [looked.candidates[i] for i in wanted]
    found = []
    for side in looked.sides:
        shares = attended(side.model, [Request(one) for one in items], [one.facts for one in items], report)
        found.append((side, dict(zip(wanted, shares, strict=True))))
    bars = [
        BarRow(side.row.title, side.style, side.row.role, _mean_shares([one[i] for i in averaged]))
        for side, one in found
    ]
    parts = ("true words in the summary", "picture", "everything else")
    rows = []
    for i in shown:
        tiles = [
            el("figure", el("span", _image(pictures, looked, i), class_="layers"), el("figcaption", "Equal shares"))
        ]
        for side, one in found:
            patches = one[i].patches
            side_length = math.isqrt(patches.numel())
            if side_length**2 != patches.numel() or not float(patches.sum()) > 0:
                continue
            heat = heat_uri(patches / patches.sum(), (side_length, side_length))
            layers = el(
                "span", _image(pictures, looked, i), el("img", src=heat, alt="", class_="heat"), class_="layers"
            )
            label = [el("span", marker_icon(side.row.role), class_=side.style), side.row.title]
            share = el("small", f"{100 * one[i].picture:.0f} % on the picture")
            tiles.append(el("figure", layers, el("figcaption", label, share)))
        rows.append(el("article", el("div", tiles, class_="tiles of-4")))
    return join(
        el("h3", "Pictures of the pool", el("small", f" mean over {len(averaged)}")),
        stacked_bars(bars, parts, summary="Shares of attention, candidates that are pictures."),
        el("p", "Where on the picture: its patches' shares among each other, one right picture of each query below.",
           class_="small"),
        heat_controls(),
        el("div", rows, class_="attended"),
    )  # fmt: skip


def _image(pictures: ItemPictures, looked: Looked, place: int) -> Html:
    file = looked.candidates[place].image
    assert file is not None
    return el("img", src=pictures.uri(file), alt=f"A right picture: {file.name}")


def grain_rows(grains: Sequence[str], found: Sequence[tuple[Side, GrainAttention]]) -> list[tuple[str, list[GrainBar]]]:
    """For each grain a bar of each embedder."""
    rows = []
    for k, grain in enumerate(grains):
        bars = [
            GrainBar(
                side.row.title, side.style, side.row.role, one.grains[k].prompt or 0.0, one.grains[k].summary or 0.0
            )
            for side, one in found
        ]
        rows.append((grain, bars))
    return rows


def grain_bars(rows: Sequence[tuple[str, Sequence[GrainBar]]], *, summary: str) -> Html:
    """Bars from zero on a common scale, two parts each, grouped by grain."""
    largest = max((bar.prompt + bar.summary for _, bars in rows for bar in bars), default=0.0)
    scale = Scale(0.0, max(largest * 1.04, 0.01))
    marks = ticks(0.0, scale.high, 5)
    body: list[Html] = []
    heard = []
    for grain, bars in rows:
        body.append(el("span", grain, class_="bar-group"))
        for bar in bars:
            whole = bar.prompt + bar.summary
            shapes = [line(scale.percent(mark), 0, scale.percent(mark), _ROW, "grid") for mark in marks]
            at = 0.0
            for share, part in ((bar.prompt, "in-prompt"), (bar.summary, "in-summary")):
                if share > 0:
                    shapes.append(
                        el(
                            "rect",
                            x=f"{number(scale(at))}%",
                            width=f"{number(scale(share))}%",
                            y=4,
                            height=_ROW - 8,
                            class_=part,
                        )
                    )
                at += share
            shown = f"{100 * whole:.1f} %"
            body += [
                el("span", el("span", marker_icon(bar.role), class_=bar.style), bar.label, class_="row-label"),
                el("svg", shapes, class_=f"track {bar.style}", height=_ROW),
                el("span", shown, class_="row-value"),
            ]
            heard.append(f"{grain}, {bar.label}: {shown}")
    axis = [text(scale.percent(mark), 14, tick_text(100 * mark, [100 * m for m in marks]), "tick") for mark in marks]
    body += [
        el("span", class_="row-label axis-gap"),
        el("svg", axis, class_="track", height=20),
        el("span", "%", class_="row-value unit"),
    ]
    return el("div", body, class_="rows grain-bars", role="img", aria_label=f"{summary} {'; '.join(heard)}.")


def _mean_shares(found: Sequence[GrainAttention]) -> tuple[float, float, float]:
    grains = float(np.mean([one.on_grains for one in found]))
    picture = float(np.mean([one.picture for one in found]))
    return grains, picture, max(0.0, 1 - grains - picture)


def _said(side: Side, one: GrainAttention) -> str:
    rest = one.other_prompt + one.other_summary + one.itself
    picture = f"{100 * one.picture:.0f} % on the picture, " if one.patches.numel() else ""
    return f"{side.row.title}: {picture}{100 * rest:.0f} % on other words and on itself."
