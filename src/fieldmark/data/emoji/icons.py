"""Drawings of one style: an Iconify package read, each drawing as a square SVG that can load nothing from outside."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.parsers import expat

from fieldmark.data.emoji.packages import read_json

MAX_BODY_CHARACTERS = 2**20
"""The largest drawing of the pinned packages has 172,613."""

_ELEMENTS = frozenset({
    "circle", "clipPath", "defs", "ellipse", "g", "line", "linearGradient", "mask", "path", "pattern", "polygon",
    "polyline", "radialGradient", "rect", "stop", "svg", "symbol", "use", "filter", "feBlend", "feColorMatrix",
    "feComponentTransfer", "feComposite", "feFlood", "feFuncA", "feFuncB", "feFuncG", "feFuncR", "feGaussianBlur",
    "feMerge", "feMergeNode", "feMorphology", "feOffset",
})  # fmt: skip
_HEXCODE = re.compile(r"[0-9A-Fa-f]{1,6}(-[0-9A-Fa-f]{1,6})*")
_SELECTORS = frozenset({"FE0E", "FE0F"})
_SVG = (
    '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
    'viewBox="{left:g} {top:g} {side:g} {side:g}">{body}</svg>'
)


class BadDrawing(ValueError):
    """A drawing that is refused, or that draws nothing. The rest of its style is not concerned."""


@dataclass(frozen=True)
class Icon:
    """One drawing as the package has it: the inside of an SVG and the box that it lies in, in its own units."""

    name: str
    body: str
    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Style:
    """A style: its drawings by code points, and what its package says of itself."""

    key: str
    title: str
    """As its makers call it: "Noto Emoji"."""
    info: Mapping[str, Any]
    """info.json: author, licence."""
    icons: Mapping[str, Icon]
    """By code points as `plain_hexcode` writes them."""


def plain_hexcode(code_points: str) -> str:
    """Code points in one spelling: "2764-fe0f" → "2764".

    Variation selectors say whether text or a picture is wanted; packages write them or not, as they like.

    Raises:
        ValueError: these are no code points. (They become names of files.)
    """
    if _HEXCODE.fullmatch(code_points) is None:
        raise ValueError(f"code points are written like 1f44d-1f3ff, got {code_points!r}")
    return "-".join(part for part in code_points.upper().split("-") if part not in _SELECTORS)


def read_style(key: str, folder: Path) -> Style:
    """Reads an Iconify package: `icons.json` holds drawings by name, `chars.json` names by code points.

    Raises:
        ValueError: the package has another layout, or two different drawings for one emoji.
    """
    info, chars, drawn = (read_json(folder / f"{name}.json") for name in ("info", "chars", "icons"))
    bodies = drawn.get("icons")
    if not isinstance(bodies, dict) or not isinstance(info.get("name"), str):
        raise ValueError(f"{folder} is no Iconify package: icons.json needs `icons`, info.json needs `name`")
    icons: dict[str, Icon] = {}
    for code_points, name in chars.items():
        if not isinstance(name, str) or not isinstance(bodies.get(name), dict):
            raise ValueError(f"{folder / 'chars.json'} names the drawing {name!r}, which icons.json does not have")
        icon = _icon(name, bodies[name], drawn, folder)
        if icons.setdefault(plain_hexcode(code_points), icon).name != name:
            raise ValueError(f"{folder / 'chars.json'} has two drawings for {plain_hexcode(code_points)}")
    return Style(key, info["name"], info, icons)


def _icon(name: str, icon: Mapping[str, Any], drawn: Mapping[str, Any], folder: Path) -> Icon:
    if icon.keys() & {"rotate", "hFlip", "vFlip"}:
        raise ValueError(f"{folder}: {name!r} is turned or mirrored, which only aliases are in the pinned versions")
    # Iconify's rule: the drawing's own box, else the package's, else 16; the corner is 0 unless it is said
    left, top, width, height = (
        icon.get(field, drawn.get(field, default))
        for field, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    box = (left, top, width, height)
    if not isinstance(icon.get("body"), str) or not all(isinstance(n, (int, float)) and abs(n) < 1e6 for n in box):
        raise ValueError(f"{folder}: the drawing {name!r} needs a body and a box of numbers, got the box {box}")
    if width <= 0 or height <= 0:
        raise ValueError(f"{folder}: the drawing {name!r} is {width} x {height} units large")
    return Icon(name, icon["body"], left, top, width, height)


def square_svg(icon: Icon) -> str:
    """The drawing in the middle of a square.

    Raises:
        BadDrawing: it is no XML, too large, holds anything but drawing elements, or refers to anything outside of
            itself: the renderer would open files that a drawing names.
    """
    if len(icon.body) > MAX_BODY_CHARACTERS:
        raise BadDrawing(f"its text is longer than {MAX_BODY_CHARACTERS} characters")
    side = max(icon.width, icon.height)
    left, top = icon.left - (side - icon.width) / 2, icon.top - (side - icon.height) / 2
    svg = _SVG.format(left=left, top=top, side=side, body=icon.body)
    _refuse_what_is_not_drawing(svg)
    return svg


def _refuse_what_is_not_drawing(svg: str) -> None:
    def declaration(*_: Any) -> None:
        raise BadDrawing("it declares a document type or has processing instructions")

    def element(name: str, attributes: dict[str, str]) -> None:
        if name not in _ELEMENTS:
            raise BadDrawing(f"it holds <{name}>, which is not among the elements that are drawn")
        for key, value in attributes.items():
            if key.rsplit(":", 1)[-1] == "href" and not value.startswith("#"):
                raise BadDrawing(f"<{name}> refers to {value[:60]!r}, outside of the drawing")
            if value.lower().count("url(") != value.count("url(#"):
                raise BadDrawing(f"<{name}> refers to {value[:60]!r}, outside of the drawing")

    parser = expat.ParserCreate()
    parser.StartElementHandler = element
    parser.StartDoctypeDeclHandler = declaration
    parser.ProcessingInstructionHandler = declaration
    try:
        parser.Parse(svg.encode(), True)
    except expat.ExpatError as error:
        raise BadDrawing(f"it is no XML ({error})") from error
