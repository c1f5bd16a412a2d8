"""config.json of a tiny model of every family, oddities of the published ones included.

Each function takes the ids of special tokens and the vocabulary's size.
"""

from collections.abc import Mapping
from typing import Any

TEXT = {
    "hidden_act": "silu",
    "hidden_size": 32,
    "intermediate_size": 48,
    "max_position_embeddings": 512,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-6,
    "initializer_range": 0.02,
    "attention_dropout": 0.0,
    "use_cache": True,
}
VISION = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 2}


def _qwen_ids(ids: Mapping[str, int]) -> dict[str, Any]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def qwen3_vl_config(ids: Mapping[str, int], vocabulary: int) -> dict[str, Any]:
    return {
        **_qwen_ids(ids),
        "model_type": "qwen3_vl",
        "architectures": ["Qwen3VLForConditionalGeneration"],
        "text_config": {
            **TEXT,
            "model_type": "qwen3_vl_text",
            "attention_bias": False,
            "dtype": "bfloat16",
            "head_dim": 16,
            "rope_scaling": {"mrope_interleaved": True, "mrope_section": [4, 2, 2], "rope_type": "default"},
            "rope_theta": 5000000,
            "vocab_size": vocabulary,
        },
        "tie_word_embeddings": False,
        "vision_config": {
            **VISION,
            "model_type": "qwen3_vl",
            "deepstack_visual_indexes": [0, 1],
            "depth": 3,
            "hidden_act": "gelu_pytorch_tanh",
            "hidden_size": 32,
            "in_channels": 3,
            "intermediate_size": 40,
            "num_position_embeddings": 16,
            "out_hidden_size": 32,
        },
    }


def qwen3_vl_moe_config(ids: Mapping[str, int], vocabulary: int) -> dict[str, Any]:
    config = qwen3_vl_config(ids, vocabulary)
    experts = {
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "moe_intermediate_size": 24,
        "norm_topk_prob": True,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }
    return {
        **config,
        "model_type": "qwen3_vl_moe",
        "architectures": ["Qwen3VLMoeForConditionalGeneration"],
        "text_config": {**config["text_config"], **experts, "model_type": "qwen3_vl_moe_text"},
        "vision_config": {**config["vision_config"], "model_type": "qwen3_vl_moe"},
    }


def flat_qwen_config(ids: Mapping[str, int], vocabulary: int) -> dict[str, Any]:
    return {
        **_qwen_ids(ids),
        **TEXT,
        "vision_token_id": ids["<|vision_start|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "max_window_layers": 3,
        "rope_scaling": {"type": "mrope", "mrope_section": [2, 1, 1]},
        "rope_theta": 1000000.0,
        "sliding_window": 512,
        "use_sliding_window": False,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": vocabulary,
    }


def qwen2_5_vl_config(ids: Mapping[str, int], vocabulary: int) -> dict[str, Any]:
    return {
        **flat_qwen_config(ids, vocabulary),
        "model_type": "qwen2_5_vl",
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "vision_config": {
            **VISION,
            "depth": 3,
            "fullatt_block_indexes": [1],
            "hidden_act": "silu",
            "hidden_size": 32,
            "in_chans": 3,
            "intermediate_size": 40,
            "out_hidden_size": 32,
            "spatial_patch_size": 4,
            "tokens_per_second": 2,
            "window_size": 16,
        },
    }


def qwen2_vl_config(ids: Mapping[str, int], vocabulary: int) -> dict[str, Any]:
    return {
        **flat_qwen_config(ids, vocabulary),
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "tie_word_embeddings": True,  # as in the published 2B
        "vision_config": {
            **VISION,
            "depth": 3,
            "embed_dim": 48,
            "hidden_size": 32,
            "in_chans": 3,
            "mlp_ratio": 2,
            "spatial_patch_size": 4,
        },
    }


def internvl_config(ids: Mapping[str, int], vocabulary: int) -> dict[str, Any]:
    return {
        "model_type": "internvl",
        "architectures": ["InternVLForConditionalGeneration"],
        "downsample_ratio": 0.5,
        "image_seq_length": 4,
        "image_token_id": ids["<IMG_CONTEXT>"],
        "projector_hidden_act": "gelu",
        "text_config": {
            **TEXT,
            "model_type": "qwen3",
            "architectures": ["Qwen3ForCausalLM"],
            "attention_bias": False,
            "head_dim": 16,
            "layer_types": ["full_attention"] * 3,
            "max_window_layers": 3,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": False,
            "use_sliding_window": False,
            "vocab_size": vocabulary,
        },
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vision_config": {
            "architectures": ["InternVisionModel"],
            "attention_bias": True,
            "attention_dropout": 0.0,
            "dropout": 0.0,
            "hidden_act": "gelu",
            "hidden_dropout_prob": 0.0,
            "hidden_size": 32,
            "image_size": [16, 16],
            "initializer_factor": 0.1,
            "initializer_range": 0.02,
            "intermediate_size": 40,
            "layer_norm_eps": 1e-6,
            "layer_scale_init_value": 0.1,
            "model_type": "internvl_vision",
            "norm_type": "layer_norm",
            "num_attention_heads": 2,
            "num_channels": 3,
            "num_hidden_layers": 3,
            "patch_size": [4, 4],
            "projection_dropout": 0.0,
            "use_absolute_position_embeddings": True,
            "use_mask_token": False,
            "use_mean_pooling": True,
            "use_qk_norm": False,
        },
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }
