"""Folders of coloured pictures, and an encoder that is quick and counts what it is asked."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.search.encoders import EncoderInput


class GridEncoder:
    """Mean colours of a picture's four quarters, and a constant, at unit length."""

    reads_words = False
    embedding_size = 13
    max_text_tokens = 0

    def __init__(self, name: str = "grid", fingerprint: str = "6d" * 32) -> None:
        self.name, self.fingerprint = name, fingerprint
        self.count = 0

    def decode_size(self) -> int:
        return 8

    def cuts(self, text: str) -> bool:
        return False

    def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
        self.count += len(items)
        pictures = np.stack([item.picture for item in items if item.picture is not None])
        quarters = pictures.reshape(len(items), 2, 4, 2, 4, 3).mean(axis=(2, 4)).reshape(len(items), 12) / 255
        vectors = np.concatenate([quarters, np.full((len(items), 1), 0.1)], axis=1)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def draw(path: Path, seed: int, size: tuple[int, int] = (20, 12), **options: object) -> None:
    """A picture of four random colours."""
    colours = np.random.default_rng(seed).integers(0, 256, (2, 2, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(colours).resize(size, Image.Resampling.NEAREST).save(path, **options)


def draw_folder(root: Path, count: int, first: int = 0) -> Path:
    """`count` pictures in three folders: "kind-0/0.png", "kind-1/1.png", …"""
    for number in range(first, first + count):
        draw(root / f"kind-{number % 3}" / f"{number}.png", number)
    return root


class Deadly:
    """Stands where a path stands; reading it ends or blocks the process."""

    def __init__(self, hang: bool) -> None:
        self.hang = hang

    def stat(self) -> os.stat_result:
        if self.hang:
            time.sleep(60)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError
