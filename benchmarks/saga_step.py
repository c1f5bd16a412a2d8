"""Rollouts and replay of one SAGA step, against the plain way, in one run.

    python benchmarks/saga_step.py [--short] [--json PATH]

Workload, the same for both sides: 8 pairs of pictures, G = 8 completions each, prompts of 400 text tokens and
two pictures, completions of exactly 100 tokens (no stop), temperature 0.7, top-p 0.95, float32; vocabularies
of 4,096 and 32,768; two geometries with random weights: `bundled` (the bundled model's: 96 px, width 160,
5 layers) and `vit_b` (a ViT-B/16-sized tower at 224 px, decoder of 4 layers, width 768).

    ours   models.sampling.sample (one prefill per pair, shared keys and values), policy.replay (prefix),
           log-probs of the completions only, in chunks
    twin   transformers' generate with num_return_sequences = G, then every completion a full row and the
           logits of all positions

The ratio counts the language model only: the tower's seconds are measured apart and left out on both sides,
though `generate` runs the tower for every copy. Each side runs in a process of its own; memory is that
process's peak above what it held once the model was built and warm.
"""

import argparse
import json
import platform
import resource
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import torch
import transformers
from _saga_step import BUNDLED, VIT_B, Measured, Workload, build, make_inputs, run_ours, run_twin

LONG = [Workload(geometry, size) for geometry in (BUNDLED, VIT_B) for size in (4096, 32768)]
SHORT = [
    Workload(BUNDLED, 4096, pairs=2, completion=40),
    Workload(VIT_B, 4096, pairs=1, completion=16),
]


def measure_here(number: int, side: str) -> Measured:
    """Run one side in this process, after a small run that warms allocator and thread pool."""
    workload = (LONG + SHORT)[number]
    backbone = build(workload)
    run = {"ours": run_ours, "twin": run_twin}[side]
    warm = replace(workload, pairs=1, group_size=2, prompt=8, completion=2)
    run(backbone, warm, *make_inputs(backbone, warm))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measured = run(backbone, workload, *make_inputs(backbone, workload))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return replace(measured, peak_mb=(peak - before) / 1024)


def measure(workload: Workload, side: str, threads: int) -> Measured:
    """Run one side in a process of its own."""
    request = json.dumps({"workload": (LONG + SHORT).index(workload), "side": side, "threads": threads})
    done = subprocess.run([sys.executable, __file__, "--child", request], stdout=subprocess.PIPE, text=True, check=True)
    return Measured(**json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="a smaller workload, under a minute")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--child", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        request = json.loads(arguments.child)
        torch.set_num_threads(request["threads"])
        print(json.dumps(asdict(measure_here(request["workload"], request["side"]))))
        return

    rows = []
    print(f"{'workload':<16}{'side':<7}{'rollouts':>10}{'replay':>9}{'total':>9}{'peak MB':>9}{'(tower)':>9}")
    for workload in SHORT if arguments.short else LONG:
        sides = {side: measure(workload, side, arguments.threads) for side in ("ours", "twin")}
        name = f"{workload.geometry.name} {workload.vocabulary // 1024}k"
        for side, m in sides.items():
            print(
                f"{name:<16}{side:<7}{m.rollouts:>10.2f}{m.replay:>9.2f}{m.seconds:>9.2f}"
                f"{m.peak_mb:>9.0f}{m.tower:>9.2f}"
            )
        ours, twin = sides["ours"], sides["twin"]
        ratios = {
            "rollouts": twin.rollouts / ours.rollouts,
            "replay": twin.replay / ours.replay,
            "total": twin.seconds / ours.seconds,
            "peak_memory": twin.peak_mb / max(ours.peak_mb, 1.0),
        }
        print(
            f"{name:<16}{'ratio':<7}{ratios['rollouts']:>9.1f}x{ratios['replay']:>8.1f}x"
            f"{ratios['total']:>8.1f}x{ratios['peak_memory']:>8.1f}x",
            flush=True,
        )
        rows.append({"workload": asdict(workload), **{k: asdict(m) for k, m in sides.items()}, "ratio": ratios})
    if arguments.json:
        report = {
            "benchmark": "saga_step",
            "short": arguments.short,
            "threads": arguments.threads,
            "processor": platform.processor() or platform.machine(),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            },
            "rows": rows,
        }
        temporary = arguments.json.with_name(arguments.json.name + ".part")
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(arguments.json)


if __name__ == "__main__":
    main()
