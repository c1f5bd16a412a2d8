"""One SAGA step at the published size on a GPU: seconds by phase, memory, share of the peak; beside its plain twin.

    python benchmarks/gpu_saga_step.py [--short] [--json PATH] [--peak-tflops 989]

Qwen3-VL-8B's geometry with random weights in bfloat16: K = 8 pairs of pictures of 224 pixels, G = 8 completions each of
exactly 512 tokens, prompts of 400 tokens and two pictures, temperature 0.7, top-p 0.95, the tower's features as float32
leaves. The twin is transformers' `generate` with G copies, and a replay that gives every completion a full row and
takes the logits of all positions. `--short` is a miniature of the same on whatever device there is, the processor
included; the full size needs a GPU of 80 GB.

FLOPs are counted by torch's counter in a further, untimed run of our side: all matrix products that were executed,
forward and backward, of tower and language model.
"""

import argparse
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from _saga_step import BUNDLED, QWEN3_VL_8B, Measured, Workload, build, make_inputs, run_ours, run_twin
from torch.utils.flop_counter import FlopCounterMode

from fieldmark.models.backbone import Backbone

FULL = Workload(QWEN3_VL_8B, 151_936, completion=512, prompts_per_chunk=1)
SHORT = Workload(BUNDLED, 1024, pairs=2, group_size=3, prompt=40, completion=8, prompts_per_chunk=1)
H200_BF16_TFLOPS = 989.0
"""Dense bfloat16 peak of the H100 and H200 (SXM), as published."""


def measure(
    run: Callable[..., Measured], backbone: Backbone, workload: Workload, inputs: tuple[Any, ...]
) -> dict[str, Any]:
    """One side: seconds by phase, sampled tokens per second, and peak GPU memory in GB, the model included."""
    warm = replace(workload, pairs=1, group_size=2, prompt=8, completion=2)
    run(backbone, warm, *make_inputs(backbone, warm))
    gpu = backbone.device.type == "cuda"
    if gpu:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    found = run(backbone, workload, *inputs)
    phases = {name: value for name, value in asdict(found).items() if name != "peak_mb"}
    tokens = workload.pairs * workload.group_size * workload.completion
    return {
        "seconds": phases | {"total": sum(phases.values())},
        "sampled_tokens_per_second": tokens / found.rollouts,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9 if gpu else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--short", action="store_true", help="a miniature geometry, also without a GPU")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument("--peak-tflops", type=float, default=H200_BF16_TFLOPS, help="bfloat16 peak of this GPU")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    if not gpu and not arguments.short:
        sys.exit("gpu_saga_step: no GPU is visible, and the full size needs one of 80 GB; --short runs a miniature")
    workload = SHORT if arguments.short else FULL
    backbone = build(workload, "cuda" if gpu else "cpu", torch.bfloat16 if gpu else torch.float32)
    inputs = make_inputs(backbone, workload)
    rows = {name: measure(run, backbone, workload, inputs) for name, run in (("ours", run_ours), ("twin", run_twin))}
    with FlopCounterMode(display=False) as counter:
        run_ours(backbone, workload, *inputs)
    total = rows["ours"]["seconds"]["total"]
    report = {
        "benchmark": "gpu_saga_step",
        "short": arguments.short,
        "device": torch.cuda.get_device_name() if gpu else platform.processor() or platform.machine(),
        "dtype": "bfloat16" if gpu else "float32",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "workload": asdict(workload),
        **rows,
        "ratio": {
            name: rows["twin"]["seconds"][name] / rows["ours"]["seconds"][name]
            for name in ("rollouts", "replay", "total")
        },
        "tflop": counter.get_total_flops() / 1e12,
        "tflops_per_second": counter.get_total_flops() / 1e12 / total,
        "share_of_peak": counter.get_total_flops() / 1e12 / total / arguments.peak_tflops if gpu else None,
    }
    print(json.dumps(report, indent=2))
    if arguments.json:
        temporary = arguments.json.with_name(arguments.json.name + ".part")
        temporary.write_text(json.dumps(report, indent=2) + "\n")
        temporary.replace(arguments.json)


if __name__ == "__main__":
    main()
