"""Qwen3-VL (dense and mixture of experts), Qwen2.5-VL and Qwen2-VL: for the adapter one family.

DeepStack, windows of attention in the tower, the routing of experts, positions on three axes: what differs inside,
the models answer for themselves.
"""

from transformers.models.qwen2_5_vl.configuration_qwen2_5_vl import Qwen2_5_VLVisionConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VisionTransformerPretrainedModel
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLVisionConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VisionTransformerPretrainedModel
from transformers.models.qwen3_vl.configuration_qwen3_vl import Qwen3VLVisionConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionModel
from transformers.models.qwen3_vl_moe.configuration_qwen3_vl_moe import Qwen3VLMoeVisionConfig
from transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe import Qwen3VLMoeVisionModel

from fieldmark.models.families.family import Family

FAMILY = Family(
    name="Qwen-VL",
    model_types=("qwen3_vl", "qwen3_vl_moe", "qwen2_5_vl", "qwen2_vl"),
    tower_config=lambda config: config.vision_config,
    tower_of=lambda model: model.model.visual,
    # Not every version of transformers' AutoModel knows the older two, and some take no registration.
    towers={
        Qwen3VLVisionConfig: Qwen3VLVisionModel,
        Qwen3VLMoeVisionConfig: Qwen3VLMoeVisionModel,
        Qwen2_5_VLVisionConfig: Qwen2_5_VisionTransformerPretrainedModel,
        Qwen2VLVisionConfig: Qwen2VisionTransformerPretrainedModel,
    },
    # Qwen3-VL writes model.visual., the two before it visual.
    tower_keys={"model.visual.": "", "visual.": ""},
)
