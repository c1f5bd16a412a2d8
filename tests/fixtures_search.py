"""A small index of coloured pictures, and an encoder whose embeddings can be worked out by hand."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from fieldmark.search.encoders import EncoderInput
from fieldmark.search.index import Index
from fieldmark.search.schema import Row, picture_id, rows_table

COLOURS = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "purple": (255, 0, 255),
    "orange": (255, 128, 0),
    "white": (255, 255, 255),
}


class ColourEncoder:
    """A picture or a colour's name to its red, green and blue, at unit length; a fourth number tells whether picture
    and words were read together."""

    embedding_size, max_text_tokens = 4, 12

    def __init__(self, reads_words: bool = True, fingerprint: str = "c0" * 32) -> None:
        self.name, self.fingerprint, self.reads_words = "colours", fingerprint, reads_words
        self.seen: list[EncoderInput] = []

    def decode_size(self) -> int:
        return 6

    def cuts(self, text: str) -> bool:
        return len(text) > self.max_text_tokens

    def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
        """float32 (n, 4)."""
        self.seen += items
        vectors = []
        for item in items:
            vector = np.zeros(4)
            if item.picture is not None:
                assert item.picture.shape == (6, 6, 3)
                vector[:3] += item.picture.reshape(-1, 3).mean(0)
            if item.text is not None:
                vector[:3] += COLOURS[item.text.split()[0]]
            vector[3] = 10.0 * (item.picture is not None and item.text is not None)
            vectors.append(vector / np.linalg.norm(vector))
        return np.array(vectors, np.float32).reshape(-1, 4)


def colour_index(folder: Path, copies: int = 1) -> tuple[Index, ColourEncoder]:
    """An index over drawn pictures "red-0.png", … with the columns colour, number and warm."""
    root, encoder = folder / "pictures", ColourEncoder()
    root.mkdir()
    index = Index.create(folder / "index", encoder, root, {"colour": "string", "number": "int64", "warm": "bool"})
    rows, inputs = [], []
    for number, (name, colour) in enumerate(one for one in COLOURS.items() for _ in range(copies)):
        path = f"{name}-{number % copies}.png"
        Image.new("RGB", (8 + number, 10), colour).save(root / path)
        metadata = {"colour": name, "number": number, "warm": colour[0] > colour[2] if number else None}
        hash = f"{number // copies:064x}"
        rows.append(Row(picture_id(path), path, (root / path).stat().st_size, hash, 8 + number, 10, metadata))
        inputs.append(EncoderInput(np.full((6, 6, 3), colour, np.uint8)))
    index.append(rows_table(index.table.schema, rows, encoder.embed(inputs)))
    encoder.seen.clear()
    return index, encoder


def colour_id(name: str, copy: int = 0) -> str:
    """The id of a picture of `colour_index`."""
    return picture_id(f"{name}-{copy}.png")
