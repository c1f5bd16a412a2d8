"""Section "Where the embedding looks": the poolers' attention over pictures."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.fieldguide.drawing import PARTS
from fieldmark.data.fieldguide.world import is_fieldguide, read_mask
from fieldmark.evaluation.attention_share import PART_GROUPS, attention_share, part_coverage, patch_grid
from fieldmark.report.html import Html, el, join
from fieldmark.report.inputs import Report
from fieldmark.report.measure import Measured
from fieldmark.report.page import Section, missing
from fieldmark.report.pictures import Pictures, heat_legend_uri, heat_uri
from fieldmark.report.svg import marker_icon


def attention_section(report: Report, measured: Sequence[Measured], pictures: Pictures) -> Section:
    """Pictures of different classes, each under the attention of every attention pooler."""
    lead = (
        "How much each patch weighs in the embedding, as multiples of an equal share: dark is less, warm is "
        "more, the bare picture is exactly equal. All methods and pictures share one scale. Before training "
        "every attention pooler starts at the bare picture, and mean pooling stays there."
    )
    heads = [one for one in measured if one.encoder is not None and one.encoder.pooler.kind == "attention"]
    others = [
        f"{one.title} ({one.encoder.pooler.kind})"
        for one in measured
        if one.encoder is not None and one.encoder.pooler.kind != "attention"
    ]
    sentence = missing(f"Without an attention pooler: {', '.join(others)}.") if others else None
    if not heads:
        nothing = missing(
            "No encoder of this report has an attention pooler, so there is nothing to lay over pictures."
        )
        return Section("attention", "Where the embedding looks", "", join(nothing, sentence), short="Pooler")
    chosen = spaced_pictures(report.test.labels, report.sizes.attention_pictures)
    maps = [_attention(one, pictures, chosen) for one in heads]
    rows = []
    for k, index in enumerate(chosen):
        name = pictures.class_name(index)
        tiles = [
            el(
                "figure",
                el("span", _image(pictures, index, name), class_="layers"),
                el("figcaption", "Equal shares"),
            )
        ]
        for one, (attention, grid) in zip(heads, maps, strict=True):
            share = marks_share(report, index, attention[k], grid)
            caption = [el("span", marker_icon(one.method.role), class_=one.style), one.title]
            if share is not None:
                caption.append(el("small", f"{100 * share[0]:.0f} % on field marks"))
            label = f"{name}, attention of {one.title}"
            tiles.append(
                el(
                    "figure",
                    overlay(pictures, index, label, heat_uri(attention[k], grid)),
                    el("figcaption", caption),
                )
            )
        area = marks_share(report, index, None, maps[0][1])
        note = f" field marks cover {100 * area[1]:.0f} % of it" if area is not None else ""
        rows.append(
            el(
                "article",
                el("h3", name, el("small", note) if note else None),
                el("div", tiles, class_=f"tiles of-{min(len(tiles), 7)}"),
            )
        )
    body = join(heat_controls(), el("div", rows, class_="attended"), sentence)
    return Section("attention", "Where the embedding looks", lead, body, short="Pooler")


def spaced_pictures(labels: np.ndarray, count: int) -> list[int]:
    """The first picture of classes at even distances."""
    classes, firsts = np.unique(labels, return_index=True)
    places = sorted({int((k + 0.5) * len(classes) / count) for k in range(count)})
    return [int(firsts[place]) for place in places]


@torch.no_grad()
def _attention(one: Measured, pictures: Pictures, chosen: list[int]) -> tuple[Tensor, tuple[int, int]]:
    encoder = one.encoder
    assert encoder is not None
    encoder.eval()
    attention = encoder(pictures.stack(chosen, encoder.image_size)).attention
    assert attention is not None
    return attention.cpu(), patch_grid(encoder)


def marks_share(
    report: Report, index: int, attention: Tensor | None, grid: tuple[int, int]
) -> tuple[float, float] | None:
    """Share of attention (of uniform attention, for None) and of area on field marks; None without masks."""
    coverage = coverage_of(report, index, grid)
    if coverage is None:
        return None
    weights = torch.full(coverage.shape[:1], 1 / len(coverage)) if attention is None else attention
    columns = [PARTS.index(part) for part in PART_GROUPS["field marks"]]
    share = attention_share(weights[None], coverage[None])[0, columns].sum()
    return float(share), float(coverage.mean(0)[columns].sum())


def coverage_of(report: Report, index: int, grid: tuple[int, int]) -> Tensor | None:
    """(patches, parts) of one picture, if its parts are known."""
    if not is_fieldguide(report.test.root):
        return None
    mask = torch.from_numpy(read_mask(report.test.root, report.test.ids[index]).astype(np.int64))
    return part_coverage(mask[None], grid, len(PARTS))[0]


def overlay(pictures: Pictures, index: int, label: str, heat: str) -> Html:
    """A picture with heat over it."""
    return el("span", _image(pictures, index, label), el("img", src=heat, alt="", class_="heat"), class_="layers")


def _image(pictures: Pictures, index: int, alt: str) -> Html:
    return el("img", src=pictures.uri(index), alt=alt)


def heat_controls() -> Html:
    """The scale of `pictures.heat_uri`, and a slider that fades the heat."""
    return scale_controls("⅛", heat_legend_uri(), "8×", "Scale from an eighth of an equal share to eight times")


def scale_controls(least: str, key: str, most: str, alt: str) -> Html:
    """A scale, its ``key`` a data URI, and a slider that fades the heat (hidden without the page's script)."""
    scale = el("span", el("span", least), el("img", src=key, alt=alt), el("span", most), class_="heat-scale")
    slider = el(
        "label",
        "Heat ",
        el("input", type="range", min=0, max=100, value=100, class_="heat-slider"),
        hidden=True,
        class_="heat-label",
    )
    return el("p", scale, slider, class_="heat-controls")
