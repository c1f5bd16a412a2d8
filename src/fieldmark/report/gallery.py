"""Section "Gallery": the same queries, answered by every method, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fieldmark.data.fieldguide.species import FIELD_MARKS
from fieldmark.data.fieldguide.world import is_fieldguide, read_attributes
from fieldmark.evaluation.retrieval import top_k
from fieldmark.report.html import Html, breakable, el, join
from fieldmark.report.inputs import Report, ReportSizes
from fieldmark.report.measure import Measured, baseline_of
from fieldmark.report.page import Section, missing
from fieldmark.report.pictures import Pictures
from fieldmark.report.svg import marker_icon


@dataclass(frozen=True)
class Stratum:
    """Queries of one kind: how many there are, and the few that are shown."""

    title: str
    count: int
    chosen: tuple[int, ...]


def gallery_section(report: Report, measured: Sequence[Measured], pictures: Pictures) -> Section:
    """Strata of queries with every method's nearest pictures."""
    lead = (
        "The same pictures, put to every method. ✓ is the same class as the query, ✗ another. What is shown "
        "is chosen by rule, not by taste: as many queries that the method wins as it loses, then some on "
        "which all agree."
        + (
            " Under a wrong answer: its class, and the field marks in which that differs."
            if field_marks(report)
            else ""
        )
    )
    shown = [one for one in measured if one.result is not None]
    if not shown:
        return Section("gallery", "Gallery", "", missing("No row has an encoder, so nothing can be searched."))
    labels = report.test.labels
    k = min(report.sizes.neighbours, len(labels) - 1)
    nearest = np.stack([top_k(one.result.embeddings, k=k).indices.cpu().numpy() for one in shown if one.result])
    right = labels[nearest] == labels[:, None]
    assert shown[0].result is not None
    baseline = baseline_of(report, shown)
    method = next((i for i, one in enumerate(shown) if one.method.role == "method"), None)
    strata = choose_queries(
        right,
        labels,
        shown[0].result.metrics.evaluated,
        report.sizes,
        method,
        shown.index(baseline) if baseline is not None else None,
        [one.title for one in shown],
    )
    marks = field_marks(report)
    body = []
    for stratum in strata:
        if stratum.chosen:
            cards = [_query(q, shown, nearest[:, q], right[:, q], pictures, marks) for q in stratum.chosen]
            share = f"{stratum.count} of {len(labels)} queries; {len(cards)} shown"
            body.append(join(el("h3", stratum.title, el("small", f" {share}")), el("div", cards, class_="queries")))
    names = [f"{stratum.title} ({stratum.count})" for stratum in strata if not stratum.chosen]
    note = missing(f"Nothing to show under: {', '.join(names)}.") if names else None
    left_out = [one.title for one in measured if one.result is None]
    without = missing(f"Without an encoder, so not in the gallery: {', '.join(left_out)}.") if left_out else None
    return Section("gallery", "Gallery", lead, join(_chooser(shown), body, note, without))


