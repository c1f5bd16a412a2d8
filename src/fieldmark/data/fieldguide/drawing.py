"""The bird as SVG: one drawing, rendered twice — in colour as the picture, in flat part colours as the mask.

Coordinates are percent of the picture: (0, 0) top left, (100, 100) bottom right. The bird looks right; posture mirrors
it. Every shape carries the part that it belongs to, so picture and mask cannot disagree.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

PARTS: tuple[str, ...] = (
    "habitat",
    "crown",
    "back",
    "belly",
    "bill",
    "breast",
    "wing",
    "tail",
    "eye",
    "legs",
    "occluder",
)
"""Mask value → part. 0 is everything that is not bird; the last is a leaf in front of it."""

PART_OF_ATTRIBUTE: Mapping[str, str] = {
    "bill shape": "bill",
    "bill color": "bill",
    "breast pattern": "breast",
    "wing pattern": "wing",
    "mark color": "wing",
    "tail shape": "tail",
    "eye ring": "eye",
    "leg color": "legs",
    "crown color": "crown",
    "back color": "back",
    "belly color": "belly",
}
"""Attribute name → part of the mask in which it can be seen."""

INK = "#2b2622"
BILL = {"yellow": "#f6c51f", "red": "#d92f2a", "black": "#24211f", "blue": "#3f7fc4"}
MARK = {"white": "#fdfbf4", "yellow": "#f8d02c", "red": "#d8322c", "blue": "#2f62c9"}
RING = {"white": "#ffffff", "yellow": "#fbd32e", "red": "#e0342e"}
LEG = {"orange": "#f0851f", "black": "#262321", "pink": "#ee7fae", "green": "#4f9f4a"}
UPPER = {"brown": "#8a6444", "gray": "#7d848c", "olive": "#7d8448", "rust": "#b0663f", "teal": "#4c8784"}
LOWER = {"cream": "#f3e7c9", "ash": "#d5d8d9", "buff": "#e5c99a", "peach": "#f3c5a8", "mint": "#cfe3cd"}


@dataclass(frozen=True)
class Posture:
    """How the bird stands and where: what varies from picture to picture of one species.

    ``lean``, ``head`` and ``tail`` are degrees; ``dx``, ``dy`` percent of the picture; ``scale`` 1 fills nearly
    the whole picture.
    """

    mirrored: bool = False
    lean: float = 0.0
    head: float = 0.0
    tail: float = 0.0
    stance: float = 0.0
    scale: float = 1.0
    rotation: float = 0.0
    dx: float = 0.0
    dy: float = 0.0


def random_posture(rng: np.random.Generator, nuisance: float) -> Posture:
    """Draw a posture: small natural movement always, camera rotation, scale and shift on the nuisance dial (0–1)."""
    n = nuisance
    return Posture(
        mirrored=bool(rng.random() < 0.5),
        lean=float(rng.uniform(-7, 7)),
        head=float(rng.uniform(-8, 8)),
        tail=float(rng.uniform(-8, 8)),
        stance=float(rng.uniform(-2, 2)),
        scale=float(0.93 - n * rng.uniform(-0.06, 0.5)),
        rotation=float(n * rng.uniform(-40, 40)),
        dx=float(n * rng.uniform(-16, 16)),
        dy=float(n * rng.uniform(-14, 14)),
    )


class Canvas:
    """Collects shapes; ``flat`` renders part colours without edges instead of the drawing's own colours."""

    def __init__(self, flat: bool):
        self.flat = flat
        self.shapes: list[str] = []
        self._clips = 0

    def path(
        self, part: str, d: str, fill: str, *, stroke: str | None = None, width: float = 0.0, clip: str = ""
    ) -> None:
        """Add a path. ``stroke`` alone (fill 'none') draws a line; ``clip`` names a clip path from :meth:`clip`."""
        if self.flat:
            color = part_color(part)
            fill = fill if fill == "none" else color
            stroke = color if stroke else None
        line = (
            f' stroke="{stroke}" stroke-width="{width:.2f}" stroke-linecap="round" stroke-linejoin="round"'
            if stroke
            else ""
        )
        clipping = f' clip-path="url(#{clip})"' if clip else ""
        self.shapes.append(f'<path d="{d}" fill="{fill}"{line}{clipping}/>')

    def circle(
        self,
        part: str,
        x: float,
        y: float,
        r: float,
        fill: str,
        *,
        stroke: str | None = None,
        width: float = 0.0,
        clip: str = "",
    ) -> None:
        """Add a circle as a path of two arcs."""
        d = f"M{x - r:.2f},{y:.2f}a{r:.2f},{r:.2f} 0 1 0 {2 * r:.2f},0a{r:.2f},{r:.2f} 0 1 0 {-2 * r:.2f},0Z"
        self.path(part, d, fill, stroke=stroke, width=width, clip=clip)

    def clip(self, d: str) -> str:
        """Define a clip path and return its id."""
        self._clips += 1
        name = f"c{self._clips}"
        self.shapes.append(f'<clipPath id="{name}"><path d="{d}"/></clipPath>')
        return name

    def open(self, transform: str) -> None:
        """Open a transformed group."""
        self.shapes.append(f'<g transform="{transform}">')

    def close(self) -> None:
        """Close the last group."""
        self.shapes.append("</g>")

    def svg(self) -> str:
        """The document."""
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100">{"".join(self.shapes)}</svg>'


