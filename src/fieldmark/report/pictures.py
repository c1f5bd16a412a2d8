"""Pictures and heat as data URIs."""

import base64
import io

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fieldmark.data.collection import LabelledImages

HEAT_PIXELS = 72
_REACH = 3.0
"""Heat is shown from 1/8 to 8 times the uniform attention."""

# Below uniform a dark veil, above it from straw over orange to red.
_VEIL = (16, 20, 30)
_WARM = ((255, 196, 40), (255, 128, 20), (206, 20, 24))


class Pictures:
    """Decodes pictures of a collection once, and writes each as a small WebP data URI."""

    def __init__(self, images: LabelledImages, pixels: int) -> None:
        self._images = images
        self._pixels = pixels
        self._uris: dict[int, str] = {}

    def uri(self, index: int) -> str:
        """Data URI of picture ``index``, at most ``pixels`` large."""
        if index not in self._uris:
            self._uris[index] = picture_uri(self._images.decode(index), self._pixels)
        return self._uris[index]

    def class_name(self, index: int) -> str:
        """Class of picture ``index``."""
        return self._images.class_names[int(self._images.labels[index])]

    def id(self, index: int) -> str:
        """Stable name of picture ``index``."""
        return self._images.ids[index]

    def stack(self, indices: list[int], side: int) -> Tensor:
        """uint8 (n, side, side, 3), resized as the encoders see them."""
        resized = [
            np.asarray(self._images.decode(i).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))
            for i in indices
        ]
        return torch.from_numpy(np.stack(resized).copy())


def picture_uri(picture: Image.Image, pixels: int) -> str:
    """Data URI of a picture, at most ``pixels`` wide and high. The picture stays as it is."""
    small = picture.convert("RGB")
    small.thumbnail((pixels, pixels), Image.Resampling.LANCZOS)
    return webp_uri(small, 82)


def heat_uri(attention: Tensor, grid: tuple[int, int]) -> str:
    """Transparent overlay of a distribution over patches, (N,) row-major, smoothly upsampled.

    Its scale is the same for every picture and method: multiples of uniform attention, logarithmic.
    """
    rows, columns = grid
    if attention.numel() != rows * columns:
        raise ValueError(f"attention over {attention.numel()} patches does not fit a grid of {rows} x {columns}")
    values = attention.detach().float().cpu().numpy().reshape(rows, columns) * attention.numel()
    return webp_uri(heat_overlay(values, HEAT_PIXELS), 80)


def heat_overlay(multiples: np.ndarray, pixels: int) -> Image.Image:
    """RGBA overlay of multiples of uniform attention, (h, w) → (pixels, pixels)."""
    levels = np.clip(np.log2(np.maximum(multiples, 1e-6)), -_REACH, _REACH).astype(np.float32)
    smooth = Image.fromarray(levels).resize((pixels, pixels), Image.Resampling.BICUBIC)
    t = np.clip(np.asarray(smooth) / _REACH, -1, 1)
    overlay = np.zeros((pixels, pixels, 4), np.float32)
    overlay[..., :3] = np.where((t < 0)[..., None], np.array(_VEIL, np.float32), _ramp(np.maximum(t, 0)))
    overlay[..., 3] = 255 * np.where(t < 0, 0.68 * -t, np.minimum(0.74, 0.95 * t))
    return Image.fromarray(np.rint(overlay).astype(np.uint8))


def heat_legend_uri() -> str:
    """The scale from 1/8 to 8 times uniform, over mid grey, as one strip."""
    t = np.linspace(-_REACH, _REACH, 120)
    strip = np.asarray(heat_overlay(np.exp2(np.tile(t, (2, 1))), 120))[:12]
    ground = Image.new("RGBA", (120, 12), (168, 168, 160, 255))
    return webp_uri(Image.alpha_composite(ground, Image.fromarray(strip)).convert("RGB"), 90)


def _ramp(t: np.ndarray) -> np.ndarray:
    stops = np.linspace(0, 1, len(_WARM))
    return np.stack([np.interp(t, stops, [colour[c] for colour in _WARM]) for c in range(3)], -1)


def webp_uri(picture: Image.Image, quality: int) -> str:
    """A picture as a data URI."""
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
