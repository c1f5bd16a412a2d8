"""Towers out of checkpoints: what is deployed, loaded without reading the language model."""

from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import nn
from transformers import AutoConfig

from fieldmark.models.families import FAMILIES, family_of
from fieldmark.models.precision import resolve_dtype
from fieldmark.models.vision_tokens import Preprocessing, VisionTower
from fieldmark.models.weight_files import INDEX, SINGLE, SMALL_FILES, check_files, fetch, read_json, weight_map

ATTENTION_KINDS = ("sdpa", "eager")
PROCESSOR_FILES = ("preprocessor_config.json", "processor_config.json")


def load_tower(path: str | Path, dtype: str = "float32", device: str = "cpu", attention: str = "sdpa") -> VisionTower:
    """Load the tower with its merger or projector out of a whole vision-language model.

    path: local folder or hub name. Files that hold only the language model are neither fetched nor opened, and from
    files that hold both, only the tower's tensors are read. Other arguments as for `load_backbone`.

    Raises:
        ValueError: unsupported architecture, half-downloaded files, missing, unexpected or misshapen weights.
    """
    computed_in = resolve_dtype(dtype, device)
    check_attention(attention)
    folder = fetch(path, SMALL_FILES)
    family = family_of(read_json(folder, "config.json").get("model_type"), str(path))
    if not (folder / INDEX).is_file():
        fetch(path, (SINGLE,), revision=folder.name)
    shards = {name for key, name in weight_map(folder).items() if family.tower_key(key) is not None}
    fetch(path, sorted(shards), revision=folder.name)
    stored = check_files(folder, shards)

    config = family.tower_config(AutoConfig.from_pretrained(folder, trust_remote_code=False))
    tower = build_tower(config, attention)
    expected = tower.state_dict()
    weights, names = {}, {}
    for name in sorted(shards):
        with safe_open(folder / name, framework="pt") as file:
            for key in (key for key, where in stored.items() if where == name):
                if (own := family.tower_key(key)) is not None:
                    weights[own], names[own] = file.get_tensor(key).to(computed_in), key
    problems = {
        "missing keys": sorted(expected.keys() - weights.keys()),
        "unexpected keys": sorted(names[own] for own in weights.keys() - expected.keys()),
        "mismatched keys": sorted(
            names[own] for own in weights.keys() & expected.keys() if weights[own].shape != expected[own].shape
        ),
    }
    refuse_misfits(path, problems)
    tower.load_state_dict(weights, assign=True)
    return VisionTower(tower.requires_grad_(True), load_preprocessing(folder, config)).to(device).eval()


def build_tower(config: Any, attention: str = "sdpa") -> nn.Module:
    """A family's tower with fresh weights, from the tower's own configuration."""
    config._attn_implementation = attention
    for family in FAMILIES:
        if type(config) in family.towers:
            return family.towers[type(config)](config)
    raise ValueError(f"no family knows the tower of a {type(config).__name__} (model type {config.model_type!r})")


def check_attention(attention: str) -> None:
    """Refuse attention implementations that cannot take the masks of the shared prefix."""
    if attention not in ATTENTION_KINDS:
        raise ValueError(f"attention {attention!r} is not one of {list(ATTENTION_KINDS)}")


def refuse_misfits(source: str | Path, problems: dict[str, list[str]]) -> None:
    """Raise a ValueError that names the keys, if there are any. problems: kind -> keys."""
    if any(problems.values()):
        details = "; ".join(
            f"{kind}: {', '.join(keys[:8])}{' …' if len(keys) > 8 else ''}" for kind, keys in problems.items() if keys
        )
        raise ValueError(f"the weights in {source} do not fit its config.json: {details}")


def geometry(config: Any) -> dict[str, int]:
    """A tower configuration's patch_size in pixels, merge_size in patches and temporal_patch_size in frames."""

    def side(value: Any) -> int:
        return int(value) if isinstance(value, int) else int(value[0])

    return {
        "patch_size": side(config.patch_size),
        "merge_size": int(config.spatial_merge_size),
        "temporal_patch_size": side(config.temporal_patch_size),
    }


def check_geometry(preprocessing: Preprocessing, config: Any) -> None:
    """Hold that pictures are cut as the tower wants them."""
    for name, theirs in geometry(config).items():
        ours = getattr(preprocessing, name)
        if theirs != ours:
            raise ValueError(
                f"the image processor says {name} = {ours}, the model {theirs}: "
                "preprocessor_config.json does not belong to these weights"
            )


def load_preprocessing(folder: Path, config: Any) -> Preprocessing:
    """The image processor's settings; the patches' sizes, where it does not name them, are the tower's.

    config: the tower's. Both kinds of file are known: an image processor's own, and a processor's with it inside.
    """
    for name in PROCESSOR_FILES:
        if (folder / name).is_file():
            settings = read_json(folder, name)
            settings = settings.get("image_processor", settings)
            settings = {key: value for key, value in settings.items() if value is not None}
            if "image_mean" in settings or name == PROCESSOR_FILES[-1]:
                preprocessing = Preprocessing.from_config({**geometry(config), **settings})
                check_geometry(preprocessing, config)
                return preprocessing
    raise ValueError(f"{folder} has no preprocessor_config.json: save the image processor beside the weights")
