"""Section "What it looks at": attention on field marks, other plumage and habitat, where masks are known."""

from collections.abc import Sequence

from fieldmark.data.fieldguide.world import is_fieldguide
from fieldmark.evaluation.attention_share import PART_GROUPS, AttentionShare, collection_attention_share
from fieldmark.evaluation.retrieval import bootstrap_interval
from fieldmark.report.charts import BarRow, data_table, stacked_bars
from fieldmark.report.html import Html, join
from fieldmark.report.inputs import Report
from fieldmark.report.measure import Measured, points
from fieldmark.report.page import Section, missing


def shares_section(report: Report, measured: Sequence[Measured]) -> Section:
    """Bars per method against the share of area, and the parts as numbers."""
    title = "What the attention falls on"
    if not is_fieldguide(report.test.root):
        no_masks = "These pictures have no part masks, so it cannot be measured what the attention falls on."
        return Section("shares", title, "", missing(no_masks), short="Attention")
    found: list[tuple[Measured, AttentionShare]] = []
    for one in measured:
        if one.encoder is not None and one.encoder.pooler.kind != "max":
            found.append((one, collection_attention_share(one.encoder, report.test, workers=report.workers)))
    left_out = [one.title for one in measured if all(one is not other for other, _ in found)]
    sentence = missing(f"No distribution over patches to measure: {', '.join(left_out)}.") if left_out else None
    if not found:
        return Section("shares", title, "", join(sentence), short="Attention")
    groups = tuple(PART_GROUPS)
    area = tuple(found[0][1].part(group)[1] for group in groups)
    rows = [BarRow("share of the area", "", None, area)]
    rows += [
        BarRow(one.title, one.style, one.method.role, tuple(share.part(group)[0] for group in groups))
        for one, share in found
    ]
    chart = stacked_bars(rows, groups, summary="Share of pooled attention by what it falls on.")
    lead = (
        "Pooled attention over all test pictures, by what the drawing's masks say is there. Field marks "
        "decide a species; other plumage varies within it; habitat says nothing about unseen species. The "
        "first bar is what an eye without preference would see: mean pooling equals it."
    )
    return Section("shares", title, lead, join(chart, _table(report, found), sentence), short="Attention")


def _table(report: Report, found: Sequence[tuple[Measured, AttentionShare]]) -> Html:
    first = found[0][1]
    names = [*PART_GROUPS, *(part for parts in PART_GROUPS.values() for part in parts)]
    rows = []
    for name in dict.fromkeys(
        names
    ):  # "habitat" is a group and a part: the group, which holds the leaves too, is shown
        cells = [points(first.part(name)[1])]
        for _, share in found:
            values = share.per_picture(name)
            interval = bootstrap_interval(values, report.seed, groups=report.test.labels)
            cells.append(f"{points(interval.mean)} ({points(interval.low)}–{points(interval.high)})")
        rows.append([{"occluder": "of habitat: leaves"}.get(name, name), *cells])
    caption = "Share of attention by part in percent, with 95 % intervals over classes"
    return data_table(caption, ["", "area", *(one.title for one, _ in found)], rows, fold="Part by part")
