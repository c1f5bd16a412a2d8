import io

import numpy as np
import pytest
from PIL import Image
from tests.data.emoji.miniature import drawing

from fieldmark.data.emoji.icons import BadDrawing, Icon, square_svg
from fieldmark.data.emoji.rendering import render, render_all


def icon(body: str, width: float = 32, height: float = 32) -> Icon:
    return Icon("it", body, 0, 0, width, height)


def pixels(png: bytes) -> np.ndarray:
    picture = Image.open(io.BytesIO(png))
    assert (picture.format, picture.mode) == ("PNG", "RGB")
    return np.asarray(picture)


def test_drawing_is_not_stretched_and_stands_in_the_middle() -> None:
    red = pixels(render(square_svg(icon('<path fill="#f00" d="M0 0h32v16H0z"/>', 32, 16)), 64, "white"))
    assert red.shape == (64, 64, 3)
    inside = np.zeros((64, 64), dtype=bool)
    inside[16:48] = True
    assert (red[inside] == (255, 0, 0)).all()
    assert (red[~inside] == 255).all()


def test_background_shows_through() -> None:
    half = pixels(render(square_svg(icon('<path fill="#fff" fill-opacity=".5" d="M0 0h16v32H0z"/>')), 32, "#000000"))
    assert abs(int(half[16, 4, 0]) - 128) <= 1
    assert (half[:, 20:] == 0).all()


@pytest.mark.parametrize("body", ["", '<path d="M0 0h9v9z" fill="none"/>', '<g opacity="0"><rect width="9"/></g>'])
def test_what_draws_nothing_is_no_picture(body: str) -> None:
    with pytest.raises(BadDrawing, match="draws nothing"):
        render(square_svg(icon(body)), 16, "white")


def test_bad_drawings_are_told_and_the_others_made() -> None:
    good, bad = icon(drawing("a")), icon("<path")
    made = render_all([good, bad, good], 16, "white", workers=0)
    assert made[0] == made[2] and made[0].png and not made[0].problem
    assert not made[1].png and "no XML" in made[1].problem


def test_processes_render_the_same_bytes() -> None:
    icons = [icon(drawing(str(i))) for i in range(5)]
    assert render_all(icons, 16, "white", workers=1) == render_all(icons, 16, "white", workers=0)
