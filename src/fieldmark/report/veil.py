"""Heat in absolute values, on white and on dark pictures alike: under a dark veil lies what carries nothing, orange is
what adds, blue what takes away. The search page's explanations work in the same way; here pictures under heat have lost
most of their colour (`faded`, and style.css for pages), so that heat may be stronger.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from fieldmark.report.pictures import HEAT_PIXELS, webp_uri

# Red, green, blue and opacity of 0, of the largest value and of its negative.
_VEIL, _WARM, _COLD = (14, 16, 24, 180), (255, 165, 40, 145), (60, 130, 255, 145)
_FADED = 0.7


def largest(maps: Sequence[np.ndarray]) -> float:
    """The largest absolute value: what has full colour. 1 if all are 0."""
    return max(float(np.abs(one).max()) for one in maps) or 1.0


def veil_overlays(maps: Sequence[np.ndarray]) -> list[str]:
    """Overlays of maps, (H, W) each, as data URIs, smoothly upsampled. One scale for all of them."""
    top = largest(maps)
    size = (HEAT_PIXELS, HEAT_PIXELS)
    scaled = [Image.fromarray((one / top).astype(np.float32)).resize(size, Image.Resampling.BICUBIC) for one in maps]
    return [webp_uri(_coloured(np.asarray(one)), 85) for one in scaled]


def faded(picture: Image.Image) -> Image.Image:
    """RGB with little colour of its own, which could be taken for heat."""
    rgb = picture.convert("RGB")
    return Image.blend(rgb, rgb.convert("L").convert("RGB"), _FADED)


def veil_key_uri(signed: bool) -> str:
    """The scale from 0, or from the largest value's negative, to the largest value, over mid grey, as one strip."""
    strip = _coloured(np.tile(np.linspace(-1 if signed else 0, 1, 120), (12, 1)))
    ground = Image.new("RGBA", strip.size, (168, 168, 160, 255))
    return webp_uri(Image.alpha_composite(ground, strip).convert("RGB"), 90)


def _coloured(values: np.ndarray) -> Image.Image:
    t = np.clip(values, -1, 1)[..., None]
    full = np.where(t > 0, np.array(_WARM, np.float32), np.array(_COLD, np.float32))
    overlay = np.array(_VEIL, np.float32) + np.abs(t) * (full - np.array(_VEIL, np.float32))
    return Image.fromarray(np.rint(overlay).astype(np.uint8))
