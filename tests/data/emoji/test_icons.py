import copy
from pathlib import Path

import pytest
from tests.data.emoji.miniature import drawing, miniature, write_installed

from fieldmark.data.emoji.icons import (
    MAX_BODY_CHARACTERS,
    BadDrawing,
    Icon,
    plain_hexcode,
    read_style,
    square_svg,
)

NOTO = "@iconify-json/noto"


def icon(body: str, width: float = 32, height: float = 32) -> Icon:
    return Icon("it", body, 0, 0, width, height)


def test_hexcodes_in_one_spelling() -> None:
    assert plain_hexcode("2764-fe0f") == plain_hexcode("2764") == "2764"
    assert plain_hexcode("1f441-fe0f-200d-1f5e8-fe0f") == "1F441-200D-1F5E8"


@pytest.mark.parametrize("bad", ["../../x", "1f44d/..", "", "1f44d-", "thumbs-up"])
def test_names_of_files_are_hexcodes(bad: str) -> None:
    with pytest.raises(ValueError, match="code points are written"):
        plain_hexcode(bad)


def test_style_is_read_by_code_points(installed: Path) -> None:
    style = read_style("noto", installed / "node_modules" / NOTO)
    assert style.title == "Noto Emoji"
    assert style.info["license"]["spdx"] == "CC-BY-4.0"
    heart = style.icons["2764"]  # chars.json has 2764-fe0f
    assert heart == Icon("red-heart", drawing("noto", "red-heart"), 0, 0, 32, 32)


def test_box_of_a_drawing_goes_before_the_packages(tmp_path: Path) -> None:
    packages = miniature()
    packages[NOTO]["icons.json"]["icons"]["cat"] |= {"height": 20, "left": -3}
    style = read_style("noto", write_installed(tmp_path, packages) / "node_modules" / NOTO)
    cat = style.icons["1F408"]
    assert (cat.left, cat.top, cat.width, cat.height) == (-3, 0, 32, 20)
    assert 'viewBox="-3 -6 32 32"' in square_svg(cat)


@pytest.mark.parametrize(
    ("file", "change", "expected"),
    [
        ("chars.json", {"1f408": "no-such-drawing"}, "names the drawing 'no-such-drawing'"),
        ("chars.json", {"1f408": "dog"}, "two drawings for 1F408"),
        ("icons.json", {"icons": []}, "no Iconify package"),
        ("icons.json", {"width": 0}, "0 x 32 units"),
        ("icons.json", {"width": "wide"}, "box of numbers"),
        ("info.json", {"name": None}, "no Iconify package"),
    ],
)
def test_other_layouts_are_told(tmp_path: Path, file: str, change: dict[str, object], expected: str) -> None:
    packages = copy.deepcopy(miniature())
    packages[NOTO][file] |= change
    with pytest.raises(ValueError, match=expected):
        read_style("noto", write_installed(tmp_path, packages) / "node_modules" / NOTO)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('<image href="/etc/hostname" width="8" height="8"/>', "<image>"),
        ('<filter id="f"><feImage href="x.png"/></filter>', "<feImage>"),
        ("<script>1</script>", "<script>"),
        ("<style>@import url(x.css);</style>", "<style>"),
        ("<text>hi</text>", "<text>"),
        ('<use href="other.svg#a"/>', "refers to 'other.svg#a'"),
        ('<use xlink:href="&#x2f;tmp/x.svg#a"/>', "refers to '/tmp/x.svg#a'"),
        ('<path fill="url(x.svg#a)" d="M0 0h9v9z"/>', "refers to"),
        ('<path style="fill:url( \'http://x\' )" d="M0 0h9v9z"/>', "refers to"),
        ('</svg><!DOCTYPE a [<!ENTITY b "c">]><svg>', "no XML"),
        ("<?xml-stylesheet href='x.css'?>", "processing instructions"),
        ("<path", "no XML"),
        ("</svg><svg>", "no XML"),
        ("<path/>" * (MAX_BODY_CHARACTERS // 7 + 1), "longer than"),
    ],
)
def test_what_could_reach_outside_is_refused(body: str, expected: str) -> None:
    with pytest.raises(BadDrawing, match=expected):
        square_svg(icon(body))


def test_references_within_the_drawing_are_kept() -> None:
    body = (
        '<defs><linearGradient id="a"/><path id="b" d="M0 0h9v9z"/></defs>'
        '<use xlink:href="#b" fill="url(#a)"/><use href="#b"/><path style="fill:url(#a)" d="M0 0"/>'
    )
    assert body in square_svg(icon(body))
