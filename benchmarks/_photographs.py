"""JPEG files with the detail of photographs, for benchmarks that read files."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageFilter


def write_pictures(folder: Path, count: int) -> float:
    """JPEG files of four classes; returns their mean size in kilobytes."""
    rng = np.random.default_rng(0)
    for i in range(count):
        width, height = int(rng.integers(450, 551)), int(rng.integers(360, 441))
        image = Image.new("RGB", (width, height))
        for scale in (40, 12, 3):  # blotches of several sizes, as photographs have
            noise = rng.integers(0, 256, (height // scale + 1, width // scale + 1, 3), dtype=np.uint8)
            layer = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
            image = Image.blend(image, layer, 0.75 if scale == 40 else 0.3)
        path = folder / str(i % 4) / f"{i:04d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.filter(ImageFilter.GaussianBlur(0.6)).save(path, quality=92)
    return float(np.mean([path.stat().st_size for path in folder.rglob("*.jpg")]) / 1000)
