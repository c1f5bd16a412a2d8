"""Embedding a folder with `index build` against the bare tower loop, and against sentence-transformers.

    python benchmarks/index_embed.py [--short] [--json PATH] [--device cuda] [--workers N]

Workload: JPEG files of about 500 x 400 pixels with the detail of photographs; a vision transformer of the size of
ViT-B/16 at 224 x 224 (12 layers, width 768, random weights), the same weights on every side, float32.

- bare: the tower and its pooler in a loop over batches of patches that lie in memory as the tower takes them. Nothing
  is read, decoded or stored. No way of embedding files can be faster with this tower.
- build: `build_index` of the folder: list, read, hash, decode, resize in processes of their own, embed, commit rows,
  make the indices. The start of the processes counts.
- sentence-transformers: `SentenceTransformer.encode` of the same files, from `Transformer`, `Pooling`, `Normalize`, in
  batches of the same size (`pip install sentence-transformers`, no torchvision). It decodes in line and stores nothing.
  Our side runs the small projector behind the tower as well (2 % more), as InternVL does.

The sides take turns, each in a process of its own with all cores, after one batch to warm up; the best round of each
counts (all are recorded). Goals: build at 0.9 of the bare loop, and faster than sentence-transformers. Memory is the
peak resident size of the process above that before the first picture, decoding processes apart. On a machine that is
busy with other things the figures mean little: the load is recorded.
"""

import argparse
import importlib.util
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _measuring import memory_mb, reset_peak_mb, run_side, write_json
from _photographs import write_pictures
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel
from transformers.utils.logging import disable_progress_bar

GOAL_BARE, GOAL_PEER = 0.9, 1.0
SIDE_PIXELS = 224
MEAN = STD = (0.5, 0.5, 0.5)
RESIDENT = 4  # batches of the bare loop that lie in memory
SIDES = {"bare": "bare tower loop", "build": "index build", "peer": "sentence-transformers"}
PEER = "sentence_transformers"


def vision_settings(layers: int) -> dict[str, Any]:
    """ViT-B/16, or a few layers of it."""
    size = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": layers, "num_attention_heads": 12}
    return {**size, "image_size": [SIDE_PIXELS, SIDE_PIXELS], "patch_size": [16, 16]}


def write_tower(folder: Path, layers: int) -> None:
    """Random weights and how pictures are prepared, as transformers reads them."""
    torch.manual_seed(0)
    InternVLVisionModel(InternVLVisionConfig(**vision_settings(layers))).save_pretrained(folder)
    settings = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": SIDE_PIXELS, "width": SIDE_PIXELS},
        "resample": 3,
        "do_rescale": True,
        "do_normalize": True,
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def our_encoder(folder: Path, layers: int, device: str) -> Any:
    """A RetrievalEncoder around the weights in the folder."""
    from fieldmark.models.families.internvl import InternVLTowerConfig
    from fieldmark.models.pooler import build_pooler
    from fieldmark.models.retrieval_encoder import RetrievalEncoder
    from fieldmark.models.tower import build_tower
    from fieldmark.models.vision_tokens import Preprocessing, VisionTower

    torch.manual_seed(0)
    tower = build_tower(InternVLTowerConfig(**vision_settings(layers), out_hidden_size=768))
    tower.vision_tower.load_state_dict(InternVLVisionModel.from_pretrained(folder).state_dict())
    preprocessing = Preprocessing(MEAN, STD, patch_size=16, merge_size=2, temporal_patch_size=1)
    pooler = build_pooler("attention", 768, 512, torch.Generator().manual_seed(0))
    return RetrievalEncoder(VisionTower(tower, preprocessing), pooler, SIDE_PIXELS).to(device).eval()


