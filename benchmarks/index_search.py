"""Search in an index against FAISS HNSW and exact search with torch: queries per second, build, disk, memory.

    python benchmarks/index_search.py [--short] [--million] [--json PATH]

Workload: 100,000 random rows x 512 (short: 5,000; --million: 1,000,000, which takes an hour), and queries drawn
like them that are no rows. Rows are normal numbers whose variance falls as 1/j along the axes of a random rotation, at
unit length, as embeddings of pictures are spread: some 28 dimensions count. With --isotropic all 512 count alike; no
graph helps there, and every approximate search must look at a large part of the rows.

Each approximate side is asked with growing effort until its recall@10 is at least 0.985 on 200 queries;
with that effort the other queries are timed, one after the other, and 64 at a time. Goal: recall@10 of 0.98 on those.

- fieldmark: `Index.nearest`, that is LanceDB's IVF-HNSW-SQ on disk, and what comes back are rows with id, path and
  metadata. Built as `index build` does it: append in batches, make the indices, tidy. 64 at a time: by 16 threads.
- faiss: IndexHNSWFlat, M 32, efConstruction 200, in memory; what comes back are numbers (`pip install faiss-cpu`).
- torch: one matrix product and topk over rows in memory; exact.

Every side runs alone in its own process with all cores. Memory is the peak resident size above what was resident
after the imports; it counts the rows where a side holds them in memory. On a machine that is busy with other
things the figures mean little: the load is recorded.
"""

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from _measuring import memory_mb, reset_peak_mb, run_side, write_json

GOAL = 0.98
MARGIN = 0.005  # the effort is chosen on other queries than those that count
K = 10
WIDTH = 512
CHUNK = 10_000
CALIBRATION = 200
TOGETHER = 64
SIDES = {"torch": "torch, exact", "fieldmark": "fieldmark Index.nearest", "faiss": "FAISS IndexHNSWFlat"}
EFFORTS = (10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)


