"""What the benchmarks of a SAGA step share: a Qwen3-VL with random weights, inputs, our step and its plain twin."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
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
class Geometry:
    """Sizes of a Qwen3-VL model, and the side of its pictures in pixels."""

    name: str
    width: int
    layers: int
    heads: int
    key_heads: int
    head_dim: int
    intermediate: int
    tower_width: int
    tower_depth: int
    tower_heads: int
    tower_intermediate: int
    deepstack: tuple[int, ...]
    patch: int
    merge: int
    side: int
    tied: bool = True


BUNDLED = Geometry("bundled", 160, 5, 5, 5, 32, 480, 160, 6, 5, 480, (3,), 12, 1, 96)
VIT_B = Geometry("vit_b", 768, 4, 12, 12, 64, 3072, 768, 12, 12, 3072, (5,), 16, 2, 224)
# Sizes as in the published configuration of Qwen3-VL-8B-Instruct.
QWEN3_VL_8B = Geometry(
    "qwen3_vl_8b", 4096, 36, 32, 8, 128, 12288, 1152, 27, 16, 4304, (8, 16, 24), 16, 2, 224, tied=False
)


@dataclass(frozen=True)
class Workload:
    """Sizes of one step; prompt and completion in tokens, the pictures' tokens come on top."""

    geometry: Geometry
    vocabulary: int
    pairs: int = 8
    group_size: int = 8
    prompt: int = 400
    completion: int = 100
    prompts_per_chunk: int = 2
    """Prompts that are replayed at a time, on both sides."""


@dataclass(frozen=True)
class Measured:
    """Seconds by phase, and peak memory in MB above the built model."""

    tower_forward: float
    rollouts: float
    replay: float
    tower_backward: float
    peak_mb: float

    @property
    def seconds(self) -> float:
        """Of the language model alone."""
        return self.rollouts + self.replay

    @property
    def tower(self) -> float:
        return self.tower_forward + self.tower_backward


def build(workload: Workload, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Backbone:
    """A backbone with random weights, language model frozen; made where it will run, no copy elsewhere."""
    g = workload.geometry
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|end|>")
    special = {name: fast.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    half = g.head_dim // 2
    section = [half - 2 * (half * 5 // 16), half * 5 // 16, half * 5 // 16]
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": workload.vocabulary,
            "hidden_size": g.width,
            "intermediate_size": g.intermediate,
            "num_hidden_layers": g.layers,
            "num_attention_heads": g.heads,
            "num_key_value_heads": g.key_heads,
            "head_dim": g.head_dim,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": section,
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": g.tower_depth,
            "hidden_size": g.tower_width,
            "intermediate_size": g.tower_intermediate,
            "num_heads": g.tower_heads,
            "patch_size": g.patch,
            "spatial_merge_size": g.merge,
            "temporal_patch_size": 2,
            "out_hidden_size": g.width,
            "num_position_embeddings": (g.side // g.patch) ** 2,
            "deepstack_visual_indexes": list(g.deepstack),
        },
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=g.tied,
    )
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = Qwen3VLForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    # Logits with a standard deviation of about 4, as sharp as a trained model's: how much must be sorted for
    # top-p depends on it (on our side; the twin always sorts everything).
    torch.nn.init.constant_(model.model.language_model.norm.weight, 4.0 / (0.02 * g.width**0.5))
    preprocessing = Preprocessing((0.5, 0.5, 0.5), (0.5, 0.5, 0.5), g.patch, g.merge, 2)
    backbone = Backbone(model, fast, preprocessing).eval()
    backbone.freeze_language()
    return backbone


def make_inputs(backbone: Backbone, workload: Workload) -> tuple[Tensor, list[PromptTokens]]:
    """uint8 pictures (2 * pairs, side, side, 3), and a prompt per pair: two placeholders, random text."""
    generator = torch.Generator().manual_seed(0)
    side = workload.geometry.side
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
    """What the function returns, and its seconds until the GPU, if there is one, has finished too."""
    _wait()
    start = time.perf_counter()
    value = function()
    _wait()
    return value, time.perf_counter() - start


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


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
        for chunk in replay(backbone, leaves, tasks, prompts_per_chunk=workload.prompts_per_chunk):
            policy_loss([row for rows in chunk.logprobs for row in rows], workload).backward()

    _, replayed = timed(replay_all)
    _, backward = timed(lambda: vision.backward(leaves))
    return Measured(forward, rollouts, replayed, backward, 0.0)


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
        ],
        device=backbone.device,
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
        rows = workload.prompts_per_chunk * count
        for start in range(0, len(completions), rows):
            plain_replay(backbone, leaves, prompts, completions, start, start + rows, workload)

    _, replayed = timed(replay_all)
    _, backward = timed(lambda: vision.backward(leaves))
    return Measured(forward + inside.seconds, generated - inside.seconds, replayed, backward, 0.0)


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
        _wait()
        self._since = time.perf_counter()

    def _stop(self, *_: Any) -> None:
        _wait()
        self.seconds += time.perf_counter() - self._since

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
