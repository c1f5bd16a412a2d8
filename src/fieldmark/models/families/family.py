"""What one family of vision-language models does its own way; everything else is asked from the model."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True)
class Family:
    """One family, as `fieldmark.models.backbone` and `fieldmark.models.tower` need to know it.

    name: for messages. model_types: the `model_type` of the config.json files that belong to it.
    tower_config: the whole model's configuration to that of its tower, one of those in `towers`. It
    has `patch_size`, `spatial_merge_size` and `temporal_patch_size`, and says the width of the tower's tokens in
    `out_hidden_size` (or, like Qwen2-VL, in `hidden_size`).
    tower_of: the whole model to its tower, called with flat patches and `grid_thw` and answering with
    `pooler_output` (see `VisionTower`). It must share the model's weights, not copy them.
    towers: the towers' configuration classes -> the modules that they build.
    tower_keys: beginnings of the tower's keys in published checkpoints -> beginnings of the tower module's own. The
    first one that fits counts.
    """

    name: str
    model_types: tuple[str, ...]
    tower_config: Callable[[Any], Any]
    tower_of: Callable[[Any], nn.Module]
    towers: Mapping[type, Callable[[Any], nn.Module]]
    tower_keys: Mapping[str, str]

    def tower_key(self, key: str) -> str | None:
        """The tower's own name of a checkpoint's key; None if it belongs to the language model."""
        for theirs, ours in self.tower_keys.items():
            if key.startswith(theirs):
                return ours + key.removeprefix(theirs)
        return None
