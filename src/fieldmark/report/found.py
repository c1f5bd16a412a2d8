"""Pages of a search: what was asked and what was found, and groups of near-duplicates. One file each."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fieldmark.report.html import Html, breakable, el, join
from fieldmark.report.page import Section, missing, page, settings_section

KICKER = "fieldmark search"


@dataclass(frozen=True)
class ShownPart:
    """One part of a query.

    title: what it is ("Picture", "Words", …). weight: None where it has none of its own. uri: data URI of its picture.
    """

    title: str
    weight: float | None
    text: str | None = None
    uri: str | None = None


@dataclass(frozen=True)
class ShownPicture:
    """A picture that was found.

    score: cosine similarity. uri: data URI, or None where it cannot be shown, and `reason` says why.
    """

    path: str
    id: str
    score: float
    uri: str | None
    reason: str = ""
    facts: Mapping[str, Any] = field(default_factory=dict)
    """Columns of its row; empty values are left out."""


@dataclass(frozen=True)
class ShownGroup:
    """Near-duplicates. size: of the whole group, of which `pictures` may be the first few."""

    pictures: Sequence[ShownPicture]
    size: int


def results_page(
    parts: Sequence[ShownPart],
    found: Sequence[ShownPicture],
    summary: str,
    settings: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> Html:
    """What was asked, and the pictures that were found, best first.

    Args:
        summary: a sentence below the title.
        notes: what was not done as asked.
    """
    results = [_picture(one, f"{rank}") for rank, one in enumerate(found, start=1)]
    sections = [
        Section(
            "query",
            "Asked for",
            "",
            join(
                el("ul", [_part(one) for one in parts], class_="found parts"),
                [el("p", f"Note: {note}") for note in notes],
            ),
        ),
        Section(
            "results",
            "Found",
            "Best first. The number is the cosine similarity to the query, 1 at most.",
            el("ol", results, class_="found") if results else missing("No picture meets the condition."),
        ),
        settings_section(settings),
    ]
    return page("Search results", summary, sections, kicker=KICKER)


def duplicates_page(groups: Sequence[ShownGroup], summary: str, settings: Mapping[str, Any]) -> Html:
    """Groups of near-duplicates, the largest picture of each first. summary: a sentence below the title."""
    body = [
        join(
            el("h3", f"{number}. {group.size:,} pictures"),
            el("p", f"{len(group.pictures)} of them are shown.") if len(group.pictures) < group.size else None,
            el(
                "ul",
                [_picture(one, "largest" if place == 0 else "") for place, one in enumerate(group.pictures)],
                class_="found",
            ),
        )
        for number, group in enumerate(groups, start=1)
    ]
    lead = (
        "The picture with the most pixels comes first; the numbers are cosine similarities to it. A group is a chain: "
        "what is linked over others may be less similar to the first."
    )
    shown = join(body) if groups else missing("No two pictures are that similar.")
    sections = [Section("groups", "Groups", lead, shown), settings_section(settings)]
    return page("Near-duplicates", summary, sections, kicker=KICKER)


def _part(part: ShownPart) -> Html:
    words = el("p", part.text, class_="words") if part.text is not None else None
    image = el("img", src=part.uri, alt=f"{part.title} of the query") if part.uri is not None else None
    away = part.weight is not None and part.weight < 0
    caption = [el("span", "not this" if away else part.title)]
    if part.weight is not None:
        caption.append(el("span", f"{part.weight:+g}".replace("-", "−")))
    return el(
        "li",
        el(
            "figure",
            image,
            words,
            el("figcaption", el("span", caption, class_="score")),
            class_="away" if away else None,
        ),
    )


def _picture(one: ShownPicture, label: str) -> Html:
    image = (
        missing(f"Not shown: {one.reason}") if one.uri is None else el("img", src=one.uri, alt=one.path, loading="lazy")
    )
    facts = [f"{name}: {value}" for name, value in one.facts.items() if value is not None and value != ""]
    caption = el(
        "figcaption",
        el("span", el("span", label), el("span", f"{one.score:.3f}".replace("-", "−")), class_="score"),
        el("span", breakable(one.path), title=one.id),
        [el("span", fact, class_="facts") for fact in facts],
    )
    return el("li", el("figure", image, caption))
