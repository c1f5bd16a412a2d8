"""Requests per second and waiting times of `fieldmark serve` against calling its encoder directly.

    python benchmarks/service.py [--short] [--json PATH]

Workload: searches by picture, JPEG files of about 500 x 400 pixels with the detail of photographs, over 2,000 rows; a
vision transformer of the size of ViT-B/16 at 224 x 224 (12 layers, width 768, random weights, float32), so that the
encoder is what takes the time (short: 2 layers, few requests).

- encoder: `embed` in a loop over decoded, resized pictures in memory, in batches as large as the service's.
- service: a server in a process of its own; clients in this process keep 1, 16 or 64 requests on their way. Each
  request is uploaded, decoded in a process of its own, embedded together with what else waits, and searched.
- overload: 64 clients against a queue of 8: what is refused (503), and that nothing else goes wrong.

Goal: at 64, 0.85 of the encoder's own throughput. Server and clients share the cores here, so the clients' work counts
against the service. The load of the machine is recorded; on a busy one the figures mean little.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from _measuring import run_side, write_json
from _photographs import write_pictures
from index_embed import our_encoder, write_tower

GOAL = 0.85
CONCURRENCY = (1, 16, 64)
ROWS = 2_000
BATCH = 32
TINY_QUEUE = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="two layers, few requests")
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--requests", type=int, help="per concurrency (default: 192; short: 48)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of the encoder (default: all cores)")
    parser.add_argument("--side", choices=("encoder", "server"), help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--queue", type=int, default=256, help=argparse.SUPPRESS)
    given = parser.parse_args()
    requests = given.requests or (48 if given.short else 192)
    if given.side == "encoder":
        print(json.dumps(measure_encoder(given.work, requests)))
        return
    if given.side == "server":
        run_server(given.work, given.port, given.queue)
        return

    load = os.getloadavg()[0]
    layers = 2 if given.short else 12
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        kilobytes = write_pictures(work / "pictures", 64)
        write_tower(work / "tower", layers)
        encoder = our_encoder(work / "tower", layers, "cpu")
        encoder.save_pretrained(work / "encoder")
        write_index(work)
        print(f"JPEGs of {kilobytes:.0f} kB, {layers} layers, {ROWS:,} rows, {given.threads} threads, load {load:.1f}")
        if load > 0.5:
            print("  the machine is busy: figures below are not to be quoted")
        asked = ["--side", "encoder", "--work", name, "--requests", str(requests)]
        direct = run_side(__file__, asked, given.threads)
        print(f"  encoder alone          {direct['per_second']:7.2f} pictures/s in batches of {BATCH}")
        pictures = [path.read_bytes() for path in sorted((work / "pictures").rglob("*.jpg"))]
        service = {}
        with Server(work, given.threads, 256) as server:
            drive(server.url, pictures, 8, 4)  # warm up
            for concurrency in CONCURRENCY:
                count = max(8, requests // 8) if concurrency == 1 else requests
                found = service[str(concurrency)] = drive(server.url, pictures, count, concurrency)
                print(
                    f"  service at {concurrency:3d}         {found['per_second']:7.2f} requests/s, p50 "
                    f"{found['p50_ms']:6.0f} ms, p99 {found['p99_ms']:6.0f} ms, {found['statuses']}"
                )
        with Server(work, given.threads, TINY_QUEUE) as server:
            drive(server.url, pictures, 8, 4)
            overload = drive(server.url, pictures, requests, 64)
        print(f"  overload, queue of {TINY_QUEUE}   {overload['statuses']}")
    ratio = service["64"]["per_second"] / direct["per_second"]
    only_busy = set(overload["statuses"]) <= {"200", "503"} and "503" in overload["statuses"]
    print(f"  service at 64 / encoder: {ratio:.2f} (goal {GOAL})")
    print(f"  overload gives 503 and no other error: {'yes' if only_busy else 'NO'}")
    if given.json:
        write_json(
            given.json,
            {
                "workload": {
                    "layers": layers,
                    "rows": ROWS,
                    "requests": requests,
                    "batch": BATCH,
                    "kilobytes": kilobytes,
                },
                "threads": given.threads,
                "load_before": load,
                "encoder": direct,
                "service": service,
                "overload": overload,
                "ratio": ratio,
                "overload_gives_503_only": only_busy,
            },
        )


def write_index(work: Path) -> None:
    """Rows with random embeddings: the search is not what is measured here."""
    from fieldmark.search.encoders import load_search_encoder
    from fieldmark.search.index import Index
    from fieldmark.search.schema import Row, picture_id, rows_table

    encoder = load_search_encoder(work / "encoder")
    index = Index.create(work / "index", encoder, work / "pictures")
    vectors = np.random.default_rng(0).normal(size=(ROWS, encoder.embedding_size)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    paths = [f"{number}.jpg" for number in range(ROWS)]
    rows = [Row(picture_id(path), path, 1, "0" * 64, 8, 8) for path in paths]
    index.append(rows_table(index.table.schema, rows, vectors))


def measure_encoder(work: Path, pictures: int) -> dict[str, float]:
    """Best of two rounds."""
    from fieldmark.search.encoders import EncoderInput, load_search_encoder

    encoder = load_search_encoder(work / "encoder")
    side = encoder.decode_size()
    rng = np.random.default_rng(0)
    batch = [EncoderInput(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(BATCH)]
    encoder.embed(batch)
    seconds = []
    steps = max(1, pictures // BATCH)
    for _ in range(2):
        started = time.perf_counter()
        for _ in range(steps):
            encoder.embed(batch)
        seconds.append(time.perf_counter() - started)
    return {"per_second": steps * BATCH / min(seconds), "seconds": min(seconds)}


def run_server(work: Path, port: int, queue: int) -> None:
    from fieldmark.search.service.config import Batching, ServiceConfig
    from fieldmark.search.service.server import serve

    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    os.environ["FIELDMARK_LOG"] = "WARNING"
    batching = Batching(size=BATCH, queue=queue)
    serve(ServiceConfig(index=str(work / "index"), encoder=str(work / "encoder"), port=port, batching=batching))


class Server:
    """A server in a process of its own, until the end of the block."""

    def __init__(self, work: Path, threads: int, queue: int) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        source = str(Path(__file__).resolve().parents[1] / "src")
        path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH")]))
        command = [sys.executable, __file__, "--side", "server", "--work", str(work), "--port", str(port)]
        environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
        self._process = subprocess.Popen([*command, "--queue", str(queue)], env=environment, stderr=subprocess.DEVNULL)

    def __enter__(self) -> "Server":
        deadline = time.monotonic() + 600
        while True:
            try:
                httpx.get(f"{self.url}/health", timeout=5).raise_for_status()
                return self
            except httpx.HTTPError:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the server did not start") from None
                time.sleep(0.2)

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(60)


def drive(url: str, pictures: list[bytes], requests: int, concurrency: int) -> dict[str, Any]:
    """So many requests, so many at a time. Refused ones are not sent again."""
    todo = iter(range(requests))
    lock = threading.Lock()
    seconds: list[float] = []
    statuses: Counter[str] = Counter()
    query = json.dumps({"parts": [{"image": 0}], "k": 10})

    def client() -> None:
        with httpx.Client(base_url=url, timeout=120) as connection:
            while True:
                with lock:
                    number = next(todo, None)
                if number is None:
                    return
                started = time.perf_counter()
                files = [("image", ("a.jpg", pictures[number % len(pictures)]))]
                status = connection.post("/search", data={"query": query}, files=files).status_code
                with lock:
                    statuses[str(status)] += 1
                    if status == 200:
                        seconds.append(time.perf_counter() - started)

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    total = time.perf_counter() - started
    waits = 1000 * np.array(seconds)
    return {
        "per_second": len(seconds) / total,
        "p50_ms": float(np.percentile(waits, 50)),
        "p99_ms": float(np.percentile(waits, 99)),
        "statuses": dict(sorted(statuses.items())),
    }


if __name__ == "__main__":
    main()
