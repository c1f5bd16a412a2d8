"""LoRA adapters in the language model, through peft (Hu et al. 2022, arXiv 2106.09685).

Adapters are injected: the model's structure stays as it is, so that everything which looks for the decoder, the head
or the tower still finds it. One adapter at a time; a second one is added after the first was folded into the weights.
"""

import json
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer, cast_adapter_dtype
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file
from torch import Tensor, nn

from fieldmark.models.backbone import Backbone
from fieldmark.models.weight_files import check_file, read_json, write_tensors

NAME = "default"
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_KEY_PREFIX = "base_model.model."
# Settings of peft that change more than two matrices beside a linear layer.
_REFUSED = (
    "modules_to_save",
    "use_dora",
    "lora_bias",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "megatron_config",
    "use_qalora",
    "alora_invocation_tokens",
    "arrow_config",
)


@dataclass(frozen=True)
class AdapterConfig:
    """A new LoRA adapter. The published recipe has r 64, α 128 in stage 1, then r 128, α 256."""

    rank: int = 64
    """Inner width of the added matrices."""
    alpha: float = 128
    """The product of the two matrices is scaled by alpha / rank."""
    dropout: float = 0.05
    """On the added matrices' input, in training mode."""
    targets: tuple[str, ...] = LINEAR_LAYERS
    """Linear layers of the decoder that get one, by the last part of their names. Experts are none: in a mixture of
    experts the attention alone is adapted."""

    def __post_init__(self) -> None:
        if self.rank < 1 or self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(
                "an adapter needs rank >= 1, alpha > 0 and 0 <= dropout < 1, "
                f"got {self.rank}, {self.alpha}, {self.dropout}"
            )
        if not self.targets:
            raise ValueError(f"an adapter needs target layers, e.g. {LINEAR_LAYERS}")


@dataclass(frozen=True, eq=False)
class SavedAdapter:
    """An adapter outside of a model. config: as peft writes it. tensors: by the keys of peft's files."""

    config: LoraConfig
    tensors: Mapping[str, Tensor]


def adapter_layers(backbone: Backbone) -> dict[str, Any]:
    """The layers that carry an adapter, by name; empty without one."""
    return {name: layer for name, layer in backbone.model.named_modules() if isinstance(layer, BaseTunerLayer)}


def is_merged(backbone: Backbone) -> bool:
    return any(layer.merged for layer in adapter_layers(backbone).values())


def add_adapter(backbone: Backbone, config: AdapterConfig, generator: torch.Generator) -> None:
    """Add a trainable adapter to the decoder's linear layers, in float32. It changes nothing until it is trained.

    Which other parameters are trained stays as it was.

    Raises:
        ValueError: there is one already, or no layer has one of the names.
    """
    _need_no_adapter(backbone)
    decoder = _name_of(backbone, backbone.decoder)
    names = [
        name
        for name, module in backbone.decoder.named_modules()
        if isinstance(module, nn.Linear) and name.rsplit(".", 1)[-1] in config.targets
    ]
    if missing := set(config.targets) - {name.rsplit(".", 1)[-1] for name in names}:
        present = {name.rsplit(".", 1)[-1] for name, m in backbone.decoder.named_modules() if isinstance(m, nn.Linear)}
        if not names or not missing <= set(LINEAR_LAYERS):
            raise ValueError(f"the decoder has no linear layers {sorted(missing)}; it has {sorted(present)}")
    ends = "|".join(sorted({re.escape(name.rsplit(".", 1)[-1]) for name in names}))
    peft_config = LoraConfig(
        r=config.rank,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=config.dropout,
        target_modules=rf"{re.escape(decoder)}\.(?:.+\.)?(?:{ends})",
        bias="none",
    )
    _inject(backbone, peft_config)
    for layer in adapter_layers(backbone).values():  # as peft does, but from the given generator
        nn.init.kaiming_uniform_(layer.lora_A[NAME].weight, a=math.sqrt(5), generator=generator)
        nn.init.zeros_(layer.lora_B[NAME].weight)


def adapter_state(backbone: Backbone) -> SavedAdapter | None:
    """A copy of the adapter that is in the model, on the CPU; None without one."""
    layers = adapter_layers(backbone)
    if not layers:
        return None
    tensors = {
        f"{_KEY_PREFIX}{name}.{part}.weight": getattr(layer, part)[NAME].weight.detach().cpu().clone()
        for name, layer in layers.items()
        for part in ("lora_A", "lora_B")
    }
    return SavedAdapter(backbone.model.peft_config[NAME], tensors)


