"""What other processes do to an index while a test looks on."""

import json
import multiprocessing
import os
import resource
import time
from collections.abc import Sequence
from datetime import timedelta
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from tests.search.index_worlds import GridEncoder, draw

from fieldmark.search.build import BuildConfig, build_index
from fieldmark.search.disk import DiskFull
from fieldmark.search.encoders import EncoderInput
from fieldmark.search.index import Index
from fieldmark.search.maintenance import VectorIndexConfig, compact
from fieldmark.search.schema import Row, picture_id, rows_table
from fieldmark.search.writer_lock import WriterLock

METADATA = {"version": "int64"}

# A server that has imported LanceDB forks a child for each: a fresh interpreter would take seconds.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["lancedb", "PIL.Image"])


def hold_lock(folder: Path, held: Event, release: Event) -> None:
    """Be a writer until told to stop."""
    with WriterLock(folder).hold():
        held.set()
        release.wait(60)


def append_to_small_files(folder: Path, stream: Path, found: Path) -> None:
    """Append the rows of an arrow stream where no file may grow above 20,000 bytes; write down what came of it."""
    index = Index.open(folder)
    with pa.ipc.open_stream(stream) as rows:
        table = rows.read_all()
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        index.append(table)
    except DiskFull:
        found.write_text(f"DiskFull, {len(Index.open(folder))} rows")


def build_slowly(images: Path, index: Path) -> None:
    """A build with two decoding processes that does not end by itself."""

    class Slow(GridEncoder):
        def embed(self, items: Sequence[EncoderInput]) -> np.ndarray:
            time.sleep(60)
            return super().embed(items)

    build_index(BuildConfig(images=str(images), index=str(index), workers=2, batch_size=4), Slow())


class Journal:
    """Lines in a file, each written at once: they outlive the process. One as a commit begins, one as it is done."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, state: str, kind: str, rows: dict[str, Any]) -> None:
        os.write(self._file, (json.dumps({"state": state, "kind": kind, "rows": rows}) + "\n").encode())


def watch(index_class: type[Index], journal: Journal) -> None:
    """Every commit of rows is told to the journal."""
    append, delete = index_class.append, index_class.delete

    def told_append(self: Index, rows: Any) -> None:
        values = dict(zip(rows.column("id").to_pylist(), rows.column("version").to_pylist(), strict=True))
        journal.write("begin", "append", values)
        append(self, rows)
        journal.write("done", "append", values)

    def told_delete(self: Index, ids: Sequence[str]) -> int:
        journal.write("begin", "delete", dict.fromkeys(ids))
        count = delete(self, ids)
        journal.write("done", "delete", dict.fromkeys(ids))
        return count

    index_class.append, index_class.delete = told_append, told_delete  # type: ignore[method-assign]


def list_pictures(root: Path, numbers: Sequence[int], version: int) -> Path:
    """A JSONL file of pictures "p/<number>.png", all of one version."""
    lines = [{"path": f"p/{number}.png", "version": version} for number in numbers]
    path = root / "list.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def work(folder: Path, seed: int) -> None:
    """Build, append, delete and compact without end, in a random order."""
    random = np.random.default_rng(seed)
    journal = Journal(folder / "journal.jsonl")
    watch(Index, journal)
    index, encoder = Index.open(folder / "index"), GridEncoder()
    while True:
        kind = random.choice(["build", "append", "delete", "compact"], p=[0.4, 0.25, 0.15, 0.2])
        journal.write("begin", "operation", {"kind": str(kind)})
        version = int(random.integers(1000))
        if kind == "build":
            for number in random.integers(0, 24, 3):
                draw(folder / "root" / "p" / f"{number}.png", int(random.integers(1000)))
            images = list_pictures(folder / "root", range(24), version)
            build_index(
                BuildConfig(
                    images=str(images), index=str(folder / "index"), workers=0, batch_size=4, commit_rows=5,
                    prune=bool(random.random() < 0.5),
                ),
                encoder,
            )  # fmt: skip
        elif kind == "append":
            paths = [f"made/{number}" for number in random.choice(40, 6, replace=False)]
            rows = [Row(picture_id(path), path, 1, "0" * 64, 1, 1, {"version": version}) for path in paths]
            vectors = random.normal(size=(6, index.embedding_size)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            index.append(rows_table(index.table.schema, rows, vectors))
        elif kind == "delete":
            paths = [f"made/{number}" for number in random.choice(40, 4, replace=False)]
            index.delete([picture_id(path) for path in (*paths, f"p/{random.integers(24)}.png")])
        else:
            vectors_config = VectorIndexConfig("approximate") if random.random() < 0.3 and len(index) > 20 else None
            compact(index, vectors_config, keep=timedelta(seconds=float(random.random())))
