"""Attention probabilities of one decoder layer, while all layers keep their fast attention.

Asking transformers for `output_attentions` switches every layer to the slow implementation, and making only
one layer eager leaves that layer without a causal mask. Instead a wrapper around scaled dot product attention
is registered, with its mask function (without which the padding mask would be dropped silently); it computes
the probabilities a second time for the one layer that is being listened to.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from fieldmark.models.backbone import Backbone

TAP_NAME = "fieldmark_tap"


@dataclass
class AttentionTap:
    """What was heard: one entry per call of the layer, in order.

    probabilities: each (B, queries, keys) float32, the mean over heads, detached. keys: how many keys are
    kept from the front (None: all); the softmax always runs over all of them.
    """

    keys: int | None = None
    probabilities: list[Tensor] = field(default_factory=list)


def _tapped_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, Tensor | None]:
    tap = getattr(module, "_fieldmark_tap", None)
    if tap is not None:
        scaling = kwargs.get("scaling")
        with torch.no_grad():
            tap.probabilities.append(
                _mean_attention(
                    query,
                    key,
                    attention_mask,
                    query.shape[-1] ** -0.5 if scaling is None else scaling,
                    tap.keys,
                )
            )
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _mean_attention(query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, keep: int | None) -> Tensor:
    """(B, H, Q, d) and (B, H_kv, K, d) to the head-averaged probabilities (B, Q, K); one head at a time."""
    heads, groups = query.shape[1], query.shape[1] // key.shape[1]
    queries, keys = query.shape[2], key.shape[2]
    if mask is None:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=query.device).tril(keys - queries)[None, None]
    bias = (
        torch.zeros(mask.shape, device=mask.device).masked_fill(~mask, float("-inf"))
        if mask.dtype == torch.bool
        else mask.float()
    )
    total: Tensor | None = None
    for head in range(heads):
        scores = (query[:, head] @ key[:, head // groups].transpose(-1, -2)).float() * scaling
        scores = (scores + bias[:, head if bias.shape[1] > 1 else 0]).softmax(-1)[..., :keep]
        total = scores if total is None else total.add_(scores)
    assert total is not None
    return total / heads


AttentionInterface.register(TAP_NAME, _tapped_attention)
AttentionMaskInterface.register(TAP_NAME, sdpa_mask)


@contextmanager
def capture_attention(backbone: Backbone, layer: int, keys: int | None = None) -> Iterator[AttentionTap]:
    """Listen to decoder layer `layer` (from 0; negative from the end) of every `decode` inside the block.

    keys: keep only the first that many keys of each query's distribution.
    """
    layers = backbone.decoder.layers
    if not -len(layers) <= layer < len(layers):
        raise ValueError(f"attention layer {layer} does not exist: the decoder has layers 0 to {len(layers) - 1}")
    module = layers[layer].self_attn
    if getattr(module, "_fieldmark_tap", None) is not None:
        raise ValueError(f"layer {layer} is already being listened to")
    before = backbone.decoder.config._attn_implementation
    tap = AttentionTap(keys)
    backbone.model.set_attn_implementation({"text_config": TAP_NAME})
    module._fieldmark_tap = tap
    try:
        yield tap
    finally:
        module._fieldmark_tap = None
        backbone.model.set_attn_implementation({"text_config": before})
