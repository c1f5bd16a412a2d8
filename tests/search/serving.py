"""What the service's tests share: a small collection of birds, its index, and a server on a free port."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import uvicorn
from PIL import Image

from fieldmark.data.fieldguide.picture import take_image
from fieldmark.data.fieldguide.world import FieldguideConfig, plan_sightings
from fieldmark.models.backbone import load_backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.search.encoders import EncoderInput, SearchEncoder
from fieldmark.search.index import Index
from fieldmark.search.schema import Row, picture_id, rows_table
from fieldmark.search.service.app import build_app
from fieldmark.search.service.config import Limits, ServiceConfig
from fieldmark.search.service.server import make_server

TOKEN = "a-token-for-the-tests-0123456789"
COLUMNS = {"species": "string", "split": "string", "number": "int64", "weight": "float64", "adult": "bool"}


def save_encoder(folder: Path, image_size: int = 96) -> Path:
    """The bundled tower with a fresh attention pooler that looks somewhere."""
    backbone = load_backbone(bundled_path())
    pooler = build_pooler("attention", backbone.hidden_size, 64, torch.Generator().manual_seed(3))
    with torch.no_grad():
        pooler.query.normal_(0, 2, generator=torch.Generator().manual_seed(4))
    RetrievalEncoder(backbone.tower, pooler, image_size).save_pretrained(folder)
    return folder


def make_collection(
    root: Path, encoder: SearchEncoder, index: Path, *, species: int = 4, per: int = 4, size: int = 96
) -> Index:
    """Pictures of birds with metadata, and their index."""
    sightings = plan_sightings(FieldguideConfig(species=species, per=per, train_share=0.5, siblings=2, nuisance=0.2))
    rows, pictures = [], []
    for number, one in enumerate(sightings):
        pixels = np.asarray(take_image(one.attributes, one.habitat, 0.2, np.random.default_rng([3, *one.seed]), size))
        path = root / one.id
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
        content = path.read_bytes()
        metadata = {
            "species": one.species, "split": one.split, "number": number, "weight": number / 2, "adult": number % 2 == 0
        }  # fmt: skip
        rows.append(Row(picture_id(one.id), one.id, len(content), f"{number:064x}", size, size, metadata))
        side = encoder.decode_size()
        pictures.append(np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC)))
    made = Index.create(index, encoder, root, COLUMNS)
    made.append(rows_table(made.table.schema, rows, encoder.embed([EncoderInput(one) for one in pictures])))
    return made


@contextlib.contextmanager
def running(app: Any, config: ServiceConfig) -> Iterator[str]:
    """A real server in a thread; gives its address."""
    server = make_server(app, config)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", config.port))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        _wait_until_started(server, thread)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


def _wait_until_started(server: uvicorn.Server, thread: threading.Thread) -> None:
    deadline = time.monotonic() + 60
    while not server.started:
        assert thread.is_alive() and time.monotonic() < deadline, "the server did not start"
        time.sleep(0.02)


def png(pixels: np.ndarray | tuple[int, int, int], side: int = 32) -> bytes:
    """A picture, or a square of one colour, as PNG."""
    if isinstance(pixels, tuple):
        pixels = np.full((side, side, 3), pixels, np.uint8)
    file = BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Served:
    """A server that runs.

    Attributes:
        url: its address.
        index: what it serves.
        ids: of all items, in the order of their paths.
    """

    url: str
    index: Index
    ids: tuple[str, ...]

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


LIMITS = Limits(
    picture_bytes=2**20,
    picture_pixels=4_000_000,
    pictures=3,
    body_seconds=3.0,
    decode_seconds=5.0,
    decode_memory_mb=256,
)


@contextlib.contextmanager
def serve(index: Index, encoder: SearchEncoder, limits: Limits = LIMITS, **settings: Any) -> Iterator[Served]:
    """The service on an index, with TOKEN."""
    config = ServiceConfig(index=str(index.path), port=settings.pop("port", 0), limits=limits, **settings)
    with running(build_app(index, encoder, config, TOKEN), config) as url:
        rows = sorted((row["path"], row["id"]) for batch in index.scan(["id", "path"]) for row in batch.to_pylist())
        yield Served(url, index, tuple(id for _, id in rows))
