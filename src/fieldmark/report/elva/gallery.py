"""Section "Rankings": single queries with what each embedder finds, the summaries under the pictures."""

import numpy as np

from fieldmark.report.elva.inputs import ElvaReport
from fieldmark.report.elva.items import ItemPictures, grain_marks, query_words
from fieldmark.report.elva.looking import Looked, Side
from fieldmark.report.html import Html, el, join
from fieldmark.report.page import Section, missing
from fieldmark.report.svg import marker_icon


def rankings_section(report: ElvaReport, looked: Looked, pictures: ItemPictures) -> Section:
    """Strata of queries; for each its nearest candidates under both embedders."""
    facts = any(one.facts for one in looked.candidates)
    lead = (
        "What is found for single queries, nearest first. ✓ on a picture: the collection calls it right. "
        + ("Under it, which parts of the query (grains) it has and which it lacks" if facts else "Under it")
        + (", and " if facts else " ")
        + "the summary that its embedding was read behind. Shown by rule, not by taste: as many queries that rose "
        "as fell, the largest changes first, then some on which both agree."
    )
    body: list[Html] = []
    if looked.cut:
        body.append(el("p", looked.cut, class_="small"))
    for stratum in looked.strata:
        if stratum.chosen:
            cards = [_card(query, looked, pictures) for query in stratum.chosen]
            share = f"{stratum.count} of {len(looked.queries)} queries; {len(cards)} shown"
            body.append(join(el("h3", stratum.title, el("small", f" {share}")), cards))
    empty = [f"{stratum.title} ({stratum.count})" for stratum in looked.strata if not stratum.chosen]
    note = missing(f"Nothing to show under: {', '.join(empty)}.") if empty else None
    return Section("rankings", "Rankings", lead, join(body, note))


def _card(number: int, looked: Looked, pictures: ItemPictures) -> Html:
    query = looked.queries[number]
    words = query_words(query)
    head = el(
        "header",
        el("p", pictures.shown(query.item, f"Query: {words}"), class_="ranking-query"),
        el("p", query.instruction, class_="small") if query.instruction else None,
        class_="ranking-head",
    )
    return el(
        "article",
        head,
        [_answer(number, side, looked, pictures) for side in looked.sides],
        class_="ranking",
        aria_label=f"Query {words}",
    )


def _answer(number: int, side: Side, looked: Looked, pictures: ItemPictures) -> Html:
    rank = int(side.first_hit[number])
    where = f"first right one at rank {rank}" if rank else "nothing right in this pool"
    title = el("p", el("span", marker_icon(side.row.role), class_=side.style), side.row.title, class_="method-name")
    told = _told(side.queries.summaries[number], side.queries.forced[number])
    hits = [
        _hit(place, k, number, side, looked, pictures)
        for k, place in enumerate(side.top[number].tolist(), start=1)
        if place >= 0
    ]
    return el(
        "div",
        el("div", title, el("p", where, class_="small"), class_="ranking-title"),
        None if told is None else el("p", el("b", "Query's summary: "), told, class_="summary"),
        el("ol", hits, aria_label=f"{side.row.title}: nearest first"),
        class_="ranking-answer",
    )


def _hit(place: int, rank: int, number: int, side: Side, looked: Looked, pictures: ItemPictures) -> Html:
    query, item = looked.queries[number], looked.candidates[place]
    right = place in looked.relevant[number]
    alt = f"{rank}: {'right' if right else 'wrong'}"
    cosine = float(np.dot(side.queries.embeddings[number].numpy(), side.candidates.embeddings[place].numpy()))
    frame = el(
        "span",
        pictures.shown(item, alt),
        el("span", "✓" if right else "✗", class_="sign", aria_hidden="true"),
        class_="frame",
    )
    told = _told(side.candidates.summaries[place], side.candidates.forced[place])
    return el(
        "li",
        frame,
        el("span", f"cosine {cosine:.3f}", class_="hit-caption"),
        grain_marks(query, item.facts),
        None if told is None else el("p", told, class_="summary"),
        class_="right" if right else "wrong",
    )


def _told(summary: str | None, forced: bool) -> Html | None:
    """A summary as it was written; None in one-word mode."""
    if summary is None:
        return None
    ended = el("small", " [RET] was appended", class_="forced") if forced else el("small", " [RET]")
    return join(el("q", summary) if summary else el("em", "nothing was written"), ended)