class Rows:
    """The same rows in every process, made chunk by chunk."""

    def __init__(self, count: int, queries: int, isotropic: bool) -> None:
        self.count, self.num_queries = count, queries
        spread = np.ones(WIDTH) if isotropic else (1 + np.arange(WIDTH)) ** -0.5
        rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(WIDTH, WIDTH)))
        self._shape = (spread[:, None] * rotation).astype(np.float32)

    def chunks(self) -> Iterator[np.ndarray]:
        for start in range(0, self.count, CHUNK):
            yield self._make(1 + start // CHUNK, min(CHUNK, self.count - start))

    def queries(self) -> np.ndarray:
        return self._make(0, self.num_queries)

    def _make(self, seed: int, count: int) -> np.ndarray:
        made = np.random.default_rng((1, seed)).standard_normal((count, WIDTH), dtype=np.float32) @ self._shape
        return made / np.linalg.norm(made, axis=1, keepdims=True)


class Side(Protocol):
    efforts: tuple[int, ...]
    disk_mb: float

    def build(self, rows: Rows) -> dict[str, float]:
        """Returns seconds by step."""

    def set_effort(self, effort: int) -> None: ...

    def one(self, query: np.ndarray) -> np.ndarray:
        """Numbers of the K nearest rows."""

    def many(self, queries: np.ndarray) -> np.ndarray:
        """(n, K)."""


class TorchSide:
    efforts = (0,)

    def __init__(self) -> None:
        import torch

        self.torch = torch

    def build(self, rows: Rows) -> dict[str, float]:
        self.rows = self.torch.empty(rows.count, WIDTH)
        start = time.perf_counter()
        for number, chunk in enumerate(rows.chunks()):
            self.rows[number * CHUNK : number * CHUNK + len(chunk)] = self.torch.from_numpy(chunk)
        self.disk_mb = self.rows.numel() * 4 / 1e6  # as one file of numbers
        return {"load": time.perf_counter() - start}

    def set_effort(self, effort: int) -> None:
        pass

    def one(self, query: np.ndarray) -> np.ndarray:
        return (self.rows @ self.torch.from_numpy(query)).topk(K).indices.numpy()

    def many(self, queries: np.ndarray) -> np.ndarray:
        return (self.torch.from_numpy(queries) @ self.rows.T).topk(K).indices.numpy()


class FaissSide:
    efforts = EFFORTS

    def __init__(self) -> None:
        import faiss

        self.faiss = faiss

    def build(self, rows: Rows) -> dict[str, float]:
        faiss = self.faiss
        self.index = faiss.IndexHNSWFlat(WIDTH, 32, faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = 200
        start = time.perf_counter()
        for chunk in rows.chunks():
            self.index.add(chunk)
        seconds = time.perf_counter() - start
        with tempfile.TemporaryDirectory() as folder:
            faiss.write_index(self.index, f"{folder}/index")
            self.disk_mb = Path(folder, "index").stat().st_size / 1e6
        return {"index": seconds}

    def set_effort(self, effort: int) -> None:
        self.index.hnsw.efSearch = effort

    def one(self, query: np.ndarray) -> np.ndarray:
        return self.index.search(query[None], K)[1][0]

    def many(self, queries: np.ndarray) -> np.ndarray:
        return self.index.search(queries, K)[1]


class Maker:
    """Stands for the encoder that the index asks who made its rows."""

    name, fingerprint, embedding_size = "random rows", "0" * 64, WIDTH


class FieldmarkSide:
    efforts = EFFORTS

    def __init__(self) -> None:
        from fieldmark.search import index, maintenance, schema

        schema.import_lancedb()
        self.search, self.maintenance, self.schema = index, maintenance, schema
        self.folder = tempfile.TemporaryDirectory()
        self.pool = ThreadPoolExecutor(16)

    def build(self, rows: Rows) -> dict[str, float]:
        maintenance, schema = self.maintenance, self.schema
        path = Path(self.folder.name)
        start = time.perf_counter()
        self.index = self.search.Index.create(path / "index", Maker(), path, {"number": "int64"})  # type: ignore[arg-type]
        done = 0
        for chunk in rows.chunks():
            made = [self._row(number) for number in range(done, done + len(chunk))]
            self.index.append(schema.rows_table(self.index.table.schema, made, chunk))
            done += len(chunk)
        loaded = time.perf_counter()
        maintenance.make_indices(self.index, maintenance.VectorIndexConfig(kind="approximate"))
        made_at = time.perf_counter()
        maintenance.compact(self.index)
        end = time.perf_counter()
        self.disk_mb = maintenance.bytes_on_disk(path) / 1e6
        return {"load": loaded - start, "index": made_at - loaded, "tidy": end - made_at}

    def _row(self, number: int) -> Any:
        path = f"{number // 1000:06d}/{number:09d}.jpg"
        id = self.schema.picture_id(path)
        return self.schema.Row(id, path, 100_000, f"{number:064x}", 500, 400, {"number": number})

    def set_effort(self, effort: int) -> None:
        self.index.effort = self.search.SearchEffort(nprobes=20, ef=effort, refine_factor=max(1, min(4, effort // K)))

    def one(self, query: np.ndarray) -> np.ndarray:
        return np.array([row.metadata["number"] for row, _ in self.index.nearest(query, K)])

    def many(self, queries: np.ndarray) -> np.ndarray:
        return np.stack(list(self.pool.map(self.one, queries)))


MAKERS: dict[str, Callable[[], Side]] = {"torch": TorchSide, "fieldmark": FieldmarkSide, "faiss": FaissSide}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="5,000 rows, under a minute")
    parser.add_argument("--million", action="store_true", help="1,000,000 rows: an hour, 6 GB of memory")
    parser.add_argument("--isotropic", action="store_true", help="rows without any structure")
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="per side (default: all cores)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--truth", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    count = 1_000_000 if arguments.million else 5_000 if arguments.short else 100_000
    rows = Rows(count, CALIBRATION + (200 if arguments.short else 1_000), arguments.isotropic)
    if arguments.side:
        print(json.dumps(measure(arguments.side, rows, arguments.truth)))
        return

    load = os.getloadavg()[0]
    spread = "of equal variance" if arguments.isotropic else "of variance 1/j"
    print(f"{count:,} rows x {WIDTH} {spread}, {arguments.threads} threads, load {load:.1f} at the start")
    if load > 0.5:
        print("  the machine is busy: figures below are not to be quoted")
    # LanceDB counts its threads by itself
    os.environ["LANCE_CPU_THREADS"] = os.environ["TOKIO_WORKER_THREADS"] = str(arguments.threads)
    sides: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for side, title in SIDES.items():  # torch first: it writes what is true
            if importlib.util.find_spec(side) is None and side != "fieldmark":
                print(f"  {side} is not installed: not measured (pip install -e '.[bench]')")
                continue
            asked = ["--side", side, "--truth", str(Path(folder) / "truth.npy")]
            asked += [f"--{name}" for name in ("short", "million", "isotropic") if getattr(arguments, name)]
            one = sides[side] = run_side(__file__, asked, arguments.threads)
            print(
                f"  {title:24s} recall@{K} {one['recall']:.4f} (effort {one['effort']:4d})  "
                f"{one['queries_per_second']:8.1f} queries/s, {one['queries_per_second_together']:8.1f} with "
                f"{TOGETHER} at a time; built in {sum(one['build_seconds'].values()):7.1f} s, {one['disk_mb']:6.0f} MB "
                f"on disk, peak {one['build_peak_mb']:6.0f} MB building, {one['search_peak_mb']:6.0f} MB searching"
            )
    ours = sides["fieldmark"]
    ratios = {
        f"{name}_to_{side}": ours[name] / figures[name]
        for side, figures in sides.items()
        if side != "fieldmark"
        for name in ("queries_per_second", "queries_per_second_together", "disk_mb", "build_peak_mb", "search_peak_mb")
    }
    for name, ratio in ratios.items():
        print(f"  ratio {name:44s} {ratio:8.3f}")
    reached = "reached" if ours["recall"] >= GOAL else "missed"
    print(f"  recall@{K} {ours['recall']:.4f} (goal {GOAL}: {reached})")
    if arguments.json:
        write_json(
            arguments.json,
            {
                "benchmark": "index_search",
                "rows": count,
                "width": WIDTH,
                "isotropic": arguments.isotropic,
                "k": K,
                "threads": arguments.threads,
                "load_before": load,
                "short": arguments.short,
                "sides": sides,
                "ratios": ratios,
                "goal": GOAL,
            },
        )


def measure(side: str, rows: Rows, truth_file: Path) -> dict[str, Any]:
    """Build one side, find its effort, and time it."""
    made = MAKERS[side]()
    queries = rows.queries()
    before = reset_peak_mb()
    build_seconds = made.build(rows)
    build_peak = memory_mb("VmHWM") - before
    reset_peak_mb()
    if side == "torch":
        np.save(truth_file, np.concatenate([made.many(part) for part in np.array_split(queries, len(queries) // 50)]))
    truth = np.load(truth_file, allow_pickle=False)
    tried = []
    for effort in made.efforts:
        made.set_effort(effort)
        reached = recall(made.many(queries[:CALIBRATION]), truth[:CALIBRATION])
        tried.append({"effort": effort, "recall": reached})
        if reached >= GOAL + MARGIN:
            break
    timed, true = queries[CALIBRATION:], truth[CALIBRATION:]
    start = time.perf_counter()
    found = np.stack([made.one(query) for query in timed])
    seconds = time.perf_counter() - start
    start = time.perf_counter()
    together = np.concatenate([made.many(timed[at : at + TOGETHER]) for at in range(0, len(timed), TOGETHER)])
    seconds_together = time.perf_counter() - start
    assert abs(recall(together, true) - recall(found, true)) < 0.01, "one by one and together find the same"
    return {
        "effort": tried[-1]["effort"],
        "tried": tried,
        "recall": recall(found, true),
        "queries_per_second": len(timed) / seconds,
        "queries_per_second_together": len(timed) / seconds_together,
        "build_seconds": build_seconds,
        "disk_mb": made.disk_mb,
        "build_peak_mb": build_peak,
        "search_peak_mb": memory_mb("VmHWM") - before,
    }


def recall(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean share of the true neighbours that are among those found."""
    return float(np.mean([len(np.intersect1d(one, true)) / K for one, true in zip(found, truth, strict=True)]))


if __name__ == "__main__":
    main()
