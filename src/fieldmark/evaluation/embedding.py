"""Queries and pools → embeddings, with their pictures decoded ahead of the model."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from fieldmark.data.multimodal.item_loader import ItemLoader
from fieldmark.data.multimodal.item_pictures import ItemPictures
from fieldmark.data.multimodal.video import read_video
from fieldmark.data.retrieval import Item, Query
from fieldmark.models.embedding_prompts import EmbedderConfig, Request
from fieldmark.models.universal_embedder import Embedded

_BATCHES_AT_A_TIME = 16
"""Batches' worth of requests handed to the embedder at once: it puts those of like length into one batch."""

Progress = Callable[[int, int], None]
"""Called with (done, all) now and then."""


class Encoder(Protocol):
    """What is needed of a `UniversalEmbedder`."""

    config: EmbedderConfig

    def encode(self, requests: Sequence[Request], batch_size: int = 32) -> Embedded: ...


@dataclass(frozen=True)
class EncodingConfig:
    """How pools and queries are put through the model."""

    batch_size: int = 32
    """Requests in one batch."""
    workers: int = 1
    """Processes that decode pictures ahead; 0 decodes in line."""
    frames: int = 8
    """Frames taken from a video, evenly spread."""

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("workers", 0), ("frames", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")


def encode_all(
    encoder: Encoder,
    sources: Sequence[Item] | Sequence[Query],
    config: EncodingConfig,
    progress: Progress | None = None,
) -> Embedded:
    """Embed candidates, or queries with their instructions, in their order.

    Memory: the embeddings, n * D * 4 bytes, and the pictures of 16 batches and of what is decoded ahead.

    Raises:
        ValueError: nothing to embed.
        BadImage: a picture or video cannot be read; it is named.
    """
    if not len(sources):
        raise ValueError("there is nothing to embed: the list of items is empty")
    parts, done = [], 0
    for requests in _requests(encoder.config.image_size, sources, config):
        parts.append(encoder.encode(requests, batch_size=config.batch_size))
        done += len(requests)
        if progress is not None:
            progress(done, len(sources))
    return Embedded(
        torch.cat([part.embeddings for part in parts]),
        tuple(one for part in parts for one in part.summaries),
        tuple(one for part in parts for one in part.forced),
        tuple(one for part in parts for one in part.cut),
    )


def _requests(
    image_size: int, sources: Sequence[Item] | Sequence[Query], config: EncodingConfig
) -> Iterator[list[Request]]:
    step = config.batch_size * _BATCHES_AT_A_TIME
    blocks = [range(start, min(start + step, len(sources))) for start in range(0, len(sources), step)]
    with ItemLoader(ItemPictures(sources), image_size, workers=config.workers) as loader:
        for block, pictures in zip(blocks, loader.iterate(blocks), strict=True):
            yield [
                _request(sources[i], picture, image_size, config) for i, picture in zip(block, pictures, strict=True)
            ]


def _request(source: Item | Query, picture: Tensor | None, image_size: int, config: EncodingConfig) -> Request:
    item, instruction = (source.item, source.instruction) if isinstance(source, Query) else (source, "")
    if item.video is None:
        return Request(item, instruction, picture)
    frames = read_video(item.video, config.frames, image_size)
    return Request(item, instruction, [torch.from_numpy(frame) for frame in frames])
