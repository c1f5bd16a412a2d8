"""HTML by construction: every text is escaped unless it was built here, and nothing can point outside the
file."""

import html
import re
from collections.abc import Iterable
from typing import Any

_VOID = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr"})
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]*")
# Characters that HTML forbids (control characters, lone surrogates, non-characters), and those that reverse
# the direction of what follows: a class name must not be able to rewrite the line around it.
_FORBIDDEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff\u202a-\u202e\u2066-\u2069]")


class Html(str):
    """Text that is HTML already and is not escaped again."""

    __slots__ = ()


Child = str | int | float | None | Iterable[Any]
"""Html, text to be escaped, a number, None (nothing), or any nesting of them."""


def escape(text: object) -> Html:
    """Any text as HTML, safe in element content and in quoted attributes."""
    if isinstance(text, Html):
        return text
    return Html(html.escape(_FORBIDDEN.sub("\N{REPLACEMENT CHARACTER}", str(text).replace("\r\n", "\n")), quote=True))


def join(*children: Child) -> Html:
    """Children after one another, flattened."""
    return Html("".join(_flatten(children)))


def el(name: str, /, *children: Child, **attributes: str | int | float | bool | None) -> Html:
    """One element. ``class_`` writes ``class``, ``aria_label`` writes ``aria-label``; None and False leave
    out.

    Raises:
        ValueError: for a malformed name, an event handler or style attribute (the page's security policy
        would
            drop it), or a link that is neither an anchor in the page nor a data URI.
    """
    parts = [name]
    for key, value in attributes.items():
        key = key.rstrip("_").replace("_", "-")
        if value is None or value is False:
            continue
        if not _NAME.fullmatch(key) or key.startswith("on") or key == "style":
            raise ValueError(f"attribute {key!r} cannot be used in a report: use a class, and page.js for behaviour")
        if key in ("href", "src", "action", "srcset", "data") and not str(value).startswith(("#", "data:")):
            raise ValueError(
                f"{key} {str(value)[:60]!r} points outside the report: only '#...' and 'data:' may be used"
            )
        if isinstance(value, float):
            value = number(value)
        parts.append(key if value is True else f'{key}="{escape(value)}"')
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no element name")
    opening = f"<{' '.join(parts)}>"
    if name in _VOID:
        return Html(opening)
    return Html(f"{opening}{''.join(_flatten(children))}</{name}>")


def breakable(name: str) -> Html:
    """A long name (of a class, a file) that may be broken after its separators."""
    pieces = re.split(r"(?<=[._/-])", name)
    return Html("<wbr>".join(escape(piece) for piece in pieces if piece))


def number(value: float, digits: int = 2) -> str:
    """A coordinate: at most ``digits`` decimals, no trailing zeros, never ``-0``."""
    text = f"{value:.{digits}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def _flatten(children: Iterable[Any]) -> Iterable[str]:
    for child in children:
        if child is None or child is False:
            continue
        if isinstance(child, str | int | float):
            yield escape(child)
        else:
            yield from _flatten(child)
