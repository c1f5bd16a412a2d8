"""What benchmarks of several sides share: each side alone in a process of its own, best time, peak memory."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def run_side(file: str, arguments: Sequence[str], threads: int) -> dict[str, Any]:
    """Start a benchmark's file again for one side; what it prints last is its figures as JSON."""
    source = Path(file).resolve().parents[1] / "src"
    path = os.pathsep.join(filter(None, [str(source), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)}
    environment |= {"OPENBLAS_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
    command = [sys.executable, file, *arguments]
    finished = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(finished.stdout.splitlines()[-1])


def measure_calls(call: Callable[[], dict[str, float]], repeats: int) -> dict[str, Any]:
    """Best seconds and processor seconds, peak memory above what was resident before, and the metrics."""
    seconds, processor_seconds, peaks = [], [], []
    for _ in range(repeats):
        before = reset_peak_mb()
        start, start_processor = time.perf_counter(), time.process_time()
        metrics = call()
        seconds.append(time.perf_counter() - start)
        processor_seconds.append(time.process_time() - start_processor)
        peaks.append(memory_mb("VmHWM") - before)
    return {
        "seconds": min(seconds),
        "all_seconds": seconds,
        "peak_mb": max(peaks),
        "processor_seconds": min(processor_seconds),
        "metrics": metrics,
    }


def reset_peak_mb() -> float:
    """Forget the peak so far; returns the resident size now."""
    Path("/proc/self/clear_refs").write_text("5")
    return memory_mb("VmRSS")


def memory_mb(field: str) -> float:
    """A figure of this process in /proc (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def write_json(path: Path, results: dict[str, Any]) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n")
    temporary.replace(path)