def insert_adapter(backbone: Backbone, saved: SavedAdapter, source: str) -> None:
    """Put a saved adapter into the model, trainable. Keys of other versions of transformers find their layers.

    source: named in errors.

    Raises:
        ValueError: it adapts layers that this model does not have, or of other shapes, or the tower; or it is of a
            kind that changes more than linear layers.
    """
    _need_no_adapter(backbone)
    config = saved.config
    _refuse_kind(config, source)
    linear = {name: module for name, module in backbone.model.named_modules() if isinstance(module, nn.Linear)}
    places: dict[str, str] = {}  # the file's name of a layer -> the model's
    values: dict[str, dict[str, Tensor]] = {}
    for key, tensor in saved.tensors.items():
        found = re.fullmatch(r"(?:base_model\.model\.)?(.+)\.(lora_A|lora_B)(?:\.default)?\.weight", key)
        if found is None:
            raise ValueError(
                f"the adapter {source} holds {key!r}, which is no LoRA matrix: merge it with peft "
                "(merge_and_unload), save the whole model and load that"
            )
        theirs, part = found[1], found[2]
        own = places.setdefault(theirs, _find_layer(linear, theirs, source))
        values.setdefault(own, {})[part] = tensor
    decoder = _name_of(backbone, backbone.decoder) + "."
    if elsewhere := sorted(own for own in values if not own.startswith(decoder)):
        raise ValueError(
            f"the adapter {source} changes {elsewhere[0]} and {len(elsewhere) - 1} more layers outside of the language "
            "model: merge it with peft (merge_and_unload), save the whole model and load that"
        )
    ranks, alphas = {}, {}
    patterns = config.alpha_pattern or {}
    for theirs, own in places.items():
        matrices, layer = values[own], linear[own]
        if set(matrices) != {"lora_A", "lora_B"}:
            raise ValueError(f"the adapter {source} has only {sorted(matrices)} for {theirs}: the file is incomplete")
        shapes = tuple(matrices["lora_A"].shape), tuple(matrices["lora_B"].shape)
        rank = shapes[0][0]
        if shapes != ((rank, layer.in_features), (layer.out_features, rank)):
            raise ValueError(
                f"the adapter {source} was made for another base: for {theirs} it has matrices {shapes[0]} and "
                f"{shapes[1]}, the layer here maps {layer.in_features} to {layer.out_features}"
            )
        ranks[own] = rank
        alphas[own] = patterns.get(get_pattern_key(list(patterns), theirs), config.lora_alpha)
    injected = LoraConfig(
        r=config.r,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        use_rslora=config.use_rslora,
        target_modules=list(values),
        rank_pattern={re.escape(name): rank for name, rank in ranks.items() if rank != config.r},
        alpha_pattern={re.escape(name): alpha for name, alpha in alphas.items() if alpha != config.lora_alpha},
        bias="none",
    )
    _inject(backbone, injected)
    layers = adapter_layers(backbone)
    assert set(layers) == set(values), "peft adapted other layers than it was asked to"
    with torch.no_grad():
        for name, layer in layers.items():
            for part, tensor in values[name].items():
                getattr(layer, part)[NAME].weight.copy_(tensor)


@contextmanager
def adapter_disabled(backbone: Backbone) -> Iterator[None]:
    """Inside, the model computes as if it had no adapter. What is trained stays as it was.

    Raises:
        ValueError: the adapter is merged: peft would take it out of the weights, and rounding would stay.
    """
    if is_merged(backbone):
        raise ValueError("the adapter is merged into the weights: unmerge it before disabling it")
    layers = adapter_layers(backbone).values()
    # peft's switch sets requires_grad of every adapter it knows, whatever it was
    flags = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    for layer in layers:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def merge_adapter(backbone: Backbone) -> None:
    """Add the adapter's products to the weights: inference at the base's cost. `unmerge_adapter` undoes it.

    Raises:
        ValueError: there is none, or it is merged already.
    """
    _need_adapter(backbone)
    if is_merged(backbone):
        raise ValueError("the adapter is merged already")
    for layer in adapter_layers(backbone).values():
        layer.merge()


def unmerge_adapter(backbone: Backbone) -> None:
    """Take a merged adapter out of the weights again: exact up to rounding of the weights' type.

    Raises:
        ValueError: it is not merged.
    """
    if not is_merged(backbone):
        raise ValueError("the adapter is not merged")
    for layer in adapter_layers(backbone).values():
        layer.unmerge()


