"""A tiny random Qwen3-VL with DeepStack and its tokenizer: in memory, or saved like a real checkpoint.

Matrices are scaled up after initialisation: with the usual small numbers attention is almost uniform and
hides mistakes.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import Preprocessing

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
]
CHAT_TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}{%- if part.type == 'image' -%}"
    "<|vision_start|><|image_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}<|im_end|>\n{% endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n{% endif -%}"
)
PREPROCESSING = Preprocessing((0.48, 0.46, 0.41), (0.27, 0.26, 0.28), patch_size=4, merge_size=2, temporal_patch_size=2)


def tiny_tokenizer(
    special_tokens: Sequence[str] = SPECIAL_TOKENS, chat_template: str = CHAT_TEMPLATE, **options: object
) -> PreTrainedTokenizerFast:
    """Bytes as tokens, plus special tokens (Qwen's, unless others are given)."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={byte: i for i, byte in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(special_tokens))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=chat_template,
        **options,
    )


def sharpen(model: torch.nn.Module, scale: float) -> None:
    """Scale what decides about attention, in place."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2:
                parameter.mul_(scale)
            elif name.endswith(("q_norm.weight", "k_norm.weight")):
                parameter.mul_(1.5)
            elif name.endswith("language_model.norm.weight"):
                parameter.mul_(scale)


def tiny_model(
    seed: int = 0, *, heads: int = 2, key_heads: int = 1, scale: float = 4.0, vocabulary: int | None = None
) -> Qwen3VLForConditionalGeneration:
    """Qwen3-VL with random weights, float32: tower of 3 blocks (DeepStack after two), decoder of 3 layers."""
    tokenizer = tiny_tokenizer()
    special = {name: tokenizer.convert_tokens_to_ids(name) for name in SPECIAL_TOKENS}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": vocabulary or len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 3,
            "num_attention_heads": heads,
            "num_key_value_heads": key_heads,
            "head_dim": 16,
            "max_position_embeddings": 512,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [4, 2, 2],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": 3,
            "hidden_size": 24,
            "intermediate_size": 40,
            "num_heads": 2,
            "patch_size": 4,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0, 1],
        },
        image_token_id=special["<|image_pad|>"],
        video_token_id=special["<|video_pad|>"],
        vision_start_token_id=special["<|vision_start|>"],
        vision_end_token_id=special["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3VLForConditionalGeneration(config)
        sharpen(model, scale)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model.eval()


def tiny_backbone(seed: int = 0, **options: int) -> Backbone:
    backbone = Backbone(tiny_model(seed, **options), tiny_tokenizer(), PREPROCESSING).eval()
    backbone.freeze_language()
    return backbone


def save_tiny(
    folder: Path, model: Qwen3VLForConditionalGeneration | None = None, *, dtype: torch.dtype = torch.float32
) -> Path:
    """Save a checkpoint as the hub would hold it: weights, configuration, tokenizer, image processor."""
    model = copy.deepcopy(model if model is not None else tiny_model()).to(dtype)
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    processor = {"image_processor_type": "Qwen2VLImageProcessor", **PREPROCESSING.to_config()}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def pictures(count: int, size: int = 16, seed: int = 0) -> torch.Tensor:
    """Random uint8 pictures (count, size, size, 3)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, size, size, 3), generator=generator, dtype=torch.uint8)
