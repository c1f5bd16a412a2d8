"""Section "Where the supervisor looks": its attention while it wrote each attribute's value."""

from collections.abc import Mapping

from fieldmark.data.fieldguide.drawing import PART_OF_ATTRIBUTE, PARTS
from fieldmark.report.attention import coverage_of, heat_controls, overlay
from fieldmark.report.html import Html, el, join
from fieldmark.report.inputs import Report
from fieldmark.report.interview import Asked, Interview
from fieldmark.report.page import Section, missing
from fieldmark.report.pictures import Pictures, heat_uri

PAIR_WORDS: Mapping[str, str] = {
    "same": "the same class",
    "hard": "look-alikes of different classes",
    "random": "different classes, drawn at random",
}


def supervisor_section(report: Report, asked: Interview | str, pictures: Pictures) -> Section:
    """Per pair, one tile per attribute: both pictures under the attention of that attribute's words."""
    title = "Where the supervisor looks"
    if isinstance(asked, str):
        return Section("supervisor", title, "", missing(asked), short="Supervisor sees")
    body = [_pair(report, one, pictures) for one in asked.asked]
    lead = (
        f"Attention of decoder layer {asked.layer} (from 0, averaged over heads) from the words of each "
        "attribute's value onto the patches of the picture that they describe, in multiples of an equal "
        "share. These maps are what the attention alignment teaches the pooler."
    )
    return Section("supervisor", title, lead, join(heat_controls(), body), short="Supervisor sees")


def _pair(report: Report, asked: Asked, pictures: Pictures) -> Html:
    group = asked.group
    names = " and ".join(pictures.class_name(index) for index in asked.pictures)
    heading = el("h3", names, el("small", f" {PAIR_WORDS[group.pair_type]}"))
    if asked.mapped is None:
        return el("article", heading, missing("None of its completions describes an attribute that was asked for."))
    rollout = group.rollouts[asked.mapped]
    said = {True: "same", False: "different", None: "nothing readable"}[rollout.verdict.answer]
    sign = "✓ right" if group.correct[asked.mapped] else "✗ wrong"
    note = el("p", f"Completion {asked.mapped + 1}; its verdict: {said}, {sign}.", class_="small")
    tiles = []
    for attribute in dict.fromkeys([*asked.maps[0], *asked.maps[1]]):
        figures = [_tile(report, asked, side, attribute, pictures) for side in (0, 1) if attribute in asked.maps[side]]
        tiles.append(el("div", el("h4", attribute), el("div", figures, class_="duo"), class_="attribute"))
    return el("article", heading, note, el("div", tiles, class_="attributes"), class_="asked-pair")


def _tile(report: Report, asked: Asked, side: int, attribute: str, pictures: Pictures) -> Html:
    index, grid, attention = asked.pictures[side], asked.grids[side], asked.maps[side][attribute]
    assert asked.mapped is not None
    value = asked.group.rollouts[asked.mapped].verdict.descriptions[side][attribute].text
    caption: list[Html] = [el("span", f"“{value}”", dir="auto", class_="value-said")]
    coverage = coverage_of(report, index, grid)
    part = PART_OF_ATTRIBUTE.get(attribute)
    if coverage is not None and part is not None:
        column = coverage[:, PARTS.index(part)]
        area, share = float(column.mean()), float((attention.double() * column).sum())
        if area > 0:
            caption.append(
                el(
                    "small",
                    f"{share / area:.1f}× on {part}",
                    title=f"{100 * share:.0f} % of the attention on {100 * area:.1f} % of the picture",
                )
            )
    label = f"Picture {side + 1}, attention while writing {attribute}: {value}"
    return el("figure", overlay(pictures, index, label, heat_uri(attention, grid)), el("figcaption", caption))
