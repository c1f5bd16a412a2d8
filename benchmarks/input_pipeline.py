"""A training step fed by ImageLoader against the same step on pictures that lie decoded in memory.

    python benchmarks/input_pipeline.py [--short] [--json PATH] [--device cuda] [--workers N]

Workload: JPEG files of about 500 x 400 pixels with the detail of photographs, decoded, cropped and resized to
224 x 224 by the loader's processes; a tower of the size of ViT-B/16 (12 layers, width 768, 196 patches; plain torch,
random weights), forward and backward, no optimiser. Nothing is kept in the loader's memory: every picture of every
step is read and decoded anew, which is what a large collection costs. Both sides see batches of the same size and
move them to the device in the same way.

The two sides take turns in blocks of steps. A block of the fed side begins with an empty pipeline, so that nothing
decoded in the other side's time counts for it; starting the processes is not counted. The best block of each side
counts (the ratio of the totals is recorded too). Goal: the fed side reaches at least 0.9 of the speed. "waiting" is
the share of the fed side's whole time in which the step waits for pictures.

Memory: greatest resident size of this process, and of the largest decoding process (Linux). On a machine that is
busy with other things the figures mean little: the load is recorded.
"""

import argparse
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from _photographs import write_pictures
from torch import Tensor, nn

from fieldmark.data.collection import load_collection
from fieldmark.data.loader import Augmentation, Batch, ImageLoader

GOAL = 0.9
IMAGE_SIZE = 224