def fold_adapter(backbone: Backbone) -> SavedAdapter:
    """Make the adapter part of the weights for good, so that another can be added; returns what it was."""
    saved = adapter_state(backbone)
    if saved is None:
        raise ValueError("there is no adapter to fold: add one first")
    if not is_merged(backbone):
        merge_adapter(backbone)
    for name, layer in adapter_layers(backbone).items():
        parent, _, child = name.rpartition(".")
        setattr(backbone.model.get_submodule(parent), child, layer.get_base_layer())
    del backbone.model.peft_config
    return saved


# ---- on disk


def write_adapter(saved: SavedAdapter, folder: Path, base: str) -> None:
    """Write a folder as peft does, loadable by `PeftModel.from_pretrained` over `base`."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = saved.config.to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
    plain = {key: sorted(value) if isinstance(value, set) else value for key, value in settings.items()}
    text = json.dumps(plain, indent=2, sort_keys=True) + "\n"
    write_tensors(saved.tensors, folder / WEIGHTS_FILE, {"format": "pt"})
    (folder / CONFIG_FILE).write_text(text, encoding="utf-8")


def read_adapter(folder: Path) -> SavedAdapter:
    """Read a folder that peft or `write_adapter` wrote. Safetensors only.

    Raises:
        ValueError: a file is missing or cut short, or it is no LoRA adapter.
    """
    settings = read_json(folder, CONFIG_FILE)
    if settings.get("peft_type") != "LORA":
        raise ValueError(
            f"the adapter {folder} is of peft's kind {settings.get('peft_type')!r}: only LORA is supported"
        )
    if not (folder / WEIGHTS_FILE).is_file():
        raise ValueError(
            f"{folder} holds no {WEIGHTS_FILE}: weights in other formats are not read; load the adapter with peft "
            "and save it again with safe_serialization"
        )
    check_file(folder / WEIGHTS_FILE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # settings of newer versions of peft: those that matter are refused by name
        config = LoraConfig.from_pretrained(str(folder))
    return SavedAdapter(config, load_file(folder / WEIGHTS_FILE))


# ---- pieces


def _inject(backbone: Backbone, config: LoraConfig) -> None:
    flags = {name: parameter.requires_grad for name, parameter in backbone.model.named_parameters()}
    with torch.random.fork_rng(devices=[]):  # peft draws weights that are overwritten at once
        inject_adapter_in_model(config, backbone.model, NAME)
    cast_adapter_dtype(backbone.model, NAME)
    for layer in adapter_layers(backbone).values():  # new modules are in training mode, whatever the model is in
        layer.train(backbone.model.training)
    for name, parameter in backbone.model.named_parameters():  # peft freezes everything that is not its own
        parameter.requires_grad_(flags.get(name.replace(".base_layer.", "."), ".lora_" in name))


def _need_no_adapter(backbone: Backbone) -> None:
    if adapter_layers(backbone):
        raise ValueError("the model has an adapter already: fold it into the weights first, or train it further")


def _need_adapter(backbone: Backbone) -> None:
    if not adapter_layers(backbone):
        raise ValueError("the model has no adapter: add one first")


def _name_of(backbone: Backbone, module: nn.Module) -> str:
    return next(name for name, other in backbone.model.named_modules() if other is module)


def _find_layer(linear: Mapping[str, nn.Linear], theirs: str, source: str) -> str:
    """The layer that a file means by a name: versions of transformers differ in what stands before the layer number."""
    parts = theirs.split(".")
    for start in range(len(parts)):
        rest = parts[start:]
        if not any(part.isdigit() for part in rest):
            break
        ending = ".".join(rest)
        found = [name for name in linear if name == ending or name.endswith("." + ending)]
        if len(found) == 1:
            return found[0]
        if found:
            break
    raise ValueError(
        f"the adapter {source} was made for another base: this model has no linear layer {theirs!r}. Give the base "
        "model that it was trained over"
    )


def _refuse_kind(config: LoraConfig, source: str) -> None:
    refused = [name for name in _REFUSED if getattr(config, name, None)]
    if config.bias != "none":
        refused.append("bias")
    if isinstance(config.init_lora_weights, str) and config.init_lora_weights not in ("gaussian", "orthogonal", "eva"):
        refused.append(f"init_lora_weights={config.init_lora_weights}")  # these change the base's weights, too
    if refused:
        raise ValueError(
            f"the adapter {source} uses {', '.join(refused)}, which is not supported: merge it with peft "
            "(merge_and_unload), save the whole model and load that"
        )
