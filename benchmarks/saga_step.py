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
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from fieldmark.models.backbone import Backbone, PromptTokens
from fieldmark.models.sampling import sample
from fieldmark.models.vision_tokens import Preprocessing, VisionTokens
from fieldmark.policy.replay import ReplayGroup, replay

SPECIAL_TOKENS = ("<|end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")
TEMPERATURE, TOP_P = 0.7, 0.95


@dataclass(frozen=True)
class Workload:
    """geometry: `bundled` or `vit_b`. prompt and completion in tokens; the pictures' tokens come on top."""

    geometry: str
    vocabulary: int
    pairs: int = 8
    group_size: int = 8
    prompt: int = 400
    completion: int = 100


@dataclass(frozen=True)
class Measured:
    """Seconds by phase, and peak memory in MB above the built model."""

    tower: float
    rollouts: float
    replay: float
    peak_mb: float

    @property
    def seconds(self) -> float:
        return self.rollouts + self.replay


LONG = [Workload(geometry, size) for geometry in ("bundled", "vit_b") for size in (4096, 32768)]
SHORT = [
    Workload("bundled", 4096, pairs=2, completion=40),
    Workload("vit_b", 4096, pairs=1, completion=16),
]


def build(workload: Workload) -> tuple[Backbone, int]:
    """A backbone with random weights, language model frozen, and the side of its pictures in pixels."""
    bundled = workload.geometry == "bundled"
    width, layers, heads, head_dim = (160, 5, 5, 32) if bundled else (768, 4, 12, 64)
    patch, merge, side = (12, 1, 96) if bundled else (16, 2, 224)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    special = {name: fast.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": workload.vocabulary,
            "hidden_size": width,
            "intermediate_size": 480 if bundled else 3072,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": head_dim,
            "max_position_embeddings": 2048,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [6, 5, 5] if bundled else [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 6 if bundled else 12,
            "hidden_size": width,
            "intermediate_size": 480 if bundled else 3072,
            "num_heads": heads,
            "patch_size": patch,
            "spatial_merge_size": merge,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            "num_position_embeddings": (side // patch) ** 2,
            "deepstack_visual_indexes": [3] if bundled else [5],
        },
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    model = Qwen3VLForConditionalGeneration(config).eval()
    # Logits with a standard deviation of about 4, as sharp as a trained model's: how much must be sorted for
    # top-p depends on it (on our side; the twin always sorts everything).
    torch.nn.init.constant_(model.model.language_model.norm.weight, 4.0 / (0.02 * width**0.5))
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), patch, merge, 2)
    backbone = Backbone(model, fast, preprocessing).eval()
    backbone.freeze_language()
    return backbone, side


def make_inputs(backbone: Backbone, workload: Workload, side: int) -> tuple[Tensor, list[PromptTokens]]:
    """uint8 pictures (2 * pairs, side, side, 3), and a prompt per pair: two placeholders, random text."""
    generator = torch.Generator().manual_seed(0)
    shape = (2 * workload.pairs, side, side, 3)
    images = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    start, end, image = (
        backbone.tokenizer.convert_tokens_to_ids(name)
        for name in ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>")
    )
    pictures = [start, image, end, start, image, end]
    prompts = []
    for _ in range(workload.pairs):
        text = torch.randint(0, 256, (workload.prompt - 4,), generator=generator).tolist()
        prompts.append(PromptTokens((*pictures, *text), 2))
    return images, prompts


