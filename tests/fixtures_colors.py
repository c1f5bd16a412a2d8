"""A miniature collection in M-BEIR's layout, and an encoder that needs no model: coloured squares and colour words."""

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from fieldmark.data.multimodal.mbeir_writing import NewCandidate, NewCollection, NewQuery, write_mbeir
from fieldmark.data.retrieval import Item
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.universal_embedder import Embedded

COLORS = {"red": (250, 0, 0), "green": (0, 250, 0), "blue": (0, 0, 250), "yellow": (250, 250, 0)}
SIZES = ("dark", "light")


class ColorEncoder:
    """A dimension per colour and one per brightness, from words or from the mean colour of the pictures."""

    def __init__(self, deaf_to: Sequence[str] = ()) -> None:
        self.config = EmbedderConfig(image_size=16)
        self.calls: list[int] = []
        self.deaf_to = set(deaf_to)

    def encode(self, requests: Sequence[Request], batch_size: int = 32) -> Embedded:
        self.calls.append(len(requests))
        rows = torch.stack([self._embed(one) for one in requests])
        return Embedded(
            torch.nn.functional.normalize(rows, dim=1),
            (None,) * len(requests),
            tuple(one.item.text == "forced" for one in requests),
            (False,) * len(requests),
        )

    def _embed(self, request: Request) -> torch.Tensor:
        words = (request.item.text or "").replace(",", "").split()
        pictures = [] if request.picture is None else request.picture
        for picture in [pictures] if isinstance(pictures, torch.Tensor) else pictures:
            assert picture.dtype == torch.uint8 and picture.shape == (16, 16, 3)
            words += words_of(tuple(picture.float().mean((0, 1)).tolist()))
        heard = [word for word in words if word not in self.deaf_to]
        return torch.tensor([float(word in heard) for word in (*COLORS, *SIZES)] + [0.1])


def words_of(color: tuple[float, ...]) -> list[str]:
    """The two words of a square's colour."""
    light = max(color) > 150
    scaled = [value if light else 2.5 * value for value in color]
    name = min(COLORS, key=lambda one: sum((a - b) ** 2 for a, b in zip(COLORS[one], scaled, strict=True)))
    return [name, "light" if light else "dark"]


def square(path: Path, color: str, size: str) -> Path:
    """Writes one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = COLORS[color] if size == "light" else tuple(int(v / 2.5) for v in COLORS[color])
    Image.new("RGB", (20, 20), value).save(path)
    return path


def write_colors(root: Path, name: str = "tiny", number: int = 10) -> Path:
    """Eight squares (0 to 7) and eight texts (10 to 17): t→i, i→t and i→i, each with all of its pool.

    The pictures of the i→i queries are in the pool under other ids; what is to be found is the other brightness.
    """
    marks = [(color, size) for color in COLORS for size in SIZES]
    images, texts = [], []
    for i, (color, size) in enumerate(marks):
        square(root / f"images/{name}/{i}.png", color, size)
        images.append(NewCandidate(i, image=f"images/{name}/{i}.png", facts=(color, size)))
        texts.append(NewCandidate(10 + i, text=f"{size}, {color}", facts=(color, size)))
    queries = []
    for i, (color, size) in enumerate(marks):
        file = f"images/{name}/{i}.png"
        queries += [
            NewQuery(i, "test", 0, {i: 1}, text=f"{color}, {size}", grains=(color, size)),
            NewQuery(20 + i, "test", 3, {10 + i: 1}, image=file, grains=(color, size)),
            NewQuery(40 + i, "test", 4, {i ^ 1: 1}, image=file, grains=(color,)),
        ]
    pools = {(0, "test"): images, (3, "test"): texts, (4, "test"): images}
    wordings = {task: (f"wording of task {task}",) for task in (0, 3, 4)}
    write_mbeir(root, NewCollection(name, number, queries, pools, wordings))
    return root


def text_item(text: str) -> Item:
    return Item("x", text)