class Tower(nn.Module):
    """ViT-B/16 in size: 86 million parameters."""

    def __init__(self, width: int = 768, layers: int = 12, heads: int = 12, patch: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, patch, patch)
        self.positions = nn.Parameter(torch.randn(1, (IMAGE_SIZE // patch) ** 2, width) * 0.02)
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (B, H, W, 3) → (B, width)."""
        pixels = images.permute(0, 3, 1, 2).float().div(127.5).sub(1).to(self.positions.dtype)
        tokens = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        return self.encoder(tokens).mean(1)


class Step:
    """Forward and backward of one batch, and what they cost."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.device = device
        self.tower = Tower().to(device, dtype)

    def __call__(self, batch: Batch) -> None:
        self.tower.zero_grad()
        out = self.tower(batch.images.to(self.device))
        out.float().square().mean().backward()

    def finish(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def timed(step: Step, batches: Iterator[Batch]) -> tuple[float, float]:
    """(seconds for all batches, of these seconds waiting for pictures)."""
    step.finish()
    begin = time.perf_counter()
    waited = 0.0
    while True:
        asked = time.perf_counter()
        batch = next(batches, None)
        waited += time.perf_counter() - asked
        if batch is None:
            break
        step(batch)
    step.finish()
    return time.perf_counter() - begin, waited


def peak_megabytes(pid: int | str) -> float:
    """Greatest resident size so far (not from getrusage, where a child begins with its parent's)."""
    path = Path(f"/proc/{pid}/status")
    if not path.exists():
        return float("nan")
    return next(int(line.split()[1]) / 1024 for line in path.read_text().splitlines() if line.startswith("VmHWM"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few small batches, under a minute")
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], help="default: float32 on CPU, else bfloat16")
    parser.add_argument("--workers", type=int, help="decoding processes (default: 1 on CPU, else all cores but two)")
    parser.add_argument("--batch-size", type=int, help="default: 16 (short: 2); on a GPU 64")
    parser.add_argument("--steps", type=int, help="steps in a block (default: 5, short: 3; on a GPU 40)")
    parser.add_argument("--rounds", type=int, help="blocks of each side (default: 4, short: 2)")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    gpu = device.type == "cuda"
    cores = os.cpu_count() or 1
    dtype = getattr(torch, arguments.dtype or ("bfloat16" if gpu else "float32"))
    workers = arguments.workers or (max(1, cores - 2) if gpu else 1)
    batch_size = arguments.batch_size or (64 if gpu else 2 if arguments.short else 16)
    steps = arguments.steps or (40 if gpu else 3 if arguments.short else 5)
    rounds = arguments.rounds or (2 if arguments.short else 4)
    num_pictures = max(64, 4 * batch_size)
    load = os.getloadavg()[0]
    step = Step(device, dtype)

    with tempfile.TemporaryDirectory() as folder:
        kilobytes = write_pictures(Path(folder), num_pictures)
        collection = load_collection(Path(folder))
        loader = ImageLoader(
            collection,
            IMAGE_SIZE,
            lambda s: [(s * batch_size + k) % num_pictures for k in range(batch_size)],
            augmentation=Augmentation(horizontal_flip=True, crop_scale_min=0.5),
            workers=workers,
            cache_bytes=0,
        )
        print(f"{num_pictures} JPEGs of {kilobytes:.0f} kB, batches of {batch_size}, {rounds} rounds of {steps} steps")
        print(f"{device}, {dtype}, {workers} decoding processes, {cores} cores, load {load:.1f} at the start")
        if load > 0.5:
            print("this machine is busy with other things: believe the waiting time rather than the ratio")
        with loader:
            resident = list(loader.iterate(0, min(4, steps)))  # also starts the processes
            step(resident[0])
            begin = time.perf_counter()
            loader.load(0)
            decode_alone = (time.perf_counter() - begin) / batch_size
            memory_seconds, fed_seconds, waited = [], [], []
            for turn in range(rounds):
                sides = ["memory", "fed"] if turn % 2 == 0 else ["fed", "memory"]
                for side in sides:
                    if side == "memory":
                        batches = (resident[s % len(resident)] for s in range(steps))
                        memory_seconds.append(timed(step, batches)[0])
                    else:
                        seconds, waiting = timed(step, loader.iterate(turn * steps, (turn + 1) * steps))
                        fed_seconds.append(seconds)
                        waited.append(waiting)
            decoder = max(peak_megabytes(child.pid) for child in multiprocessing.active_children())
    images = steps * batch_size
    result = {
        "benchmark": "input_pipeline",
        "images_per_second_in_memory": images / min(memory_seconds),
        "images_per_second_fed": images / min(fed_seconds),
        "ratio": min(memory_seconds) / min(fed_seconds),
        "ratio_of_totals": sum(memory_seconds) / sum(fed_seconds),
        "goal": GOAL,
        "waiting_share": sum(waited) / sum(fed_seconds),
        "decode_ms_per_image_one_process": 1000 * decode_alone,
        "peak_mb_this_process": peak_megabytes("self"),
        "peak_mb_largest_decoder": decoder,
        "peak_mb_device": torch.cuda.max_memory_allocated(device) / 2**20 if gpu else None,
        "seconds_in_memory": memory_seconds,
        "seconds_fed": fed_seconds,
        "batch_size": batch_size,
        "steps": steps,
        "rounds": rounds,
        "workers": workers,
        "cores": cores,
        "threads": torch.get_num_threads(),
        "load_at_start": load,
        "device": torch.cuda.get_device_name(device) if gpu else platform.machine(),
        "dtype": str(dtype),
        "torch": torch.__version__,
        "short": arguments.short,
    }
    print(f"in memory           {result['images_per_second_in_memory']:8.1f} images/s")
    print(f"fed by the loader   {result['images_per_second_fed']:8.1f} images/s, waiting {waited_text(result)}")
    print(f"one picture alone   {result['decode_ms_per_image_one_process']:8.1f} ms to decode and resize")
    print(
        f"peak memory         {result['peak_mb_this_process']:8.0f} MB, largest decoding process "
        f"{result['peak_mb_largest_decoder']:.0f} MB"
    )
    reached = "reached" if result["ratio"] >= GOAL else "missed"
    print(f"ratio               {result['ratio']:8.3f} (goal {GOAL}: {reached})")
    if arguments.json:
        temporary = arguments.json.with_name(arguments.json.name + ".writing")
        temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        temporary.replace(arguments.json)


def waited_text(result: dict[str, object]) -> str:
    share = result["waiting_share"]
    assert isinstance(share, float)
    return f"{share:.1%} of its time"


if __name__ == "__main__":
    main()
