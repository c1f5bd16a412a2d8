"""The page about one match: who answers to whom, what weighs how much, what the supervisor says."""

from collections.abc import Mapping, Sequence
from typing import Any

from fieldmark.evaluation.correspondence import MatchExplanation
from fieldmark.evaluation.pair_account import DescribedAttribute, PairAccount
from fieldmark.report.attention import scale_controls
from fieldmark.report.html import Html, breakable, el, join
from fieldmark.report.match_drawing import (
    GAP,
    LINKS,
    SIDE,
    Match,
    links,
    patch_box,
)
from fieldmark.report.page import Section, missing, page, settings_section
from fieldmark.report.veil import largest, veil_key_uri, veil_overlays

MOST_PAIRS = 2**16
"""Pairs of patches up to which all contributions are written into the page: 256 patches a picture, 0.3 MB."""

_SHIFT = SIDE + GAP


def match_page(match: Match, settings: Mapping[str, Any]) -> Html:
    """One HTML document that loads nothing: without its script it shows the drawing, with it every pair of patches.

    settings: shown at the end as they are.
    """
    found = match.explanation
    which = (
        f"The cosine of the two embeddings is {found.cosine:.4f}. It"
        if found.centred_cosine is None
        else f"Without what all pictures of the collection share, the cosine of the two embeddings is "
        f"{found.centred_cosine:.4f} (with it {found.cosine:.4f}). This centred cosine"
    )
    intro = (
        f"{which} is the sum of what every patch of the one picture carries with every patch of the other: nothing is "
        "estimated. How the tower came to its patches, each of which has seen its neighbours, is not explained by it."
    )
    said = [] if match.account is None else [_supervisor(match, match.account)]
    sections = [_board(match), _maps(match), *said, settings_section(settings)]
    title = " and ".join(match.names)
    scripts = ("page.js", "explain.js")
    return page(title, intro, sections, heading="Why this match", kicker="fieldmark explain", scripts=scripts)


def _board(match: Match) -> Section:
    found = match.explanation
    strongest = found.strongest(LINKS)
    lead = (
        "Framed and joined: the pairs of patches that carry most together beyond their shares, that is beyond what "
        "each carries with the other picture as a whole. Thick is more."
        if found.centred_cosine is None
        else "Framed and joined: the pairs of patches that carry most of the centred cosine. Thick is more."
    )
    patches = found.contribution.size <= MOST_PAIRS
    most = largest([found.contribution])
    drawing = el(
        "svg",
        [
            el(
                "image",
                x=item * _SHIFT,
                width=match.size(item)[0],
                height=match.size(item)[1],
                href=match.uri(item),
                preserveAspectRatio="none",
            )
            for item in (0, 1)
        ],
        links(match, strongest, _SHIFT),
        [_patches(match, item, most) for item in (0, 1)] if patches else None,
        viewBox=f"0 0 {_SHIFT + SIDE} {max(match.size(0)[1], match.size(1)[1])}",
        id="board" if patches else None,
        data_cosine=f"{found.explained_cosine:.6f}",
        data_of=_of(found),
        data_largest=f"{most:.6g}",
        role="group",
        aria_label="Both pictures with corresponding patches",
    )
    pointing = (
        join(
            el(
                "p",
                "Point at a patch, or focus one and walk with the arrow keys: the other picture shows in yellow how "
                "much each of its patches carries with it, from the least to the most.",
                class_="small",
                id="pointing",
                hidden=True,
            ),
            el("p", class_="told", id="told", role="status"),
        )
        if patches
        else missing(
            f"{found.contribution.size} pairs of patches are too many to point at on a page; the JSON has all."
        )
    )
    names = [el("figcaption", el("b", f"{k + 1}"), " ", breakable(name)) for k, name in enumerate(match.names)]
    figure = el("figure", el("div", names, class_="duo"), drawing, pointing, class_="board")
    return Section("match", "Which patch answers to which", lead, join(figure, _table(match)), short="Patches")


def _patches(match: Match, item: int, most: float) -> Html:
    """A transparent frame per patch; those of picture 1 hold their row of contributions in thousandths."""
    found, grid, size = match.explanation, match.attentions[item].shape, match.size(item)
    rects = []
    for index in range(grid[0] * grid[1]):
        place = divmod(index, grid[1])
        x, y, width, height = patch_box(place, grid, size)
        row = None
        if item == 0:
            row = " ".join(str(round(1000 * float(one) / most)) for one in found.contribution[index])
        label = f"picture {item + 1}, row {place[0] + 1}, column {place[1] + 1}"
        rects.append(
            el(
                "rect",
                x=x + item * _SHIFT,
                y=y,
                width=width,
                height=height,
                fill_opacity=0,
                data_row=row,
                role="img",
                aria_label=label,
            )
        )
    return el("g", rects, id=f"patches-{'ab'[item]}", data_columns=grid[1], class_="patches", hidden=True)


def _table(match: Match) -> Html:
    found = match.explanation
    centred = found.centred_cosine is not None
    rows = [
        el(
            "tr",
            el("th", _place(one.a), scope="row"),
            el("td", _place(one.b)),
            el("td", _parts(one.contribution)),
            None if centred else el("td", _parts(one.specific)),
        )
        for one in found.strongest(2 * LINKS)
    ]
    if not rows:
        return missing(
            "No two patches draw the pictures together."
            if centred
            else "No two patches carry more together than their shares."
        )
    titles = ("Picture 1", "Picture 2", "carry") + (() if centred else ("beyond their shares",))
    head = el("tr", [el("th", text, scope="col") for text in titles])
    table = el("div", el("table", el("thead", head), el("tbody", rows)), class_="scroll")
    note = (
        f"In thousandths of the cosine's scale. An equal share of {found.contribution.size} pairs would be "
        f"{_parts(found.explained_cosine / found.contribution.size)}."
    )
    return el("details", el("summary", "The same in numbers"), el("p", note, class_="small"), table)


