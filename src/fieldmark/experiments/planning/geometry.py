"""The supervisor's geometry, read from its checkpoint folder without loading a weight."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoTokenizer

from fieldmark.models.backbone import Backbone
from fieldmark.models.bundled import bundled_path
from fieldmark.models.vision_tokens import Preprocessing

PLANNED = ("qwen3_vl",)
"""Model types whose kept activations are known here (each is held to a measured step by the tests)."""


@dataclass(frozen=True)
class TowerGeometry:
    """Vision tower with its mergers. Widths in numbers, `parameters` counted once each."""

    depth: int
    width: int
    heads: int
    mlp_width: int
    patch_values: int
    """Numbers in one patch: channels x frames x side x side."""
    patch_size: int
    merge: int
    """Patches merged per side into one token."""
    deepstack: int
    """Layers whose features are also handed over."""
    block_weights: int
    """Entries of one block's matrices."""
    merger_weights: int
    """Entries of one merger's matrices."""
    parameters: int


@dataclass(frozen=True)
class DecoderGeometry:
    """Language model: frozen."""

    layers: int
    width: int
    heads: int
    key_heads: int
    head_dim: int
    mlp_width: int
    vocabulary: int
    layer_weights: int
    """Entries of one layer's matrices."""
    parameters: int
    """Embedding and head included, tied ones once."""
    context: int


@dataclass(frozen=True)
class Geometry:
    """The whole supervisor."""

    name: str
    tower: TowerGeometry
    decoder: DecoderGeometry


def meta_backbone(supervisor: str) -> Backbone:
    """The supervisor as a `Backbone` whose weights have shapes only.

    supervisor: "bundled" or a local folder with config.json, tokenizer and preprocessor_config.json; weight files are
    not opened, and need not be there.

    Raises:
        ValueError: no such folder, a file is missing, or the architecture is not one that can be planned.
    """
    folder = Path(bundled_path() if supervisor == "bundled" else supervisor)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"no config.json in {folder}: a plan is made from a local checkpoint folder "
            "(config, tokenizer and image processor are enough, the weights are not read)"
        )
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in PLANNED:
        raise ValueError(f"{folder} is a {config.model_type} model; a plan can be made for {', '.join(PLANNED)}")
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    model.tie_weights()
    for name in ("preprocessor_config.json", "processor_config.json"):
        if (folder / name).is_file():
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            return Backbone(model, tokenizer, Preprocessing.from_file(folder / name)).eval()
    raise ValueError(f"{folder} has no preprocessor_config.json: put the image processor's configuration there")


def read_geometry(backbone: Backbone) -> Geometry:
    """Sizes of a backbone's parts, from its configuration and its modules' shapes (meta tensors will do)."""
    config: Any = backbone.model.config
    vision, text = config.vision_config, config.get_text_config()
    visual, decoder = backbone.tower.model, backbone.decoder
    p = backbone.preprocessing
    tower = TowerGeometry(
        depth=vision.depth,
        width=vision.hidden_size,
        heads=vision.num_heads,
        mlp_width=vision.intermediate_size,
        patch_values=vision.in_channels * p.temporal_patch_size * p.patch_size**2,
        patch_size=p.patch_size,
        merge=p.merge_size,
        deepstack=len(vision.deepstack_visual_indexes),
        block_weights=_matrices(visual.blocks[0]),
        merger_weights=_matrices(visual.merger),
        parameters=sum(q.numel() for q in backbone.tower.parameters()),
    )
    total = sum(q.numel() for q in backbone.model.parameters())
    return Geometry(
        name=config.model_type,
        tower=tower,
        decoder=DecoderGeometry(
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            key_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            mlp_width=text.intermediate_size,
            vocabulary=text.vocab_size,
            layer_weights=_matrices(decoder.layers[0]),
            parameters=total - tower.parameters,
            context=text.max_position_embeddings,
        ),
    )


def _matrices(module: nn.Module) -> int:
    return sum(one.weight.numel() for one in module.modules() if isinstance(one, nn.Linear))
