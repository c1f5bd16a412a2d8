"""Tiny random checkpoints of every family, laid out like the published ones.

The table `TINY` has a row per family: how its config.json, image processor, chat template and tensor names look on
the hub. Sizes are tiny, everything else is as published, oddities included: flat configurations with old names of
fields, keys without `model.`, experts stored transposed, special tokens named in the tokenizer's configuration.
"""

import itertools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tests.fixtures_family_configs import (
    internvl_config,
    qwen2_5_vl_config,
    qwen2_vl_config,
    qwen3_vl_config,
    qwen3_vl_moe_config,
)
from tests.fixtures_models import SPECIAL_TOKENS, sharpen, tiny_tokenizer
from transformers import AutoModelForImageTextToText
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
IMAGENET_MEAN, IMAGENET_STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
INTERNVL_NAMES = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
INTERNVL_SPECIAL = [*SPECIAL_TOKENS, *INTERNVL_NAMES.values()]


def _template(picture: str, system: str = "") -> str:
    """A chat template that writes what the published one writes for a user's turn."""
    return (
        f"{{%- if messages[0].role != 'system' -%}}{system}{{% endif -%}}"
        "{%- for message in messages -%}<|im_start|>{{ message.role + '\\n' }}"
        "{%- if message.content is string -%}{{ message.content }}{%- else -%}{%- for part in message.content -%}"
        f"{{%- if part.type == 'image' -%}}{{{{ {picture!r} }}}}{{%- else -%}}{{{{ part.text }}}}{{%- endif -%}}"
        "{%- endfor -%}{%- endif -%}{{ '<|im_end|>\\n' }}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}"
    )


QWEN_PICTURE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN2_SYSTEM = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"


def _qwen_processor(name: str, mean: list[float], std: list[float], **sizes: Any) -> dict[str, Any]:
    return {
        **sizes,
        "patch_size": 4,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": mean,
        "image_std": std,
        "image_processor_type": name,
    }


HALF = [0.5, 0.5, 0.5]
QWEN3_PROCESSOR = _qwen_processor(
    "Qwen2VLImageProcessorFast", HALF, HALF, size={"longest_edge": 16777216, "shortest_edge": 65536}
)
QWEN2_PROCESSOR = _qwen_processor("Qwen2VLImageProcessor", CLIP_MEAN, CLIP_STD, min_pixels=3136, max_pixels=12845056)
INTERNVL_PROCESSOR = {
    "crop_size": None,
    "crop_to_patches": False,
    "do_center_crop": None,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": IMAGENET_MEAN,
    "image_processor_type": "GotOcr2ImageProcessorFast",
    "image_std": IMAGENET_STD,
    "max_patches": 12,
    "min_patches": 1,
    "resample": 3,
    "rescale_factor": 0.00392156862745098,
    "size": {"height": 16, "width": 16},
}
# module's key -> published key
QWEN2_KEYS = ((r"^model\.language_model\.", "model."), (r"^model\.visual\.", "visual."))
INTERNVL_KEYS = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
)


@dataclass(frozen=True)
class TinyFamily:
    """How a family's published checkpoints look. config: of the ids of special tokens and the vocabulary's size.

    keys: patterns from the module's names of tensors to the published ones. frame: what stands around the picture's
    tokens in a prompt. system: what the chat template writes before the user's turn. named_tokens: special tokens
    with an attribute of their own.
    """

    config: Callable[[Mapping[str, int], int], dict[str, Any]]
    processor: Mapping[str, Any]
    keys: tuple[tuple[str, str], ...] = ()
    picture: str = QWEN_PICTURE
    system: str = ""
    special_tokens: tuple[str, ...] = tuple(SPECIAL_TOKENS)
    named_tokens: Mapping[str, str] | None = None


TINY = {
    "qwen3_vl": TinyFamily(qwen3_vl_config, QWEN3_PROCESSOR),
    "qwen3_vl_moe": TinyFamily(qwen3_vl_moe_config, QWEN3_PROCESSOR),
    "qwen2_5_vl": TinyFamily(qwen2_5_vl_config, QWEN2_PROCESSOR, QWEN2_KEYS, system=QWEN2_SYSTEM),
    "qwen2_vl": TinyFamily(qwen2_vl_config, QWEN2_PROCESSOR, QWEN2_KEYS, system=QWEN2_SYSTEM),
    "internvl": TinyFamily(
        internvl_config,
        INTERNVL_PROCESSOR,
        INTERNVL_KEYS,
        picture="<IMG_CONTEXT>\n",
        special_tokens=tuple(INTERNVL_SPECIAL),
        named_tokens=INTERNVL_NAMES,
    ),
}


