"""InternVL3 and InternVL3.5 in the `-HF` layout: a plain vision transformer, its projector, and one axis of positions.

transformers has no module for the two together: joining 2 x 2 neighbours happens inside the whole model's forward.
`InternVLTower` is that module. It takes the same flat patches as the other families' towers, so that nothing else
need know. Pictures are never cut into tiles (`crop_to_patches` is not read): one picture, one square.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.internvl.configuration_internvl import InternVLVisionConfig
from transformers.models.internvl.modeling_internvl import InternVLVisionModel, InternVLVisionPreTrainedModel

from fieldmark.models.families.family import Family


class InternVLTowerConfig(InternVLVisionConfig):
    """The vision transformer's configuration and what the projector needs.

    out_hidden_size: width of the language model. spatial_merge_size: 1 / downsample_ratio.
    """

    model_type = "internvl_tower"

    out_hidden_size: int = 4096
    spatial_merge_size: int = 2
    temporal_patch_size: int = 1
    projector_hidden_act: str = "gelu"


class InternVLTower(InternVLVisionPreTrainedModel):
    """Vision transformer and projector, called like Qwen's towers: flat patches and their grid."""

    config_class = InternVLTowerConfig

    def __init__(self, config: InternVLTowerConfig) -> None:
        super().__init__(config)
        self.vision_tower = InternVLVisionModel(config)
        self.multi_modal_projector = _Projector(config)
        self.post_init()

    def forward(self, patches: Tensor, grid_thw: Tensor, return_dict: bool = True) -> BaseModelOutputWithPooling:
        """Patches (sum of h*w, channels * patch * patch), block-major, to `pooler_output` (sum of N_i, D), row-major.

        Pictures may differ in size, each is square: the whole model knows no others. At sizes other than the
        configuration's image_size the position embeddings are interpolated, as the whole model does.
        """
        grids = [(rows, columns) for _, rows, columns in grid_thw.tolist()]
        for rows, columns in grids:
            if rows != columns:
                raise ValueError(f"InternVL sees square pictures, got a grid of {rows}x{columns} patches: resize")
        pieces = patches.split([rows * columns for rows, columns in grids])
        tokens: list[Tensor | None] = [None] * len(grids)
        for grid in dict.fromkeys(grids):  # one pass per size
            members = [number for number, other in enumerate(grids) if other == grid]
            alike = patches.view(len(grids), -1, patches.shape[1]) if len(members) == len(grids) else None
            block = torch.stack([pieces[number] for number in members]) if alike is None else alike
            for number, merged in zip(members, self._merged(block, *grid), strict=True):
                tokens[number] = merged
        return BaseModelOutputWithPooling(pooler_output=torch.cat([one for one in tokens if one is not None]))

    def _merged(self, patches: Tensor, rows: int, columns: int) -> Tensor:
        """(n, rows * columns, values) of pictures of one size to (n, N, D)."""
        merge, (patch, _) = self.config.spatial_merge_size, self.config.patch_size
        count, high, wide = len(patches), rows // merge, columns // merge
        pixels = patches.view(count, high, wide, merge, merge, self.config.num_channels, patch, patch)
        pixels = pixels.permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(count, -1, rows * patch, columns * patch)
        hidden = self.vision_tower(pixel_values=pixels, return_dict=True).last_hidden_state[:, 1:]
        hidden = hidden.view(count, high, merge, wide, merge, -1).transpose(2, 3)
        return self.multi_modal_projector(hidden.reshape(count, high * wide, -1))


class _Projector(nn.Module):
    """Norm and two linear layers, named as in the checkpoints."""

    def __init__(self, config: InternVLTowerConfig) -> None:
        super().__init__()
        joined = config.hidden_size * config.spatial_merge_size**2
        self.layer_norm = nn.LayerNorm(joined)
        self.linear_1 = nn.Linear(joined, config.out_hidden_size)
        self.act = ACT2FN[config.projector_hidden_act]
        self.linear_2 = nn.Linear(config.out_hidden_size, config.out_hidden_size)

    def forward(self, joined: Tensor) -> Tensor:
        return self.linear_2(self.act(self.linear_1(self.layer_norm(joined))))


def _tower_config(config: Any) -> InternVLTowerConfig:
    if config.vision_feature_layer != -1 or config.vision_feature_select_strategy != "default":
        raise ValueError(
            f"vision_feature_layer {config.vision_feature_layer} with strategy "
            f"{config.vision_feature_select_strategy!r} is not supported: published InternVL has -1 and 'default'"
        )
    settings = {key: value for key, value in config.vision_config.to_dict().items() if key != "model_type"}
    tower = InternVLTowerConfig(
        **settings,
        out_hidden_size=config.text_config.hidden_size,
        spatial_merge_size=round(1 / config.downsample_ratio),
        projector_hidden_act=config.projector_hidden_act,
    )
    tower._attn_implementation = config.vision_config._attn_implementation
    return tower


def _tower_of(model: Any) -> InternVLTower:
    with torch.device("meta"):
        tower = InternVLTower(_tower_config(model.config))
    tower.vision_tower = model.model.vision_tower
    tower.multi_modal_projector = model.model.multi_modal_projector
    return tower.train(model.training)


AutoConfig.register(InternVLTowerConfig.model_type, InternVLTowerConfig, exist_ok=True)

_PARTS = ("vision_tower.", "multi_modal_projector.")
FAMILY = Family(
    name="InternVL3.5 in the -HF layout",
    model_types=("internvl",),
    tower_config=_tower_config,
    tower_of=_tower_of,
    towers={InternVLTowerConfig: InternVLTower},
    tower_keys={**{f"model.{part}": part for part in _PARTS}, **{part: part for part in _PARTS}},
)
