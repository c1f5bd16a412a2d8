"""The page around the sections: head, security policy, navigation, colours, behaviour."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

from fieldmark.report.html import Child, Html, el, join

_FEW = 5
"""Links of the navigation that take a second line on a phone, rather than being scrolled to."""


@dataclass(frozen=True)
class Section:
    """One part of the report. ``id`` is its anchor, ``short`` its name in the navigation (None: the
    title)."""

    id: str
    title: str
    lead: str
    body: Html
    short: str | None = None


def missing(sentence: str) -> Html:
    """In place of something that cannot be shown: why."""
    return el("p", sentence, class_="missing")


def page(
    title: str,
    intro: str,
    sections: Sequence[Section],
    mosaic: Sequence[str] = (),
    *,
    heading: str | None = None,
    kicker: str = "fieldmark report",
    scripts: Sequence[str] = ("page.js",),
) -> Html:
    """The whole document. Its policy lets nothing load from outside, and no script run but its own.

    mosaic: data URIs of pictures beside the title, decoration only. heading: what stands above all, if not the title.
    kicker: the small line above it. scripts: files of this package, run one after the other.
    """
    style, script = _resource("style.css"), "\n".join(map(_resource, scripts))
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=policy),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="generator", content="fieldmark"),
        el("link", rel="icon", href="data:,"),
        el("title", title),
        # Raw by intent: both are package data, and hashed in the policy.
        Html(f"<style>{style}</style>"),
    )
    links = [el("li", el("a", section.short or section.title, href=f"#{section.id}")) for section in sections]
    theme = el("button", "Light / dark", type="button", class_="theme", id="theme", hidden=True)
    body = el(
        "body",
        el("a", "Skip to the result", href="#main", class_="skip"),
        el(
            "header",
            el(
                "div",
                el("p", kicker, class_="kicker"),
                el("h1", heading or title),
                [el("p", paragraph) for paragraph in intro.split("\n\n") if paragraph.strip()],
            ),
            el("div", [el("img", src=uri, alt="") for uri in mosaic], class_="mosaic") if mosaic else None,
            class_="top",
        ),
        el("nav", el("ul", links), theme, aria_label="Sections", class_="few" if len(links) <= _FEW else None),
        el("main", [_section(section) for section in sections], id="main", tabindex=-1),
        el("footer", el("p", "One file, nothing loaded from elsewhere.")),
        Html(f"<script>{script}</script>"),
    )
    return Html(f"<!DOCTYPE html>\n{el('html', head, body, lang='en')}\n")


def _section(section: Section) -> Html:
    heading = f"{section.id}-title"
    return el(
        "section",
        el("h2", section.title, id=heading),
        el("p", section.lead, class_="lead") if section.lead else None,
        section.body,
        id=section.id,
        aria_labelledby=heading,
    )


def verdict(methods: Sequence[tuple[list[str | Html], list[Html]]], caveat: str) -> Html:
    """What the figures say: of each method a beginning of a sentence, and list items that compare it with other rows.

    caveat: what the comparisons do not say.
    """
    if not methods:
        return missing("No row of this report has the role “method”: the figures stand for themselves.")
    sentences = [
        el("li", head, ":" if clauses else ".", el("ul", clauses) if clauses else None) for head, clauses in methods
    ]
    return el("div", el("ul", sentences, class_="verdict"), el("p", caveat, class_="small"), class_="verdict-box")


def settings_section(settings: Mapping[str, Any]) -> Section:
    """Seeds, versions, commands, times, as they were given."""
    body = _value(settings) if settings else missing("No settings were given.")
    return Section("settings", "Settings", "What is needed to make these figures again.", join(body))


def _value(value: Any) -> Child:
    if isinstance(value, Mapping):
        return el(
            "dl",
            [[el("dt", str(key)), el("dd", _value(one))] for key, one in value.items()],
            class_="settings",
        )
    if isinstance(value, list | tuple):
        if all(not isinstance(one, Mapping | list | tuple) for one in value) and len(value) <= 12:
            short = all(len(str(one)) <= 24 for one in value)
            return ", ".join(map(str, value)) if short else el("ul", [el("li", _value(one)) for one in value])
        return el("ul", [el("li", _value(one)) for one in value])
    text = "–" if value is None else str(value)
    return el("code", text) if isinstance(value, str) and (" --" in text or "\n" in text) else text


def _resource(name: str) -> str:
    return (resources.files("fieldmark.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
