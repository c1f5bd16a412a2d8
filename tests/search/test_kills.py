"""Whoever is killed while writing an index leaves what it acknowledged, and nothing by halves."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.search.index_worlds import GridEncoder, draw, draw_folder
from tests.search.writers import CONTEXT, METADATA, build_slowly, list_pictures, work

from fieldmark.search.build import BuildConfig, build_index
from fieldmark.search.index import Index
from fieldmark.search.schema import picture_id


def journal(folder: Path) -> list[dict[str, Any]]:
    path = folder / "journal.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def changed(rows: dict[str, int], commit: dict[str, Any]) -> dict[str, int]:
    """Id → version after a commit."""
    if commit["kind"] == "delete":
        return {id: version for id, version in rows.items() if id not in commit["rows"]}
    return {**rows, **commit["rows"]}


def stored(index: Index) -> list[tuple[str, int]]:
    batches = index.scan(("id", "version"))
    return [(row["id"], row["version"]) for batch in batches for row in batch.to_pylist()]


def check(folder: Path, before: dict[str, int], lines: list[dict[str, Any]]) -> dict[str, int]:
    """Hold that the index has what the journal says, and answers. Returns its rows.

    A commit that had begun when the process was killed may have happened, wholly, or not.
    """
    rows = before
    commits = [one for one in lines if one["kind"] != "operation"]
    for begun, done in zip(commits[::2], commits[1::2], strict=False):
        assert (begun["state"], done["state"], begun["rows"]) == ("begin", "done", done["rows"])
        rows = changed(rows, done)
    possible = [rows, *([changed(rows, commits[-1])] if len(commits) % 2 else [])]

    index = Index.open(folder / "index")
    found = stored(index)
    assert len(dict(found)) == len(found), "an id is there twice"
    assert dict(found) in possible
    assert len(index) == len(found)
    if found:
        id = found[0][0]
        vector = index.vectors([id])[0]
        assert index.nearest(vector, 3)[0][1] > 0.99
        exact = index.nearest(vector, len(found), exact=True)
        assert len(exact) == len(found) and exact[0][1] > 0.99999
        assert id in {row.id for row, score in exact if score > 0.99999}
        assert index.get(id) is not None
    return dict(found)


def run_and_kill(folder: Path, seed: int, delay: float) -> None:
    """Start the writer, kill it `delay` seconds after its first line."""
    length = len(journal(folder))
    process = CONTEXT.Process(target=work, args=(folder, seed), daemon=True)
    process.start()
    deadline = time.monotonic() + 120
    while len(journal(folder)) == length:
        assert process.is_alive() and time.monotonic() < deadline, "the writer does not write"
        time.sleep(0.005)
    time.sleep(delay)
    assert process.is_alive() and process.pid is not None, "the writer ended by itself: its error stands above"
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def kill_rounds(folder: Path, rounds: int, seed: int, longest: float) -> None:
    random = np.random.default_rng(seed)
    for number in range(24):
        draw(folder / "root" / "p" / f"{number}.png", number)
    Index.create(folder / "index", GridEncoder(), folder / "root", METADATA)  # type: ignore[arg-type]
    rows: dict[str, int] = {}
    for _ in range(rounds):
        length = len(journal(folder))
        run_and_kill(folder, int(random.integers(2**31)), float(random.uniform(0, longest)))
        rows = check(folder, rows, journal(folder)[length:])

    # after all that, a build ends as one on an empty folder would
    images = list_pictures(folder / "root", range(24), version=7)
    for number in range(24):
        draw(folder / "root" / "p" / f"{number}.png", number)
    config = BuildConfig(images=str(images), index=str(folder / "index"), workers=0, prune=True)
    report = build_index(config, GridEncoder())
    assert report.rows == 24 and report.failed == 0
    assert sorted(stored(Index.open(folder / "index"))) == sorted((picture_id(f"p/{n}.png"), 7) for n in range(24))


def test_killed_five_times(tmp_path: Path) -> None:
    kill_rounds(tmp_path, rounds=5, seed=0, longest=0.6)


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(1, 6))
def test_killed_ten_times_at_random(tmp_path: Path, seed: int) -> None:
    kill_rounds(tmp_path, rounds=10, seed=seed, longest=2.0)


def spawned_by(pid: int | None) -> list[int]:
    """Children that multiprocessing spawned, whichever thread started them."""
    found = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        found += [int(one) for one in (task / "children").read_text().split()]
    return [one for one in found if b"spawn_main" in Path(f"/proc/{one}/cmdline").read_bytes()]


def test_a_killed_build_leaves_no_process_behind(tmp_path: Path) -> None:
    draw_folder(tmp_path / "birds", 40)
    process = CONTEXT.Process(target=build_slowly, args=(tmp_path / "birds", tmp_path / "index"))
    process.start()
    deadline = time.monotonic() + 60
    try:
        while len(children := spawned_by(process.pid)) < 2:
            assert process.is_alive() and time.monotonic() < deadline, "the build starts no decoding processes"
            time.sleep(0.02)
    finally:
        process.kill()
        process.join()
    while any(Path(f"/proc/{one}").exists() for one in children):
        assert time.monotonic() < deadline, "decoding processes outlive the build"
        time.sleep(0.02)


def test_decoding_processes_are_born_deaf_to_ctrl_c() -> None:
    script = """
import multiprocessing, pathlib
from fieldmark.search.decoding import DecodePool, Task
from fieldmark.search.service.config import Limits
from fieldmark.search.service.decoding import DecodePool as ServicePool
with DecodePool(8, 1) as pool:  # the first process of this program: also when multiprocessing's own ones start with it
    list(pool.map([[Task("a", b"")]]))
    service = ServicePool(1, Limits())
    children = [multiprocessing.active_children()[0].pid, service._idle.queue[0]._process.pid]
    for pid in ["self", *children]:
        (line,) = (l for l in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines() if l.startswith("SigBlk"))
        print(bool(int(line.split()[1], 16) & 2))
    service.close()
"""
    told = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert told.stdout.split() == ["False", "True", "True"], told.stderr
