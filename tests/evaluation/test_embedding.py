"""Encoding of long lists: order, instructions, pictures, videos."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from tests.fixtures_colors import ColorEncoder, square

from fieldmark.data.decode import BadImage
from fieldmark.data.retrieval import Item, Query
from fieldmark.evaluation.embedding import EncodingConfig, encode_all
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.universal_embedder import Embedded


class Watching(ColorEncoder):
    def __init__(self) -> None:
        super().__init__()
        self.requests: list[Request] = []

    def encode(self, requests: Sequence[Request], batch_size: int = 32) -> Embedded:
        self.requests += requests
        return super().encode(requests, batch_size)


def test_long_lists_keep_their_order_and_are_cut_into_blocks() -> None:
    encoder = Watching()
    items = [Item(str(i), "forced" if i % 40 == 0 else ("red", "blue")[i % 2]) for i in range(100)]
    done: list[tuple[int, int]] = []
    found = encode_all(encoder, items, EncodingConfig(batch_size=2, workers=0), lambda *now: done.append(now))
    assert encoder.calls == [32, 32, 32, 4] and done == [(32, 100), (64, 100), (96, 100), (100, 100)]
    assert [request.item.id for request in encoder.requests] == [str(i) for i in range(100)]
    assert found.embeddings.shape == (100, 7) and found.num_forced == 3 and len(found.summaries) == 100
    assert torch.equal(found.embeddings[1], encoder.encode([Request(items[1])]).embeddings[0])


def test_queries_bring_their_instruction_candidates_none(tmp_path: Path) -> None:
    encoder = Watching()
    picture = square(tmp_path / "a.png", "red", "light")
    encode_all(encoder, [Query(Item("1", "red", picture), "find it")], EncodingConfig(workers=0))
    encode_all(encoder, [Item("1", None, picture)], EncodingConfig(workers=0))
    asked, candidate = encoder.requests
    assert (asked.instruction, candidate.instruction) == ("find it", "")
    assert isinstance(asked.picture, torch.Tensor) and asked.picture.shape == (16, 16, 3)


def test_videos_are_frames(tmp_path: Path) -> None:
    encoder = Watching()
    for i in range(5):
        square(tmp_path / "film" / f"{i}.png", "red", "dark")
    encode_all(encoder, [Item("1", video=tmp_path / "film")], EncodingConfig(workers=0, frames=3))
    assert encoder.requests[0].num_pictures == 3


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to embed"):
        encode_all(ColorEncoder(), [], EncodingConfig(workers=0))
    with pytest.raises(BadImage, match=r"gone\.png"):
        encode_all(ColorEncoder(), [Item("1", None, tmp_path / "gone.png")], EncodingConfig(workers=0))
    for name in ("batch_size", "frames"):
        with pytest.raises(ValueError, match=name):
            EncodingConfig(**{name: 0})