def tiny_family_model(name: str, seed: int = 0) -> tuple[Any, dict[str, Any]]:
    """The family's model with random weights, float32, and its config.json as published."""
    row = TINY[name]
    tokenizer = tiny_tokenizer(row.special_tokens)
    ids = dict(zip(row.special_tokens, tokenizer.convert_tokens_to_ids(list(row.special_tokens)), strict=True))
    published = row.config(ids, len(tokenizer) + 5)  # published vocabularies are padded, too
    config = CONFIG_MAPPING[published["model_type"]].from_dict(json.loads(json.dumps(published)))
    config._attn_implementation = "sdpa"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        with torch.no_grad():
            for key, parameter in model.named_parameters():
                if not parameter.any():  # biases, class token, positions: zeros would hide that they are lost
                    parameter.normal_(0, 0.05)
                elif key.endswith(("lambda_1", "lambda_2")):
                    parameter.mul_(4)
                elif re.search(r"\.(q_proj|k_proj|qkv)\.weight$", key):
                    parameter.mul_(3)
            if config.tie_word_embeddings:  # else every token predicts itself
                model.get_input_embeddings().weight.mul_(0.25)
        sharpen(model, 4.0)
    model.generation_config.eos_token_id = [ids["<|im_end|>"], ids["<|endoftext|>"]]
    model.generation_config.pad_token_id = ids["<|endoftext|>"]
    return model.eval(), published


def published_tensors(name: str, model: Any) -> dict[str, torch.Tensor]:
    """The model's tensors under their published names, language model first."""
    tied = model.config.tie_word_embeddings
    tensors = {}
    for key, value in model.state_dict().items():
        if tied and key == "lm_head.weight":
            continue
        if key.endswith("experts.gate_up_proj") and value.shape[1] == 48:  # published (experts, width, 2 x inner)
            value = value.transpose(1, 2)
        if key.endswith("experts.down_proj") and value.shape[1] == 32:  # published (experts, inner, width)
            value = value.transpose(1, 2)
        for pattern, replacement in TINY[name].keys:
            key, count = re.subn(pattern, replacement, key)
            if count:
                break
        tensors[key] = value.contiguous().clone()
    return dict(sorted(tensors.items(), key=lambda item: is_tower_key(item[0])))


def is_tower_key(key: str) -> bool:
    return re.search(r"^(model\.)?(visual|vision_tower|multi_modal_projector)\.", key) is not None


def save_tiny_family(folder: Path, name: str, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Any:
    """Write the checkpoint in four shards and return the model it was made of.

    The first shards hold only the language model, the last only the tower; one holds some of both.
    """
    folder.mkdir(parents=True)
    row, (model, config) = TINY[name], tiny_family_model(name, seed)
    tensors = {key: value.to(dtype) for key, value in published_tensors(name, model).items()}
    first_tower = next(place for place, key in enumerate(tensors) if is_tower_key(key))
    middle = (first_tower - 3, (first_tower + 3))
    cuts = [0, first_tower // 2, middle[0], middle[1], len(tensors)]
    weight_map, keys = {}, list(tensors)
    for number, (start, stop) in enumerate(itertools.pairwise(cuts), 1):
        shard = f"model-{number:05d}-of-00004.safetensors"
        save_file({key: tensors[key] for key in keys[start:stop]}, folder / shard, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(keys[start:stop], shard)
    total = sum(value.numel() * value.element_size() for value in tensors.values())
    write = {
        "model.safetensors.index.json": {"metadata": {"total_size": total}, "weight_map": weight_map},
        "config.json": config,
        "generation_config.json": {
            "do_sample": True,
            "eos_token_id": model.generation_config.eos_token_id,
            "pad_token_id": model.generation_config.pad_token_id,
            "temperature": 0.7,
            "top_k": 20,
            "top_p": 0.8,
        },
        "preprocessor_config.json": row.processor,
    }
    for file, content in write.items():
        (folder / file).write_text(json.dumps(content, indent=2))
    template = _template(row.picture, row.system)
    tiny_tokenizer(row.special_tokens, template).save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "Qwen2Tokenizer", "additional_special_tokens": list(row.special_tokens)}
    if row.named_tokens:
        settings |= {"extra_special_tokens": dict(row.named_tokens)}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    return model