def _maps(match: Match) -> Section:
    found = match.explanation
    lead = "Dark patches carry nothing, orange ones add, blue ones take away; both pictures of a map have one scale."
    if found.centred_cosine is not None:
        lead += (
            " The similarity adds up to the centred cosine: orange patches are alike beyond what all pictures of the "
            "collection share, blue ones speak against it."
        )
    lead += (
        " The difference adds up to 1 − cosine: orange patches keep the two embeddings apart, blue ones draw them "
        "together."
    )
    weigh = {
        "attention": "Attention: what each patch weighs in the embedding",
        "mean": "Weight: mean pooling weighs every patch alike",
        "max": "Weight: from which patch the numbers of the largest token are taken",
    }[found.pooler]
    carried = f"What each patch carries of the {_of(found)} {found.explained_cosine:.4f}"
    kinds = (
        ("Weight", weigh, match.attentions),
        ("Similarity", carried, match.similarities),
        ("Difference", f"What each patch adds to 1 − cosine, {1 - found.cosine:.4f}", match.differences),
    )
    figures = []
    for title, text, maps in kinds:
        overlays = veil_overlays(maps)
        caption = el("figcaption", el("b", title), f"{text}. Full colour: {largest(maps):.2g}")
        layers = [_layers(match, item, overlays[item], title) for item in (0, 1)]
        figures.append(el("figure", caption, el("div", layers, class_="duo")))
    alt = "Scale: blue takes away, dark is nothing, orange adds"
    controls = scale_controls("takes away", veil_key_uri(signed=True), "adds", alt)
    return Section("maps", "Patch by patch", lead, join(controls, el("div", figures, class_="maps")), short="Maps")


def _layers(match: Match, item: int, overlay: str, what: str) -> Html:
    label = f"{what} over picture {item + 1}, {match.names[item]}"
    return el(
        "span",
        el("img", src=match.uri(item, 200), alt=label),
        el("img", src=overlay, alt="", class_="heat"),
        class_="layers",
    )


def _supervisor(match: Match, account: PairAccount) -> Section:
    title = "What the supervisor says"
    said = {True: "yes", False: "no", None: "no clear answer"}[account.verdict]
    lead = (
        f"Is it the {account.question}? It says: {said}. {_counted(account)} Below, its attention in decoder layer "
        f"{account.layer} (from 0) while it wrote each value."
    )
    described = [one for one in account.attributes if any(one.values)]
    if not described:
        return Section("supervisor", title, lead, join(_remarks(account), missing("It described no attribute.")))
    rows = [
        el(
            "tr",
            el("th", one.name, scope="row"),
            [el("td", _values(values), dir="auto", class_="differs" if one.differs else None) for values in one.values],
            el("td", "differs" if one.differs else "–", class_="mark-differs"),
        )
        for one in described
    ]
    head = el("tr", [el("th", text, scope="col") for text in ("Attribute", "Picture 1", "Picture 2", "")])
    table = el("div", el("table", el("thead", head), el("tbody", rows), class_="words"), class_="scroll")
    tiles = [_tile(match, one) for one in described if any(a is not None for a in one.attention)]
    controls = scale_controls("0", veil_key_uri(signed=False), "most", "Scale from nothing to the most of an attribute")
    body = join(table, _remarks(account), controls, el("div", tiles, class_="attributes"))
    return Section("supervisor", title, lead, body, short="Supervisor")


def _values(values: Sequence[tuple[str, int]]) -> str:
    total = sum(count for _, count in values)
    return ", ".join(f"{text} ({count} of {total})" for text, count in values) or "–"


def _counted(account: PairAccount) -> str:
    parts = []
    for one in account.answers:
        unreadable = f", {one.unreadable} unreadable" if one.unreadable else ""
        asked = f" ({', '.join(one.attributes)})" if len(account.answers) > 1 else ""
        parts.append(f"{one.same} yes, {one.different} no{unreadable}{asked}")
    several = " Each prompt asks for some attributes only, so one no is a no." if len(parts) > 1 else ""
    return f"Completions: {'; '.join(parts)}.{several}"


def _remarks(account: PairAccount) -> Html | None:
    lines = [
        el("li", f"{key}: ", el("q", text, dir="auto")) for one in account.answers for key, text in one.remarks.items()
    ]
    return el("details", el("summary", "Its remarks"), el("ul", lines, class_="varying")) if lines else None


def _tile(match: Match, one: DescribedAttribute) -> Html:
    figures = []
    attended = [(item, attention) for item, attention in enumerate(one.attention) if attention is not None]
    overlays = veil_overlays([attention for _, attention in attended])
    for (item, _), overlay in zip(attended, overlays, strict=True):
        value = one.shown[item]
        if value is None:
            continue
        layers = _layers(match, item, overlay, f"Attention while writing {one.name}: {value}")
        caption = el("figcaption", el("span", f"“{value}”", dir="auto", class_="value-said"))
        figures.append(el("figure", layers, caption))
    return el("div", el("h4", one.name), el("div", figures, class_="duo"), class_="attribute")


def _of(found: MatchExplanation) -> str:
    """What the contributions are parts of."""
    return "cosine" if found.centred_cosine is None else "centred cosine"


def _place(place: tuple[int, int]) -> str:
    return f"row {place[0] + 1}, column {place[1] + 1}"


def _parts(value: float) -> str:
    return f"{1000 * value:.3f}"
