"""What the plan must know of a family's modules: where they are, and which of their habits cost memory or arithmetic.

Everything a family does its own way is read here; `memory` and `flops` only see numbers. A further family is one more
row in `TOWERS`, if its tower is laid out like none of these. Language models are read alike for all of them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import nn


@dataclass(frozen=True)
class TowerFacts:
    """A vision tower with its mergers.

    Attributes:
        channels: of a picture.
        depth: blocks. width, heads, mlp_width, weights: of one; the weights are the entries of its matrices.
        merger_weights: of one merger. merger_inner: numbers per token between its two products.
        deepstack: layers whose features are also handed over.
        class_token: whether one more token than patches runs through the blocks.
        windowed: blocks that attend only within windows. window: side of one, in tokens; 0 without windows.
        rms_norm, merger_rms_norm: RMSNorm, which keeps more than LayerNorm. query_norms: q and k are normalised.
        rotary: positions are turned into q and k, which are kept a second time; pictures (or windows) are attended to
            one by one, and their results gathered.
        layer_scale: the results of attention and of the MLP are multiplied by trained factors.
        mlp_kept: numbers that the MLP keeps, in multiples of mlp_width.
    """

    channels: int
    depth: int
    width: int
    heads: int
    mlp_width: int
    weights: int
    merger_weights: int
    merger_inner: int
    deepstack: int = 0
    class_token: bool = False
    windowed: int = 0
    window: int = 0
    rms_norm: bool = False
    merger_rms_norm: bool = False
    query_norms: bool = False
    rotary: bool = False
    layer_scale: bool = False
    mlp_kept: int = 2


@dataclass(frozen=True)
class DecoderFacts:
    """A language model's layers. Where some layers have experts and others have not, figures are means over all.

    Attributes:
        query_norms: q and k are normalised per head.
        layer_weights: entries of the matrices that one token meets in a layer (of its own experts only).
        mlp_width: numbers per token between the MLP's products, over all of its experts.
        closing_weights: entries of the product that closes an MLP without experts.
        experts: of a layer that has any; active: experts per token; expert_weights: entries of one expert's matrices.
        routed: numbers per token that the experts hand back before they are weighed and added up.
    """

    query_norms: bool
    layer_weights: float
    mlp_width: float
    closing_weights: float
    experts: int = 0
    active: int = 0
    expert_weights: float = 0.0
    routed: float = 0.0


def tower_facts(model_type: str, visual: Any) -> TowerFacts:
    """Facts of a tower module; meta tensors will do."""
    return TOWERS[model_type](visual)


def facts_of_last(facts: TowerFacts, visual: Any, count: int) -> TowerFacts:
    """Facts of a tower's last `count` blocks, and of the mergers that come after one of them."""
    config, first = visual.config, facts.depth - count
    whole = getattr(config, "fullatt_block_indexes", None)
    return replace(
        facts,
        depth=count,
        windowed=0 if whole is None else sum(index not in whole for index in range(first, facts.depth)),
        deepstack=sum(index >= first for index in getattr(config, "deepstack_visual_indexes", ())),
    )


def decoder_facts(layers: Any, active: int) -> DecoderFacts:
    """Facts of a decoder's layers. active: experts that a token is sent to."""
    count = len(layers)
    dense = [layer for layer in layers if not hasattr(layer.mlp, "experts")]
    sparse = [layer.mlp for layer in layers if hasattr(layer.mlp, "experts")]
    closing = sum(_linears(layer.mlp)[-1].weight.numel() for layer in dense)
    expert = sum(p[0].numel() for mlp in sparse for p in mlp.experts.parameters())
    routers = sum(p.numel() for mlp in sparse for p in mlp.gate.parameters())
    own = sum(_linears(layer.mlp)[-1].in_features for layer in dense)
    return DecoderFacts(
        query_norms=hasattr(layers[0].self_attn, "q_norm"),
        layer_weights=(sum(_matrices(layer) for layer in layers) + routers + active * expert) / count,
        mlp_width=(own + sum(active * mlp.experts.down_proj.shape[-1] for mlp in sparse)) / count,
        closing_weights=closing / count,
        experts=sparse[0].experts.num_experts if sparse else 0,
        active=active if sparse else 0,
        expert_weights=expert / count,
        routed=sum(active * mlp.experts.down_proj.shape[-2] for mlp in sparse) / count,
    )


def _matrices(module: nn.Module) -> int:
    """Entries of a module's linear layers."""
    return sum(one.weight.numel() for one in _linears(module))


def _linears(module: nn.Module) -> list[nn.Linear]:
    return [one for one in module.modules() if isinstance(one, nn.Linear)]


def _qwen(visual: Any) -> TowerFacts:
    config, block, merger = visual.config, visual.blocks[0], visual.merger
    whole = getattr(config, "fullatt_block_indexes", None)
    gated = hasattr(block.mlp, "gate_proj")
    return TowerFacts(
        channels=visual.patch_embed.proj.in_channels,
        depth=len(visual.blocks),
        width=block.attn.qkv.in_features,
        heads=config.num_heads,
        mlp_width=_linears(block.mlp)[-1].in_features,
        weights=_matrices(block),
        merger_weights=_matrices(merger),
        merger_inner=_linears(merger)[0].out_features,
        deepstack=len(getattr(config, "deepstack_visual_indexes", ())),
        windowed=0 if whole is None else len(visual.blocks) - len(whole),
        window=0 if whole is None else config.window_size // config.spatial_merge_size // config.patch_size,
        rms_norm=not isinstance(block.norm1, nn.LayerNorm),
        merger_rms_norm=not isinstance(getattr(merger, "norm", None) or merger.ln_q, nn.LayerNorm),
        rotary=True,
        mlp_kept=4 if gated else _ungated(config.hidden_act),
    )


def _internvl(visual: Any) -> TowerFacts:
    config, blocks = visual.config, visual.vision_tower.encoder.layer
    return TowerFacts(
        channels=config.num_channels,
        depth=len(blocks),
        width=config.hidden_size,
        heads=config.num_attention_heads,
        mlp_width=config.intermediate_size,
        weights=_matrices(blocks[0]),
        merger_weights=_matrices(visual.multi_modal_projector),
        merger_inner=config.out_hidden_size,
        class_token=True,
        rms_norm=not isinstance(blocks[0].layernorm_before, nn.LayerNorm),
        query_norms=bool(config.use_qk_norm),
        layer_scale=True,
        mlp_kept=_ungated(config.hidden_act),
    )


def _ungated(activation: str) -> int:
    """Multiples of its width that an MLP of two products keeps: the activation's input and result; the quick GELU also
    its sigmoid."""
    return 3 if activation == "quick_gelu" else 2


TOWERS: dict[str, Callable[[Any], TowerFacts]] = {
    "qwen3_vl": _qwen,
    "qwen3_vl_moe": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen2_vl": _qwen,
    "internvl": _internvl,
}
"""By model type: those whose kept activations are known, each held to a measured step by the tests."""