def part_color(part: str) -> str:
    """The flat colour that encodes a part in the mask render: the red channel is 20 × its number."""
    return f"#{20 * PARTS.index(part):02x}0000"


BODY = "M22,58 C25,42 42,31 58,35 C70,38 75,48 71,58 C67,69 53,75 40,72 C31,70 25,66 22,58Z"
BELLY = "M27,64 C38,62 52,61 60,50 C65,43 70,42 72,49 C74,58 66,70 52,73 C42,74 31,71 27,64Z"
WING = "M24,57 C29,43 43,38 55,43 C57,53 49,62 37,64 C30,65 25,62 24,57Z"


def draw_bird(canvas: Canvas, attributes: Mapping[str, str], posture: Posture) -> None:
    """Draw a bird with these attributes (all of FIELD_MARKS and PLUMAGE) in this posture."""
    p = posture
    mirror = "translate(100 0) scale(-1 1) " if p.mirrored else ""
    canvas.open(
        f"translate({p.dx:.2f} {p.dy:.2f}) {mirror}rotate({p.rotation:.2f} 50 52) "
        f"translate(50 52) scale({p.scale:.3f}) translate(-50 -52)"
    )
    _legs(canvas, LEG[attributes["leg color"]], p.stance)
    canvas.open(f"rotate({p.lean:.2f} 48 66)")
    back = UPPER[attributes["back color"]]
    canvas.open(f"rotate({p.tail:.2f} 26 58)")
    _tail(canvas, attributes["tail shape"], back)
    canvas.close()
    canvas.path("back", BODY, back, stroke=INK, width=1.0)
    canvas.path("belly", BELLY, LOWER[attributes["belly color"]])
    _breast(canvas, attributes["breast pattern"])
    _wing(canvas, attributes["wing pattern"], MARK[attributes["mark color"]], _shade(back, 0.72))
    canvas.open(f"rotate({p.head:.2f} 64 40)")
    _bill(canvas, attributes["bill shape"], BILL[attributes["bill color"]])
    canvas.circle("back", 67, 33, 12.5, back, stroke=INK, width=1.0)
    canvas.path("back", "M55,40 C58,33 62,30 70,36 L70,47 L57,50Z", back)
    canvas.path(
        "crown",
        "M55,31 C57,19 75,17 79,29 C72,25 63,26 55,31Z",
        _shade(UPPER[attributes["crown color"]], 0.9),
        stroke=INK,
        width=0.6,
    )
    _eye(canvas, attributes["eye ring"])
    canvas.close()
    canvas.close()
    canvas.close()


def _legs(canvas: Canvas, color: str, stance: float) -> None:
    for x, foot in ((46, 44 - stance), (53, 53 + stance)):
        leg = f"M{x},68 L{foot:.1f},84 M{foot - 5:.1f},87 L{foot:.1f},84 L{foot + 5:.1f},87"
        canvas.path("legs", leg, "none", stroke=INK, width=4.4)
        canvas.path("legs", leg, "none", stroke=color, width=3.1)


_TAILS = {
    "forked": "M30,52 L2,54 L15,61 L4,73 L32,66Z",
    "fanned": "M30,54 L6,47 C-1,56 0,70 8,77 L32,66Z",
    "pointed": "M30,53 L0,66 L32,66Z",
    "square": "M30,53 L5,56 L7,70 L32,66Z",
    "streaming": (
        "M30,54 C20,56 14,60 4,84 C6,88 9,86 10,84 C14,76 17,71 21,69 "
        "C19,77 18,82 17,92 C20,95 22,93 22,90 C23,80 26,71 33,66Z"
    ),
}


def _tail(canvas: Canvas, shape: str, back: str) -> None:
    canvas.path("tail", _TAILS[shape], _shade(back, 0.82), stroke=INK, width=1.0)


_BILLS = {
    "hooked": "M77,28 C85,26 92,29 92,38 C92,41 90,43 88,42 C89,38 86,37 77,38Z",
    "conical": "M76,24 L92,33 L76,41Z",
    "needle": "M77,31 L100,33 L77,36Z",
    "curved": "M77,28 C88,27 97,34 97,48 C92,40 86,36 77,36Z",
    "spatulate": "M77,30 L88,31 C92,26 99,27 99,33 C99,39 92,40 88,36 L77,36Z",
}


def _bill(canvas: Canvas, shape: str, color: str) -> None:
    canvas.path("bill", _BILLS[shape], color, stroke=INK, width=0.9)


