"""Embeddings that were computed before, by the content they were computed from."""

import hashlib
import json
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from fieldmark.data.decode import BadImage
from fieldmark.models.weight_files import check_file, write_tensors


@dataclass(frozen=True, eq=False)
class CachedEmbedding:
    """embedding: float32 (D,). summary, forced: as in `Embedded`."""

    embedding: Tensor
    summary: str | None
    forced: bool


def content_key(fingerprint: str, ids: Sequence[int], pictures: Iterable[Tensor | Path]) -> str:
    """The key of a prompt and its pictures under one model.

    fingerprint: of the model and how it is asked. pictures: decoded ones count by their pixels, files by their bytes.
    """
    digest = hashlib.sha256(f"{fingerprint} {list(ids)}".encode())
    for picture in pictures:
        if isinstance(picture, Tensor):
            digest.update(f"pixels {tuple(picture.shape)} ".encode())
            digest.update(picture.cpu().contiguous().numpy().tobytes())
        else:
            try:
                content = picture.read_bytes()
            except OSError as error:
                raise BadImage(picture, error.strerror or str(error)) from error
            digest.update(f"file {len(content)} ".encode())
            digest.update(content)
    return digest.hexdigest()


class EmbeddingCache:
    """Keeps the embeddings used last in memory, and all of them in a folder if one is given.

    max_bytes: of embeddings in memory. folder: of safetensors files, one per `flush`; several processes may share it.

    Raises:
        ValueError: a file in the folder is damaged.
    """

    def __init__(self, max_bytes: int = 2**30, folder: Path | None = None) -> None:
        if max_bytes < 0:
            raise ValueError(f"max_bytes must be 0 or more, got {max_bytes}")
        self._max_bytes = max_bytes
        self._bytes = 0
        self._kept: OrderedDict[str, CachedEmbedding] = OrderedDict()
        self._folder = folder
        self._stored: dict[str, tuple[Path, int, str | None, bool]] = {}
        self._new: dict[str, CachedEmbedding] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            for file in sorted(folder.glob("embeddings-*.safetensors")):
                self._index(file)

    def get(self, key: str) -> CachedEmbedding | None:
        """What was put under `key`, from memory or disk; None if it is not known (any more)."""
        found = self._kept.get(key) or self._new.get(key)
        if found is None and key in self._stored:
            file, row, summary, forced = self._stored[key]
            with safe_open(file, framework="pt") as shard:
                found = CachedEmbedding(shard.get_slice("embeddings")[row : row + 1][0].clone(), summary, forced)
        if found is not None:
            self._keep(key, found)
        return found

    def put(self, key: str, value: CachedEmbedding) -> None:
        """Remember it in memory; on disk with the next `flush`."""
        self._keep(key, value)
        if self._folder is not None and key not in self._stored:
            self._new[key] = value

    def flush(self) -> None:
        """Write what is new to one more file, whole or not at all."""
        if self._folder is None or not self._new:
            return
        keys = sorted(self._new)
        rows = [[key, self._new[key].summary, self._new[key].forced] for key in keys]
        file = self._folder / f"embeddings-{hashlib.sha256(''.join(keys).encode()).hexdigest()[:24]}.safetensors"
        temporary = file.with_name(f".tmp-{os.getpid()}-{file.name}")
        embeddings = torch.stack([self._new[key].embedding for key in keys])
        write_tensors({"embeddings": embeddings}, temporary, {"rows": json.dumps(rows)})
        os.replace(temporary, file)
        self._index(file)
        self._new.clear()

    def _keep(self, key: str, value: CachedEmbedding) -> None:
        if key in self._kept:
            self._kept.move_to_end(key)
            return
        self._kept[key] = value
        self._bytes += value.embedding.nbytes
        while self._bytes > self._max_bytes:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.embedding.nbytes

    def _index(self, file: Path) -> None:
        check_file(file)
        with safe_open(file, framework="pt") as shard:
            rows = json.loads((shard.metadata() or {}).get("rows", "null"))
        if rows is None:
            raise ValueError(f"{file} is no file of cached embeddings: take it out of the folder")
        for row, (key, summary, forced) in enumerate(rows):
            self._stored[key] = (file, row, summary, forced)