def timed(function: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    value = function()
    return value, time.perf_counter() - start


def run_ours(backbone: Backbone, workload: Workload, images: Tensor, prompts: list[PromptTokens]) -> Measured:
    """The step as Fieldmark does it."""
    pairs = [(2 * i, 2 * i + 1) for i in range(workload.pairs)]
    generator = torch.Generator().manual_seed(1)
    vision, forward = timed(lambda: backbone.vision(backbone.pixels(images)))
    leaves = vision.as_leaves()
    groups, rollouts = timed(
        lambda: sample(
            backbone,
            leaves,
            prompts,
            pairs,
            num_samples=workload.group_size,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            max_new_tokens=workload.completion,
            generator=generator,
            stop_ids=(),
        )
    )
    assert all(len(c.ids) == workload.completion for group in groups for c in group)

    def replay_all() -> None:
        tasks = [
            ReplayGroup(prompt, pair, tuple(c.ids for c in group))
            for prompt, pair, group in zip(prompts, pairs, groups, strict=True)
        ]
        for chunk in replay(backbone, leaves, tasks, prompts_per_chunk=2):
            policy_loss([row for rows in chunk.logprobs for row in rows], workload).backward()

    _, replayed = timed(replay_all)
    _, backward = timed(lambda: vision.backward(leaves))
    return Measured(forward + backward, rollouts, replayed, 0.0)


def run_twin(backbone: Backbone, workload: Workload, images: Tensor, prompts: list[PromptTokens]) -> Measured:
    """The plain way: transformers' `generate` with G copies, a full row and full logits per completion."""
    model, count = backbone.model, workload.group_size
    vision, forward = timed(lambda: backbone.vision(backbone.pixels(images)))
    leaves = vision.as_leaves()
    pixels, per_image = backbone.pixels(images), vision.counts[0]
    ids = torch.tensor(
        [
            [t for token in p.ids for t in [token] * (per_image if token == backbone.image_token_id else 1)]
            for p in prompts
        ]
    )
    inside = TowerClock(model.model.visual)

    def generate() -> Tensor:
        with torch.no_grad():
            return model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                mm_token_type_ids=(ids == backbone.image_token_id).int(),
                pixel_values=pixels.pixel_values,
                image_grid_thw=pixels.grid_thw,
                do_sample=True,
                temperature=TEMPERATURE,
                top_p=TOP_P,
                top_k=0,
                num_return_sequences=count,
                min_new_tokens=workload.completion,
                max_new_tokens=workload.completion,
                pad_token_id=0,
            )

    torch.manual_seed(1)
    output, generated = timed(generate)
    inside.remove()
    completions = output[:, ids.shape[1] :]
    assert completions.shape == (workload.pairs * count, workload.completion)

    def replay_all() -> None:
        for start in range(0, len(completions), 2 * count):
            plain_replay(backbone, leaves, prompts, completions, start, start + 2 * count, workload)

    _, replayed = timed(replay_all)
    _, backward = timed(lambda: vision.backward(leaves))
    return Measured(forward + backward + inside.seconds, generated - inside.seconds, replayed, 0.0)


def plain_replay(
    backbone: Backbone,
    leaves: VisionTokens,
    prompts: list[PromptTokens],
    completions: Tensor,
    start: int,
    stop: int,
    workload: Workload,
) -> None:
    """Rows `start` to `stop`, each prompt + completion, logits of all positions; backward at once."""
    owners = [row // workload.group_size for row in range(start, min(stop, len(completions)))]
    rows = completions[start:stop]
    batch = backbone.embed(
        [prompts[i] for i in owners],
        leaves,
        [(2 * i, 2 * i + 1) for i in owners],
        suffixes=rows.tolist(),
    )
    logits = backbone.model.lm_head(backbone.decode_prompts(batch))
    logprobs = logits.log_softmax(-1)[:, -workload.completion - 1 : -1]
    chosen = logprobs.gather(-1, rows[..., None])[..., 0]
    policy_loss(list(chosen), workload).backward()


def policy_loss(logprobs: list[Tensor], workload: Workload) -> Tensor:
    """Token-normalised, advantages +1 and -1 in turn."""
    signs = [1.0 if row % 2 == 0 else -1.0 for row in range(len(logprobs))]
    tokens = workload.pairs * workload.group_size * workload.completion
    return -torch.stack([sign * row.sum() for sign, row in zip(signs, logprobs, strict=True)]).sum() / tokens


class TowerClock:
    """Seconds that a module takes while this is attached."""

    def __init__(self, module: nn.Module) -> None:
        self.seconds = 0.0
        self._since = 0.0
        self._hooks = [
            module.register_forward_pre_hook(self._start),
            module.register_forward_hook(self._stop),
        ]

    def _start(self, *_: Any) -> None:
        self._since = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        self.seconds += time.perf_counter() - self._since

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()


def measure_here(workload: Workload, side: str) -> Measured:
    """Run one side in this process, after a small run that warms allocator and thread pool."""
    backbone, pixels = build(workload)
    run = {"ours": run_ours, "twin": run_twin}[side]
    warm = replace(workload, pairs=1, group_size=2, prompt=8, completion=2)
    run(backbone, warm, *make_inputs(backbone, warm, pixels))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    measured = run(backbone, workload, *make_inputs(backbone, workload, pixels))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return replace(measured, peak_mb=(peak - before) / 1024)


def measure(workload: Workload, side: str, threads: int) -> Measured:
    """Run one side in a process of its own."""
    request = json.dumps({"workload": asdict(workload), "side": side, "threads": threads})
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
        print(json.dumps(asdict(measure_here(Workload(**request["workload"]), request["side"]))))
        return

    rows = []
    print(f"{'workload':<16}{'side':<7}{'rollouts':>10}{'replay':>9}{'total':>9}{'peak MB':>9}{'(tower)':>9}")
    for workload in SHORT if arguments.short else LONG:
        sides = {side: measure(workload, side, arguments.threads) for side in ("ours", "twin")}
        name = f"{workload.geometry} {workload.vocabulary // 1024}k"
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
