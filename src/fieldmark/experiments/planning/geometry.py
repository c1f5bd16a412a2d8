"""The supervisor's geometry, read from its checkpoint folder without loading a weight."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from fieldmark.experiments.planning.families import TOWERS, DecoderFacts, TowerFacts, decoder_facts, tower_facts
from fieldmark.models.backbone import Backbone
from fieldmark.models.bundled import located
from fieldmark.models.families import family_of
from fieldmark.models.tokenizer import load_tokenizer
from fieldmark.models.tower import load_preprocessing
from fieldmark.models.weight_files import SMALL_FILES, fetch


@dataclass(frozen=True)
class TowerGeometry:
    """Vision tower with its mergers. Widths in numbers, `parameters` counted once each."""

    facts: TowerFacts
    patch_values: int
    """Numbers in one patch: channels x frames x side x side."""
    patch_size: int
    merge: int
    """Patches merged per side into one token."""
    parameters: int

    def sequence(self, patches: int) -> int:
        """Rows that run through the blocks for one picture of so many patches."""
        return patches + self.facts.class_token

    def attended(self, patches: int) -> float:
        """Pairs of query and key of one picture (a square of `patches`), summed over the blocks."""
        side = round(patches**0.5) // self.merge
        pairs = float((self.facts.depth - self.facts.windowed) * self.sequence(patches) ** 2)
        if self.facts.windowed:
            whole, rest = divmod(side, self.facts.window)
            along = whole * self.facts.window**2 + rest**2
            pairs += self.facts.windowed * along**2 * self.merge**4
        return pairs


@dataclass(frozen=True)
class DecoderGeometry:
    """Language model: frozen."""

    facts: DecoderFacts
    layers: int
    width: int
    heads: int
    key_heads: int
    head_dim: int
    vocabulary: int
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

    supervisor: "bundled", a hub id, or a folder with config.json, tokenizer and preprocessor_config.json; weight files
    are neither fetched nor opened, and need not be there.

    Raises:
        ValueError: nothing there, a file is missing, or the architecture is not one that can be planned.
    """
    folder = fetch(located(supervisor), SMALL_FILES)
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"no config.json in {folder}: a plan is made from a checkpoint's folder "
            "(config, tokenizer and image processor are enough, the weights are not read)"
        )
    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    if config.model_type not in TOWERS:
        raise ValueError(f"{folder} is a {config.model_type} model; a plan can be made for {', '.join(TOWERS)}")
    config._attn_implementation = "sdpa"
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config, trust_remote_code=False)
    model.tie_weights()
    preprocessing = load_preprocessing(folder, family_of(config.model_type, str(folder)).tower_config(config))
    return Backbone(model, load_tokenizer(folder), preprocessing).eval()


def read_geometry(backbone: Backbone) -> Geometry:
    """Sizes of a backbone's parts, from its configuration and its modules' shapes (meta tensors will do)."""
    config: Any = backbone.model.config
    text, p = config.get_text_config(), backbone.preprocessing
    facts = tower_facts(config.model_type, backbone.tower.model)
    tower = TowerGeometry(
        facts=facts,
        patch_values=facts.channels * p.temporal_patch_size * p.patch_size**2,
        patch_size=p.patch_size,
        merge=p.merge_size,
        parameters=sum(q.numel() for q in backbone.tower.parameters()),
    )
    total = sum(q.numel() for q in backbone.model.parameters())
    return Geometry(
        name=config.model_type,
        tower=tower,
        decoder=DecoderGeometry(
            facts=decoder_facts(backbone.decoder.layers, getattr(text, "num_experts_per_tok", 0)),
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            heads=text.num_attention_heads,
            key_heads=text.num_key_value_heads,
            head_dim=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            vocabulary=text.vocab_size,
            parameters=total - tower.parameters,
            context=text.max_position_embeddings,
        ),
    )