def _breast(canvas: Canvas, pattern: str) -> None:
    clip = canvas.clip(BELLY)
    dark = "#4a3426"
    # The breast region itself is part of the mask even where no mark is drawn: "plain" must be looked at, too.
    if canvas.flat:
        canvas.path("breast", "M52,56 C58,52 64,44 72,44 L76,60 L56,73Z", "#000000", clip=clip)
    if pattern == "spotted":
        for x, y in ((66, 48), (70, 54), (62, 54), (66, 60), (58, 60), (61, 66), (54, 66)):
            canvas.circle("breast", x, y, 1.9, dark, clip=clip)
    elif pattern == "streaked":
        for x, y in ((68, 45), (64, 49), (60, 53), (56, 57), (71, 53), (67, 57), (62, 61)):
            canvas.path("breast", f"M{x},{y} l-2.5,8.5", "none", stroke=dark, width=1.7, clip=clip)
    elif pattern == "banded":
        for k in range(3):
            canvas.path(
                "breast",
                f"M{58 - 4 * k},{47 + 7 * k} C{64 - 3 * k},{51 + 7 * k} {70 - 2 * k},{51 + 7 * k} {78},{47 + 6 * k}",
                "none",
                stroke=dark,
                width=2.7,
                clip=clip,
            )
    elif pattern == "bibbed":
        canvas.path("breast", "M60,42 L78,40 L76,56 C70,63 62,60 59,53Z", dark, clip=clip)


def _wing(canvas: Canvas, pattern: str, mark: str, color: str) -> None:
    canvas.path("wing", WING, color, stroke=INK, width=0.9)
    clip = canvas.clip(WING)
    if pattern == "barred":
        for x in (37, 45):
            canvas.path("wing", f"M{x + 5},38 C{x},46 {x - 1},54 {x - 4},67", "none", stroke=mark, width=3.4, clip=clip)
    elif pattern == "patched":
        canvas.path("wing", "M37,45 C46,41 52,46 48,53 C44,59 36,57 34,53 C33,50 34,47 37,45Z", mark)
    elif pattern == "dotted":
        for x, y in ((49, 46), (42, 45), (36, 49), (46, 52), (39, 55), (32, 55), (34, 60)):
            canvas.circle("wing", x, y, 2.0, mark, clip=clip)
    elif pattern == "edged":
        canvas.path("wing", "M25,58 C30,64 37,65 44,61 C51,57 56,51 55,44", "none", stroke=mark, width=4.6, clip=clip)
    else:  # chevroned
        for x in (34, 43):
            canvas.path("wing", f"M{x},44 L{x + 7},52 L{x},60", "none", stroke=mark, width=3.0, clip=clip)


def _eye(canvas: Canvas, ring: str) -> None:
    if ring != "none":
        canvas.circle("eye", 70, 33, 5.2, RING[ring], stroke=INK, width=0.5)
    canvas.circle("eye", 70, 33, 2.9, "#17130f")
    canvas.circle("eye", 71, 32, 0.9, "#ffffff")
    if canvas.flat:  # the region around the eye, so that "no ring" has a place
        canvas.circle("eye", 70, 33, 5.2, "#000000")


def _shade(color: str, factor: float) -> str:
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"#{int(red * factor):02x}{int(green * factor):02x}{int(blue * factor):02x}"


def draw_leaves(canvas: Canvas, rng: np.random.Generator, nuisance: float) -> None:
    """Leaves hanging into the picture in front of the bird: at most three, more likely the higher the dial."""
    for _ in range(int(rng.binomial(3, min(1.0, 0.9 * nuisance)))):
        angle, x, y = rng.uniform(0, 360), rng.uniform(8, 92), rng.uniform(8, 92)
        size = rng.uniform(7, 12)
        green = ("#4d7a3a", "#6b8f3c", "#3d6b47", "#8a9a3f")[rng.integers(4)]
        canvas.open(f"translate({x:.1f} {y:.1f}) rotate({angle:.1f}) scale({size / 10:.2f})")
        canvas.path("occluder", "M-10,0 C-5,-6 5,-6 10,0 C5,6 -5,6 -10,0Z", green, stroke="#2f4a26", width=0.7)
        canvas.path("occluder", "M-10,0 L9,0", "none", stroke="#2f4a26", width=0.7)
        canvas.close()


def branch(canvas: Canvas, posture: Posture) -> None:
    """The perch under the feet, moving with the bird."""
    p = posture
    sway = math.sin(p.rotation * 0.3) * 3
    canvas.open(
        f"translate({p.dx:.2f} {p.dy:.2f}) rotate({p.rotation * (-1 if p.mirrored else 1):.2f} 50 52) "
        f"translate(50 52) scale({p.scale:.3f}) translate(-50 -52)"
    )
    canvas.path("habitat", f"M-60,{91 + sway:.1f} C0,86 60,92 160,{87 - sway:.1f}", "none", stroke="#5d4632", width=5.0)
    canvas.close()
