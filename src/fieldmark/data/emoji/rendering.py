"""SVG → PNG, for all drawings of the collection, by several processes."""

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import resvg_py
from PIL import Image, ImageColor

from fieldmark.data.emoji.icons import BadDrawing, Icon, square_svg
from fieldmark.data.parallel import map_indices


@dataclass(frozen=True)
class Rendering:
    """PNG bytes (RGB, size × size), or why there are none."""

    png: bytes = b""
    problem: str = ""


@dataclass(frozen=True)
class Renderer:
    """`Renderer(icons, …)(i)` renders icons[i]. Can be sent to other processes."""

    icons: Sequence[Icon]
    size: int
    background: str

    def __call__(self, index: int) -> Rendering:
        try:
            return Rendering(render(square_svg(self.icons[index]), self.size, self.background))
        except BadDrawing as error:
            return Rendering(problem=str(error))


def render(svg: str, size: int, background: str) -> bytes:
    """An SVG without outside references as PNG (RGB) on a plain background.

    Raises:
        BadDrawing: the renderer refuses it, or it draws nothing.
    """
    try:
        drawn = resvg_py.svg_to_bytes(
            svg_string=svg, width=size, height=size, shape_rendering="geometric_precision", skip_system_fonts=True
        )
    except ValueError as error:
        raise BadDrawing(f"the renderer refuses it ({error})") from error
    picture = Image.open(io.BytesIO(bytes(drawn))).convert("RGBA")
    if picture.getchannel("A").getextrema()[1] == 0:
        raise BadDrawing("it draws nothing")
    paper = Image.new("RGBA", picture.size, ImageColor.getrgb(background))
    out = io.BytesIO()
    Image.alpha_composite(paper, picture).convert("RGB").save(out, "PNG")
    return out.getvalue()


def render_all(
    icons: Sequence[Icon],
    size: int,
    background: str,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[Rendering]:
    """Every icon rendered, in order, by `workers` processes (0: in this one)."""
    found = map_indices(Renderer(icons, size, background), len(icons), workers, progress)
    return [rendering for _, rendering in found]
