"""One picture of one bird: drawn, rendered, photographed badly, with its mask."""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import resvg_py
from PIL import Image, ImageFilter

from fieldmark.data.fieldguide.drawing import Canvas, branch, draw_bird, draw_leaves, random_posture
from fieldmark.data.fieldguide.habitat import draw_habitat

PICTURE_SIZE = 96


@dataclass(frozen=True)
class Picture:
    """``image`` uint8 (H, W, 3); ``mask`` uint8 (H, W) with indices into ``drawing.PARTS``."""

    image: np.ndarray
    mask: np.ndarray


def take_picture(
    attributes: Mapping[str, str],
    habitat: int | None,
    nuisance: float,
    rng: np.random.Generator,
    size: int = PICTURE_SIZE,
) -> Picture:
    """Draw and 'photograph' a bird.

    Args:
        attributes: a value for each of FIELD_MARKS and PLUMAGE.
        habitat: seed of the place; None for the plain paper of a plate.
        nuisance: 0 (plate of a book) to 1 (bad day): camera, leaves, light, tint, blur, noise.
        rng: the only source of randomness.
        size: side in pixels.
    """
    compose = _scene(attributes, habitat, nuisance, rng)
    image = _render(compose(False), size, "geometric_precision")
    mask = _render(compose(True), size, "crisp_edges")[:, :, 0]
    return Picture(_photograph(image, nuisance, rng), (mask.astype(np.int64) + 10).astype(np.uint8) // 20)


def take_image(
    attributes: Mapping[str, str],
    habitat: int | None,
    nuisance: float,
    rng: np.random.Generator,
    size: int = PICTURE_SIZE,
) -> np.ndarray:
    """The `image` of `take_picture` alone, the same for the same generator, in less time."""
    compose = _scene(attributes, habitat, nuisance, rng)
    return _photograph(_render(compose(False), size, "geometric_precision"), nuisance, rng)


def _scene(
    attributes: Mapping[str, str], habitat: int | None, nuisance: float, rng: np.random.Generator
) -> Callable[[bool], str]:
    """Draws posture, place and leaves from `rng`; returns what writes the scene as SVG, flat or in colour."""
    posture = random_posture(rng, nuisance)
    place, leaves = int(rng.integers(2**31)), int(rng.integers(2**31))

    def compose(flat: bool) -> str:
        canvas = Canvas(flat)
        draw_habitat(canvas, habitat, np.random.default_rng(place))
        branch(canvas, posture)
        draw_bird(canvas, attributes, posture)
        draw_leaves(canvas, np.random.default_rng(leaves), nuisance)
        return canvas.svg()

    return compose


def _render(svg: str, size: int, quality: Literal["geometric_precision", "crisp_edges"]) -> np.ndarray:
    png = bytes(
        resvg_py.svg_to_bytes(svg_string=svg, width=size, height=size, shape_rendering=quality, skip_system_fonts=True)
    )
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def _photograph(image: np.ndarray, nuisance: float, rng: np.random.Generator) -> np.ndarray:
    """Light (a gradient and exposure), tint, blur and noise, each growing with the dial."""
    n = nuisance
    light, tilt, tint = rng.uniform(-0.35, 0.35), rng.uniform(-0.3, 0.3, 2), rng.uniform(-0.22, 0.22, 3)
    blur, noise = rng.uniform(0, 2.2), rng.uniform(0, 22)
    if n <= 0:
        return image
    radius = blur * n
    if radius > 0.2:
        image = np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))
    h, w, _ = image.shape
    y, x = np.mgrid[0:h, 0:w] / max(h, w) - 0.5
    gain = (1 + n * light) * (1 + n * (tilt[0] * x + tilt[1] * y))[..., None] * (1 + n * tint)
    pixels = image * gain + rng.standard_normal(image.shape) * noise * n
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)