def embed_bare(work: Path, given: argparse.Namespace) -> Callable[[], int]:
    encoder = our_encoder(work / "tower", given.layers, given.device)
    generator = torch.Generator().manual_seed(0)
    shape = (given.batch_size, SIDE_PIXELS, SIDE_PIXELS, 3)
    batches = [
        encoder.pixels(torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(given.device))
        for _ in range(min(RESIDENT, -(-given.pictures // given.batch_size)))
    ]

    @torch.no_grad()
    def run() -> int:
        steps = -(-given.pictures // given.batch_size)
        for step in range(steps):
            encoder.pool(encoder.tower(batches[step % len(batches)])).embedding.float().cpu()
        return steps * given.batch_size

    with torch.no_grad():
        encoder.pool(encoder.tower(batches[0]))
    return run


def embed_with_build(work: Path, given: argparse.Namespace) -> Callable[[], int]:
    from fieldmark.search.build import BuildConfig, build_index
    from fieldmark.search.encoders import EncoderInput, PictureEncoder
    from fieldmark.search.schema import import_lancedb

    import_lancedb()
    encoder = PictureEncoder(our_encoder(work / "tower", given.layers, given.device), "benchmark", "0" * 64)
    blank = torch.zeros(SIDE_PIXELS, SIDE_PIXELS, 3, dtype=torch.uint8).numpy()
    encoder.embed([EncoderInput(blank)] * given.batch_size)
    folder = tempfile.TemporaryDirectory(dir=work)

    def run() -> int:
        config = BuildConfig(
            images=str(work / "pictures"),
            index=f"{folder.name}/index",
            batch_size=given.batch_size,
            workers=given.workers,
        )
        report = build_index(config, encoder)
        assert report.failed == 0 and report.added == report.rows == given.pictures, report
        return report.added

    return run


def embed_with_peer(work: Path, given: argparse.Namespace) -> Callable[[], int]:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

    modules = [Transformer(str(work / "tower")), Pooling(768, "mean"), Normalize()]
    model = SentenceTransformer(modules=modules, device=given.device)
    files = [str(path) for path in sorted((work / "pictures").rglob("*.jpg"))]
    model.encode(files[: given.batch_size], batch_size=given.batch_size, show_progress_bar=False)

    def run() -> int:
        return len(model.encode(files, batch_size=given.batch_size, show_progress_bar=False))

    return run


MAKERS = {"bare": embed_bare, "build": embed_with_build, "peer": embed_with_peer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="few pictures, two layers, one round")
    parser.add_argument("--json", type=Path, help="also write the results there")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--workers", type=int, help="decoding processes (default: 1 on CPU, else all cores but two)")
    parser.add_argument("--batch-size", type=int, help="default: 16 (short: 8); on a GPU 64")
    parser.add_argument("--pictures", type=int, help="default: 320 (short: 32); on a GPU 8,192")
    parser.add_argument("--layers", type=int, help="of the tower (default: 12; short: 2)")
    parser.add_argument("--rounds", type=int, help="default: 3 (short: 1)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="per side (default: all cores)")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    disable_progress_bar()
    gpu = given.device != "cpu"
    given.workers = given.workers or (max(1, (os.cpu_count() or 1) - 2) if gpu else 1)
    given.batch_size = given.batch_size or (64 if gpu else 8 if given.short else 16)
    given.pictures = given.pictures or (8192 if gpu else 32 if given.short else 320)
    given.layers = given.layers or (2 if given.short else 12)
    given.rounds = given.rounds or (1 if given.short else 3)
    if given.side:
        print(json.dumps(measure(given)))
        return

    load = os.getloadavg()[0]
    sides = [side for side in SIDES if side != "peer" or importlib.util.find_spec(PEER) is not None]
    rounds: dict[str, list[dict[str, float]]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        kilobytes = write_pictures(work / "pictures", given.pictures)
        write_tower(work / "tower", given.layers)
        print(f"{given.pictures} JPEGs of {kilobytes:.0f} kB, {given.layers} layers, batches of {given.batch_size}")
        print(
            f"{given.device}, {given.threads} threads, {given.workers} decoding processes, load {load:.1f} at the start"
        )
        if load > 0.5:
            print("  the machine is busy: figures below are not to be quoted")
        if "peer" not in sides:
            print("  sentence-transformers is not installed: not measured (pip install -e '.[bench]')")
        asked = ["--work", name]
        for option in ("device", "workers", "batch_size", "pictures", "layers"):
            asked += [f"--{option.replace('_', '-')}", str(getattr(given, option))]
        for turn in range(given.rounds):
            for side in sides if turn % 2 == 0 else sides[::-1]:
                rounds[side].append(run_side(__file__, ["--side", side, *asked], given.threads))
    best = {side: max(found, key=lambda one: one["images_per_second"]) for side, found in rounds.items()}
    for side, figures in best.items():
        print(f"  {SIDES[side]:24s} {figures['images_per_second']:8.2f} images/s, peak {figures['peak_mb']:6.0f} MB")
    ratios = {}
    for side, goal in (("bare", GOAL_BARE), ("peer", GOAL_PEER)):
        if side in best:
            ratios[side] = best["build"]["images_per_second"] / best[side]["images_per_second"]
            reached = "reached" if ratios[side] >= goal else "missed"
            print(f"  ratio of index build to {SIDES[side]:22s} {ratios[side]:6.3f} (goal {goal}: {reached})")
    if given.json:
        kept = ("device", "threads", "workers", "batch_size", "pictures", "layers", "short")
        results = {"benchmark": "index_embed", **{name: getattr(given, name) for name in kept}}
        results |= {"load_before": load, "torch": torch.__version__, "best": best, "rounds": rounds}
        write_json(given.json, results | {"ratios": ratios, "goals": {"bare": GOAL_BARE, "peer": GOAL_PEER}})


def measure(given: argparse.Namespace) -> dict[str, float]:
    """One round of one side."""
    run = MAKERS[given.side](given.work, given)
    before = reset_peak_mb()
    start = time.perf_counter()
    done = run()
    if given.device != "cpu":
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    return {"images_per_second": done / seconds, "seconds": seconds, "peak_mb": memory_mb("VmHWM") - before}


if __name__ == "__main__":
    main()
