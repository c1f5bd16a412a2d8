"""The drawing of a match: what is in the SVG, and that the PNG shows it."""

import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image, ImageFont
from tests.report.conftest import EVIL, make_encoder

from fieldmark.evaluation.correspondence import MatchExplanation, explain_pair
from fieldmark.models.pooler import PoolerKind
from fieldmark.report.match_drawing import (
    LINKS,
    Match,
    match_svg,
    patch_box,
    svg_to_png,
)
from fieldmark.report.veil import largest, veil_key_uri, veil_overlays


def make_match(
    kind: PoolerKind = "attention", names: tuple[str, str] = ("a.png", EVIL), account=None, centred: bool = False
) -> Match:
    random = np.random.default_rng(0)
    a, b, *others = (Image.fromarray(random.integers(0, 255, (40, 30, 3), np.uint8)) for _ in range(5))
    encoder = make_encoder(kind)
    centre = encoder.encode([a, b, *others]).mean(0) if centred else None
    return Match(explain_pair(encoder, a, b, centre=centre), (a, b), names, account)


def decoded(uri: str) -> np.ndarray:
    import base64

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1]))).convert("RGBA")).astype(int)


@pytest.mark.parametrize("kind", ["attention", "mean", "max"])
def test_svg_is_xml_that_loads_nothing(kind: PoolerKind) -> None:
    match = make_match(kind)
    svg = match_svg(match)
    root = ElementTree.fromstring(svg)
    tags = [element.tag.rsplit("}", 1)[1] for element in root.iter()]
    assert tags.count("image") == 2 + (2 * 2 + 1) * 3
    assert tags.count("rect") == 1 + 2 * len(match.explanation.strongest(LINKS))
    assert all(href.startswith("data:image/webp") for href in re.findall(r'href="([^"]*)"', svg))
    texts = [element.text for element in root.iter() if element.tag.endswith("text")]
    assert f"cosine {match.explanation.cosine:.3f}" in texts and any(EVIL[:10] in str(text) for text in texts)


def test_a_centred_drawing_says_so_and_has_signs() -> None:
    match = make_match(centred=True)
    found = match.explanation
    texts = [one.text for one in ElementTree.fromstring(match_svg(match)).iter() if one.tag.endswith("text")]
    assert f"centred cosine {found.centred_cosine:.3f} (cosine {found.cosine:.3f})" in texts
    assert "of the centred cosine; orange: alike" in texts and not any(
        "beyond their shares" in str(one) for one in texts
    )


def test_png_holds_letters_and_pictures_and_is_always_the_same() -> None:
    svg = match_svg(make_match())
    png = svg_to_png(svg, 1)
    assert png == svg_to_png(svg, 1)
    picture = np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)
    assert picture.shape[:2] == tuple(int(v) for v in re.findall(r'<svg[^>]* viewBox="0 0 (\d+) (\d+)"', svg)[0])[::-1]
    paper = picture[2, 2]
    title = picture[20:45, 24:200]
    assert (np.abs(title - paper).sum(-1) > 300).mean() > 0.02, "the title is not written"
    assert np.unique(picture[100:300, 30:200].reshape(-1, 3), axis=0).shape[0] > 500, "the first picture is missing"
    assert Image.open(io.BytesIO(svg_to_png(svg, 2))).size == (2 * picture.shape[1], 2 * picture.shape[0])


def test_a_pillow_without_font_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFont, "load_default", lambda size: ImageFont.ImageFont())
    with pytest.raises(OSError, match="FreeType"):
        svg_to_png("<svg/>")


def test_boxes_tile_the_picture() -> None:
    boxes = [patch_box((r, c), (2, 4), (320, 160)) for r in range(2) for c in range(4)]
    assert boxes[0] == (0, 0, 80, 80) and boxes[-1] == (240, 80, 80, 80)
    assert sum(w * h for _, _, w, h in boxes) == 320 * 160


def test_pictures_keep_the_aspect_of_the_grid() -> None:
    match = make_match()
    assert match.size(0) == (320, 320)
    values = np.full((2, 4), 1 / 8)
    wide = MatchExplanation(0.0, "mean", values, values, np.zeros((8, 8)), values, values)
    assert Match(wide, match.pictures, match.names).size(1, 200) == (200, 100)


def test_signs_have_colours_and_one_scale() -> None:
    first, second = veil_overlays([np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[-0.5, 0.0], [0.0, 0.0]])])
    strong, weak, nothing = decoded(first)[2, 2], decoded(second)[2, 2], decoded(first)[-3, -3]
    assert strong[0] > strong[2] + 100 and weak[2] > weak[0] + 50, "orange adds, blue takes away"
    assert strong[3] < weak[3] < nothing[3], "the more, the less veil"
    assert nothing[:3].max() < 50


@pytest.mark.parametrize("ground", [0, 128, 255])
def test_heat_is_seen_on_dark_and_on_white_pictures(ground: int) -> None:
    overlay = decoded(veil_overlays([np.array([[1.0, 0.0], [0.0, -1.0]])])[0])
    opacity = overlay[..., 3:] / 255
    seen = overlay[..., :3] * opacity + ground * (1 - opacity)
    warm, nothing, cold = seen[2, 2], seen[2, -3], seen[-3, -3]
    for one, other in ((warm, nothing), (cold, nothing), (warm, cold)):
        assert np.abs(one - other).max() > 60
    veiled = decoded(veil_overlays([np.zeros((2, 2))])[0])
    assert veiled[..., 3].min() > 170, "what carries nothing is dark, also where nothing carries"


def test_every_map_has_a_key_with_its_ends() -> None:
    match = make_match()
    texts = [one.text for one in ElementTree.fromstring(match_svg(match)).iter() if one.tag.endswith("text")]
    assert f"{largest(match.attentions):.2g}" in texts and f"-{largest(match.attentions):.2g}" not in texts
    top = largest(match.differences)
    assert {f"-{top:.2g}", "0", f"{top:.2g}"} <= set(texts)
    strip = decoded(veil_key_uri(signed=True))[6]
    assert strip[2, 2] > strip[2, 0] and strip[-3, 0] > strip[-3, 2] and strip[60, :3].max() < 90
