"""Qwen3-VL (dense and mixture of experts), Qwen2.5-VL and Qwen2-VL: for the adapter one family.

DeepStack, windows of attention in the tower, the routing of experts, positions on three axes: what differs inside,
the models answer for themselves.
"""

from transformers import AutoModel
from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel

from fieldmark.models.families.family import Family

# transformers knows these two towers' configurations, but not in every version which model they belong to.
AutoModel.register(Qwen2VLVisionConfig, Qwen2VisionTransformerPretrainedModel, exist_ok=True)
AutoModel.register(Qwen2_5_VLVisionConfig, Qwen2_5_VisionTransformerPretrainedModel, exist_ok=True)

FAMILY = Family(
    name="Qwen-VL",
    model_types=("qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl", "qwen2_vl"),
    tower_config=lambda config: config.vision_config,
    tower_of=lambda model: model.model.visual,
    # Qwen3-VL writes model.visual., the two before it visual.
    tower_keys={"model.visual.": "", "visual.": ""},
)
