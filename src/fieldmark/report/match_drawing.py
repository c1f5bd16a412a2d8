"""A match as a drawing: both pictures, the patches that carry the cosine, heat; as SVG and, from it, PNG."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image, ImageFont

from fieldmark.evaluation.correspondence import Correspondence, MatchExplanation
from fieldmark.evaluation.pair_account import PairAccount
from fieldmark.report.html import Html, el, join, number
from fieldmark.report.pictures import webp_uri
from fieldmark.report.veil import faded, largest, veil_key_uri, veil_overlays

SIDE = 320
"""Longer side of a picture, in pixels of the drawing."""
GAP = 130
LINKS = 6
LINK_COLORS = ("#e4572e", "#17a398", "#f2b134", "#8e5bd0", "#3b82d6", "#d64c93")
"""Of the strongest pairs of patches, in order; then again from the start."""

_INK, _SOFT, _PAPER = "#24251f", "#63645a", "#fbf9f3"


@dataclass(frozen=True, eq=False)
class Match:
    """What is drawn and written about two pictures.

    pictures: as they were given; drawn with the aspect of the encoder's grid, as the encoder sees them. names: what
    people call them. account: the supervisor's, if there was one.
    """

    explanation: MatchExplanation
    pictures: tuple[Image.Image, Image.Image]
    names: tuple[str, str]
    account: PairAccount | None = None

    @property
    def attentions(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) of both."""
        return self.explanation.attention_a, self.explanation.attention_b

    @property
    def similarities(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) of both."""
        return self.explanation.similarity_a, self.explanation.similarity_b

    @property
    def differences(self) -> tuple[np.ndarray, np.ndarray]:
        """(H, W) of both."""
        return self.explanation.difference_a, self.explanation.difference_b

    def size(self, item: int, side: int = SIDE) -> tuple[int, int]:
        """Width and height of picture 0 or 1 in a drawing."""
        rows, columns = self.attentions[item].shape
        return round(side * columns / max(rows, columns)), round(side * rows / max(rows, columns))

    def uri(self, item: int, side: int = SIDE, *, under_heat: bool = False) -> str:
        """Picture 0 or 1 as a data URI. under_heat: with little colour of its own."""
        picture = self.pictures[item].convert("RGB").resize(self.size(item, side), Image.Resampling.LANCZOS)
        return webp_uri(faded(picture) if under_heat else picture, 85)


def patch_box(
    place: tuple[int, int], grid: tuple[int, int], size: tuple[int, int]
) -> tuple[float, float, float, float]:
    """x, y, width and height of the patch (row, column) in a picture of this width and height."""
    wide, high = size[0] / grid[1], size[1] / grid[0]
    return place[1] * wide, place[0] * high, wide, high


def links(match: Match, strongest: Sequence[Correspondence], shift: float) -> Html:
    """Frames around corresponding patches and curves between them; picture b is ``shift`` to the right of a."""
    sizes, grids = (match.size(0), match.size(1)), [one.shape for one in match.attentions]
    largest = max((one.specific for one in strongest), default=1.0)
    drawn = []
    for k, one in reversed(list(enumerate(strongest))):
        color = LINK_COLORS[k % len(LINK_COLORS)]
        xa, ya, wa, ha = patch_box(one.a, grids[0], sizes[0])
        xb, yb, wb, hb = patch_box(one.b, grids[1], sizes[1])
        aside = 3 * (k - (len(strongest) - 1) / 2)  # curves of one row of patches lie beside each other
        start, end = (xa + wa, ya + ha / 2 + aside), (xb + shift, yb + hb / 2 + aside)
        bend = shift - SIDE + 30
        curve = (
            f"M{number(start[0])},{number(start[1])}C{number(start[0] + bend)},{number(start[1])} "
            f"{number(end[0] - bend)},{number(end[1])} {number(end[0])},{number(end[1])}"
        )
        frame = {"fill": "none", "stroke": color, "stroke_width": 3}
        drawn += [
            el("path", d=curve, fill="none", stroke="#ffffff", stroke_width=5, stroke_opacity=0.7),
            el("path", d=curve, fill="none", stroke=color, stroke_width=1.2 + 3 * one.specific / largest),
            el("rect", x=xa + 1.5, y=ya + 1.5, width=wa - 3, height=ha - 3, **frame),  # type: ignore[arg-type]
            el("rect", x=xb + shift + 1.5, y=yb + 1.5, width=wb - 3, height=hb - 3, **frame),  # type: ignore[arg-type]
        ]
    return join(drawn)


def match_svg(match: Match) -> str:
    """The drawing as one SVG document that loads nothing: links between patches above, three rows of heat below."""
    found = match.explanation
    shift, tile, margin = SIDE + GAP, 180, 24
    width = 2 * margin + shift + SIDE
    top = 96
    strongest = found.strongest(LINKS)
    if found.centred_cosine is None:
        title = f"cosine {found.cosine:.3f}"
        framed = "framed patches carry more of it together than their shares"
        similarity = "what each patch carries of the cosine"
    else:
        title = f"centred cosine {found.centred_cosine:.3f} (cosine {found.cosine:.3f})"
        framed = "centred: without what the collection shares; framed pairs carry most"
        similarity = "of the centred cosine; orange: alike"
    pieces: list[Html] = [
        _text(margin, 40, title, 26),
        _text(margin, 64, f"{found.pooler} pooling; {framed}", 14, _SOFT),
    ]
    for item in (0, 1):
        wide, high = match.size(item)
        x = margin + item * shift
        pieces += [
            _text(x, top - 8, _short(match.names[item]), 14),
            el("image", x=x, y=top, width=wide, height=high, href=match.uri(item), preserveAspectRatio="none"),
        ]
    pieces.append(el("g", links(match, strongest, shift), transform=f"translate({margin} {top})"))
    below = top + SIDE + 44
    columns = (
        ("Attention", "what each patch weighs", match.attentions),
        ("Similarity", similarity, match.similarities),
        ("Difference", "orange: apart, blue: together", match.differences),
    )
    step = (width - 2 * margin - tile) / 2
    for k, (title, note, maps) in enumerate(columns):
        left, overlays = margin + k * step, veil_overlays(maps)
        pieces += [_text(left, below, title, 16), _text(left, below + 18, note, 12, _SOFT)]
        for item in (0, 1):
            wide, high = match.size(item, tile)
            y = below + 28 + item * (tile + 8)
            box = {"x": left, "y": y, "width": wide, "height": high, "preserveAspectRatio": "none"}
            pieces += [
                el("image", href=match.uri(item, tile, under_heat=True), **box),  # type: ignore[arg-type]
                el("image", href=overlays[item], **box),  # type: ignore[arg-type]
            ]
        pieces.append(_key(left, below + 28 + 2 * (tile + 8), tile, maps))
    height = below + 28 + 2 * (tile + 8) + 28 + margin
    return str(
        el(
            "svg",
            el("rect", width=width, height=height, fill=_PAPER),
            pieces,
            xmlns="http://www.w3.org/2000/svg",
            viewBox=f"0 0 {width} {height}",
            width=width,
            height=height,
        )
    )


def svg_to_png(svg: str, zoom: int = 1) -> bytes:
    """The drawing as PNG, ``zoom`` times as large; the same bytes on every machine.

    Letters come from the font that Pillow brings along: without any font resvg leaves text out and says nothing.

    Raises:
        OSError: Pillow was built without FreeType and brings no font.
    """
    font = ImageFont.load_default(12)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise OSError("Pillow was built without FreeType, so there is no font to write with: install its usual build")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "font.ttf"
        path.write_bytes(font.font_bytes)
        family = str(font.getname()[0])
        return bytes(
            resvg_py.svg_to_bytes(
                svg_string=svg, zoom=zoom, skip_system_fonts=True, font_files=[str(path)], font_family=family
            )
        )


def _key(x: float, y: float, width: float, maps: Sequence[np.ndarray]) -> Html:
    """The colours of maps, from 0 or the largest value's negative to the largest value."""
    top, signed = largest(maps), min(float(one.min()) for one in maps) < 0
    strip = el("image", x=x, y=y, width=width, height=10, href=veil_key_uri(signed), preserveAspectRatio="none")
    ends = ((0.0, f"-{top:.2g}", "start"), (0.5, "0", "middle")) if signed else ((0.0, "0", "start"),)
    ticks = [
        el("text", text, x=x + at * width, y=y + 24, font_size=12, fill=_SOFT, text_anchor=anchor)
        for at, text, anchor in (*ends, (1.0, f"{top:.2g}", "end"))
    ]
    return join(strip, ticks)


def _text(x: float, y: float, content: str, size: int, color: str = _INK) -> Html:
    return el("text", content, x=x, y=y, font_size=size, fill=color)


def _short(name: str, most: int = 42) -> str:
    return name if len(name) <= most else f"...{name[-most + 3 :]}"