def choose_queries(
    right: np.ndarray,
    labels: np.ndarray,
    evaluated: np.ndarray,
    sizes: ReportSizes,
    method: int | None,
    baseline: int | None,
    titles: Sequence[str],
) -> list[Stratum]:
    """Which queries to show; the same input gives the same queries.

    Args:
        right: bool (methods, n, k), whether each of the k nearest is of the query's class.
        labels, evaluated: (n,); queries that are not evaluated have nothing to find and are never shown.
        method, baseline: which rows are compared; None compares all.

    Within a stratum the classes differ as far as possible. Where methods differ, the largest differences in
    right answers come first (ties by order of the queries); where they agree, queries are taken at even
    distances.
    """
    first = right[:, :, 0]
    found = right.sum(-1)
    indices = np.flatnonzero(evaluated)
    used: set[int] = set()

    def pick(candidates: np.ndarray, count: int) -> tuple[int, ...]:
        fresh: list[int] = []
        repeated: list[int] = []
        for q in candidates.tolist():
            label = int(labels[q])
            (repeated if label in used or label in {int(labels[f]) for f in fresh} else fresh).append(q)
        chosen = (fresh + repeated)[:count]
        used.update(int(labels[q]) for q in chosen)
        return tuple(chosen)

    def by_score(which: np.ndarray, score: np.ndarray) -> np.ndarray:
        candidates = indices[which[indices]]
        return candidates[np.argsort(-score[candidates], kind="stable")]

    def even(which: np.ndarray, count: int) -> np.ndarray:
        """All candidates, the evenly spaced ones first."""
        candidates = indices[which[indices]]
        if len(candidates) == 0:
            return candidates
        spaced = np.unique((np.arange(count) + 0.5) * len(candidates) / count // 1).astype(np.int64)
        return np.concatenate([candidates[spaced], np.delete(candidates, spaced)])

    strata = []
    all_right, all_wrong = np.asarray(first.all(0)), np.asarray(~first.any(0))
    if method is not None and baseline is not None and method != baseline:
        gain = found[method] - found[baseline]
        pairs = (
            (f"{titles[method]} right, {titles[baseline]} wrong", first[method] & ~first[baseline], gain),
            (f"{titles[baseline]} right, {titles[method]} wrong", first[baseline] & ~first[method], -gain),
        )
        for number, (title, which, score) in enumerate(pairs):
            half = (sizes.differing_queries + 1 - number) // 2
            strata.append(Stratum(title, int(which[indices].sum()), pick(by_score(which, score), half)))
    elif len(right) > 1:
        differ = ~all_right & ~all_wrong
        chosen = pick(by_score(differ, found.max(0) - found.min(0)), sizes.differing_queries)
        strata.append(Stratum("Where the methods differ most", int(differ[indices].sum()), chosen))
    whose = "Every method" if len(right) > 1 else titles[0]
    for word, which in (("right", all_right), ("wrong", all_wrong)):
        count = sizes.agreeing_queries
        strata.append(Stratum(f"{whose} {word}", int(which[indices].sum()), pick(even(which, count), count)))
    return strata


def field_marks(report: Report) -> Mapping[str, Mapping[str, str]]:
    """Picture id → true attributes where they are known, else empty."""
    return read_attributes(report.test.root) if is_fieldguide(report.test.root) else {}


def _chooser(shown: Sequence[Measured]) -> Html | None:
    """Switches for the rows of every query; work only with the page's script, and are hidden without it."""
    if len(shown) < 2:
        return None
    boxes = [
        el(
            "label",
            el("input", type="checkbox", checked=True, value=one.method.name),
            el("span", marker_icon(one.method.role), class_=one.style),
            one.title,
        )
        for one in shown
    ]
    return el("fieldset", el("legend", "Show"), boxes, class_="chooser", id="chooser", hidden=True)


def _query(
    query: int,
    shown: Sequence[Measured],
    nearest: np.ndarray,
    right: np.ndarray,
    pictures: Pictures,
    marks: Mapping[str, Mapping[str, str]],
) -> Html:
    name = pictures.class_name(query)
    asked = el(
        "figure",
        el("img", src=pictures.uri(query), alt=f"Query: a picture of {name}"),
        el("figcaption", el("b", "Query"), " ", breakable(name)),
        class_="asked",
    )
    answers = []
    for row, one in enumerate(shown):
        hits = [
            _hit(rank, query, int(hit), bool(ok), pictures, marks)
            for rank, (hit, ok) in enumerate(zip(nearest[row], right[row], strict=True), start=1)
        ]
        label = el("p", el("span", marker_icon(one.method.role), class_=one.style), one.title, class_="method-name")
        answers.append(
            el(
                "div",
                label,
                el("ol", hits, aria_label=f"{one.title}: nearest first"),
                class_="answer",
                data_method=one.method.name,
            )
        )
    return el("article", asked, el("div", answers, class_="answers"), class_="query", aria_label=f"Query {name}")


def _hit(rank: int, query: int, hit: int, ok: bool, pictures: Pictures, marks: Mapping[str, Mapping[str, str]]) -> Html:
    name = pictures.class_name(hit)
    alt = f"{rank}: {name}, {'right' if ok else 'wrong'}"
    caption: list[Html] = []
    if not ok:
        caption.append(el("span", name, class_="hit-name", title=name))
        differing = differing_marks(marks, pictures.id(query), pictures.id(hit))
        if differing is not None:
            words = differing[0] if len(differing) == 1 else f"{len(differing)} marks"
            caption.append(el("span", words, class_="hit-marks", title=f"differs in {', '.join(differing)}"))
    return el(
        "li",
        el(
            "span",
            el("img", src=pictures.uri(hit), alt=alt),
            el("span", "✓" if ok else "✗", class_="sign", aria_hidden="true"),
            class_="frame",
        ),
        el("span", caption, class_="hit-caption") if caption else None,
        class_="right" if ok else "wrong",
    )


def differing_marks(marks: Mapping[str, Mapping[str, str]], one: str, other: str) -> list[str] | None:
    """Field marks in which two pictures' species differ; None if they are not known."""
    if one not in marks or other not in marks:
        return None
    return [name for name in FIELD_MARKS if marks[one].get(name) != marks[other].get(name)]
