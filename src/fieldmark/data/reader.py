"""One picture of a collection as the network sees it: decoded, perhaps cropped, resized, perhaps mirrored.

This module does not import torch: decoding processes load it.
"""

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from PIL import Image

_TYPICAL_PICTURE_BYTES = 500 * 400 * 3
_LOG_MAX_RATIO = math.log(4 / 3)


class Pictures(Protocol):
    """What a reader reads: a `LabelledImages`, or the pictures of retrieval items."""

    def __len__(self) -> int: ...

    def decode(self, i: int) -> Image.Image:
        """Picture i as RGB. Raises `BadImage`."""

    def name(self, i: int) -> str:
        """Picture i as errors call it."""


@dataclass(frozen=True)
class Augmentation:
    """Random changes of training pictures; with the defaults there are none."""

    horizontal_flip: bool = False
    """Mirror every second picture."""
    crop_scale_min: float = 1.0
    """Crops keep a share of the area drawn uniformly from this to 1, their sides stretched by up to 4:3 against
    the picture's; 1 keeps the whole picture."""

    def __post_init__(self) -> None:
        if not 0 < self.crop_scale_min <= 1:
            raise ValueError(f"crop_scale_min must be above 0 and at most 1, got {self.crop_scale_min}")


class PictureReader:
    """Reads pictures as uint8 (S, S, 3); remembers decoded ones if all of them are expected to fit.

    Pictures are resized whole, without keeping their proportions (as the published protocol has it), bicubic with
    antialiasing. What is kept is the resized picture, or the decoded one if it is cropped anew each time.

    Args:
        collection: the pictures.
        image_size: S.
        augmentation: None for none.
        seed: of the augmentation.
        cache_bytes: memory for kept pictures. If the collection does not fit (with crops: taken to be of
            500 × 400 pixels), none is kept: a small share would not pay.
    """

    def __init__(
        self,
        collection: Pictures,
        image_size: int,
        augmentation: Augmentation | None,
        seed: int,
        cache_bytes: int,
    ) -> None:
        self.collection = collection
        self.image_size = image_size
        self._augmentation = augmentation or Augmentation()
        self._seed = seed
        self._crops = self._augmentation.crop_scale_min < 1
        each = _TYPICAL_PICTURE_BYTES if self._crops else image_size * image_size * 3
        self.keeps: bool = len(collection) * each <= cache_bytes
        """Whether pictures are kept."""
        self._free = cache_bytes if self.keeps else 0
        self._kept: dict[int, Image.Image] = {}

    def share(self, readers: int) -> "PictureReader":
        """A reader for one of `readers` processes, with an equal share of the memory and nothing kept yet."""
        own = PictureReader(self.collection, self.image_size, self._augmentation, self._seed, 0)
        own.keeps, own._free = self.keeps, self._free // readers
        return own

    def read(self, i: int, step: int, position: int) -> np.ndarray:
        """Picture i at `position` of batch `step`: uint8 (S, S, 3), a pure function of these and the seed.

        Raises:
            BadImage: it cannot be decoded.
        """
        size = (self.image_size, self.image_size)
        image = self._kept.get(i)
        if image is None:
            image = self.collection.decode(i)
            if not self._crops:
                image = image.resize(size, Image.Resampling.BICUBIC)
            self._keep(i, image)
        if self._augmentation == Augmentation():
            return np.asarray(image)
        scale, ratio, x, y, mirror = np.random.default_rng([self._seed, step, position]).random(5)
        if self._crops:
            box = self._box(image.size, scale, ratio, x, y)
            image = image.resize(size, Image.Resampling.BICUBIC, box=box)
        pixels = np.asarray(image)
        return pixels[:, ::-1] if self._augmentation.horizontal_flip and mirror < 0.5 else pixels

    def _keep(self, i: int, image: Image.Image) -> None:
        cost = image.width * image.height * 3
        if self.keeps and cost <= self._free:
            self._free -= cost
            self._kept[i] = image

    def _box(
        self, size: tuple[int, int], scale: float, ratio: float, x: float, y: float
    ) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the crop, from four uniform numbers."""
        smallest = self._augmentation.crop_scale_min
        area = smallest + (1 - smallest) * scale
        stretch = math.exp((2 * ratio - 1) * _LOG_MAX_RATIO / 2)
        width, height = math.sqrt(area) * stretch, math.sqrt(area) / stretch
        if width > 1:
            width, height = 1.0, area
        elif height > 1:
            width, height = area, 1.0
        left, top = (1 - width) * x * size[0], (1 - height) * y * size[1]
        right = min(left + width * size[0], float(size[0]))
        return left, top, right, min(top + height * size[1], float(size[1]))
