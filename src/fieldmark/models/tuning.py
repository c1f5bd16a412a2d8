"""Which of the tower's weights train: all, low-rank adapters in its blocks (LoRA), its last blocks, or none.

Target modules are found from the tower itself, so this holds for every family: all linear layers of its blocks. The
patch embedding, position embeddings, norms and what stands behind the blocks (merger, projector) keep their weights
under LoRA and under last-blocks tuning. Adapters are merged when the encoder is saved: what is deployed is plain.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from fieldmark.models.vision_tokens import VisionTower

TuningMethod = Literal["full", "lora", "last_blocks", "frozen"]
_ADAPTER = "default"


@dataclass(frozen=True)
class TuningConfig:
    """Which weights of the tower are trained."""

    method: TuningMethod = "full"
    """full (published): every weight. lora: adapters on every linear layer of the blocks, by peft. last_blocks: the
    last ``blocks`` blocks and nothing else. frozen: none; the pooler alone learns."""
    rank: int = 16
    """r of LoRA: the weights' change is a product of (out, r) and (r, in)."""
    alpha: float = 32.0
    """LoRA's change is scaled by alpha / rank."""
    dropout: float = 0.0
    """Share of a linear layer's inputs that its adapter does not see, in training only."""
    blocks: int = 4
    """Of last_blocks: how many train, counted from the end."""

    def __post_init__(self) -> None:
        if self.method not in get_args(TuningMethod):
            raise ValueError(f"tuning.method must be one of {', '.join(get_args(TuningMethod))}, got {self.method!r}")
        for name in ("rank", "blocks"):
            if getattr(self, name) < 1:
                raise ValueError(f"tuning.{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"tuning.alpha must be a finite number above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"tuning.dropout must be at least 0 and below 1, got {self.dropout}")


def tower_blocks(tower: VisionTower) -> nn.ModuleList:
    """The tower's transformer blocks, first to last: a list of like modules, as many as the configuration says.

    Raises:
        ValueError: there is no such list.
    """
    config = tower.model.config
    depth = getattr(config, "depth", getattr(config, "num_hidden_layers", None))
    lists = [m for m in tower.model.modules() if isinstance(m, nn.ModuleList)]
    fitting = [one for one in lists if len(one) == depth and len({type(block) for block in one}) == 1]
    if not fitting:
        raise ValueError(
            f"{type(tower.model).__name__} holds no list of {depth} blocks, only of {[len(one) for one in lists]}: "
            "it can only be trained in full, without recomputing blocks"
        )
    return max(fitting, key=lambda one: sum(p.numel() for p in one.parameters()))


def tune_tower(tower: VisionTower, config: TuningConfig, generator: torch.Generator) -> None:
    """Let exactly the chosen weights require a gradient; put adapters in, in place. Call once.

    With LoRA (arXiv 2106.09685) the tower computes what it did: B is zero, A is drawn from ``generator`` (uniform with
    variance 1 / (3 · in)). Adapters are float32 whatever the tower is.

    Raises:
        ValueError: more blocks than the tower has.
    """
    tower.requires_grad_(config.method == "full")
    if config.method == "last_blocks":
        blocks = tower_blocks(tower)
        if config.blocks > len(blocks):
            raise ValueError(
                f"tuning.blocks is {config.blocks}, but the tower has {len(blocks)} blocks: choose 1 to {len(blocks)}"
            )
        blocks[len(blocks) - config.blocks :].requires_grad_(True)
    elif config.method == "lora":
        _add_adapters(tower_blocks(tower), config, generator)


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that require a gradient, by name."""
    return {name: p for name, p in module.named_parameters() if p.requires_grad}


def deployed_weights(module: nn.Module) -> dict[str, Tensor]:
    """`state_dict` as if there had never been an adapter: W + alpha / rank · B A under W's own name.

    The module itself is not touched: merging and unmerging in place would change its last bits.
    """
    weights = dict(module.state_dict())
    for name, layer in module.named_modules():
        if not (hasattr(layer, "base_layer") and hasattr(layer, "get_delta_weight")):
            continue
        prefix = f"{name}." if name else ""
        for key in [key for key in weights if key.startswith(f"{prefix}lora_")]:
            del weights[key]
        for key in [key for key in weights if key.startswith(f"{prefix}base_layer.")]:
            weights[prefix + key.removeprefix(f"{prefix}base_layer.")] = weights.pop(key)
        base = weights[f"{prefix}weight"]
        with torch.no_grad():
            merged = base.float() + layer.get_delta_weight(_ADAPTER).float()
        weights[f"{prefix}weight"] = merged.to(base.dtype)
    return weights


def _add_adapters(blocks: nn.ModuleList, config: TuningConfig, generator: torch.Generator) -> None:
    from peft import LoraConfig, inject_adapter_in_model  # takes seconds, and few runs need it

    targets = [name for name, module in blocks.named_modules() if type(module) is nn.Linear]
    if not targets:
        raise ValueError("the tower's blocks hold no linear layer that could carry an adapter: choose another tuning")
    settings = LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=targets)  # type: ignore[arg-type]
    with torch.random.fork_rng(devices=[]):  # peft draws from the global generator; redrawn below
        inject_adapter_in_model(settings, blocks, adapter_name=_ADAPTER)
    for name in targets:
        layer: Any = blocks.get_submodule(name)
        down, up = layer.lora_A[_ADAPTER].weight, layer.lora_B[_ADAPTER].weight
        drawn = torch.empty(down.shape).uniform_(-1, 1, generator=generator) / math.sqrt(down.shape[1])
        down.data = drawn.to(down.device)
        up.data = torch.zeros(up.shape, device=up.device)
        if config.dropout > 0:
            layer.lora_dropout[_ADAPTER] = _TrainingDropout(config.dropout)


class _TrainingDropout(nn.Module):
    """Dropout wherever a graph is built.

    The tower stays in evaluation mode while it trains, so that no dropout of its own fires; `nn.Dropout` would never
    be active there. Draws from torch's global generator, which gradient checkpointing knows how to restore.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, inputs: Tensor) -> Tensor:
        return nn.functional.dropout(inputs, self.share, training=torch.is_grad_enabled())
