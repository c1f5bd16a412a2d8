"""Small collections on disk. Every picture differs from every other one."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Writer = Callable[..., Path]


def picture(key: str, size: tuple[int, int] = (40, 32)) -> Image.Image:
    """A picture of soft colour patches, decided by `key`."""
    rng = np.random.default_rng(list(key.encode()))
    patches = Image.fromarray(rng.integers(0, 256, (4, 5, 3), dtype=np.uint8))
    return patches.resize(size, Image.Resampling.BICUBIC)


def picture_bytes(key: str, kind: str = "PNG", size: tuple[int, int] = (40, 32)) -> bytes:
    buffer = io.BytesIO()
    picture(key, size).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def make_bytes() -> Callable[..., bytes]:
    return picture_bytes


@pytest.fixture
def write_pictures(tmp_path: Path) -> Writer:
    """Writes pictures at the given names below a folder; returns the folder."""

    def write(*names: str, root: str = "pictures") -> Path:
        for name in names:
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture_bytes(name))
        return tmp_path / root

    return write


@pytest.fixture
def birds(write_pictures: Writer) -> Path:
    """Six classes with four pictures each, as class folders."""
    return write_pictures(*(f"{bird}/{n}.png" for bird in "abcdef" for n in range(4)))
