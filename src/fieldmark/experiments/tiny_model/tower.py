"""Stage 1: teach the tower what lies in each patch, densely, from the part masks.

Image-level heads learn almost nothing in the time that this takes; a question per patch — which parts are here, and
what are *their* attributes — is answered from nearby pixels and learnt in a thousand steps.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fieldmark.data.fieldguide.drawing import PARTS
from fieldmark.experiments.tiny_model.pictures import ATTRIBUTES, PART_INDEX, VALUES, PicturePool, patch_parts
from fieldmark.models.backbone import Backbone
from fieldmark.models.vision_tokens import VisionTokens

VISIBLE_SHARE = 0.06
"""A part counts as visible in a patch from this share of its area on (about 9 of 144 pixels)."""


class DenseHeads(nn.Module):
    """Linear read-outs of every patch token: parts present (n_parts,) and logits of every attribute's values.

    Linear on purpose: what they can read, one attention head of the language model can copy.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.parts = nn.Linear(width, len(PARTS))
        self.values = nn.ModuleList(nn.Linear(width, len(VALUES[name])) for name in ATTRIBUTES)

    def forward(self, tokens: Tensor) -> tuple[Tensor, list[Tensor]]:
        """(n, N, D) → part logits (n, N, P) and per attribute value logits (n, N, V_a)."""
        return self.parts(tokens), [head(tokens) for head in self.values]


def dense_loss(heads: DenseHeads, tokens: Tensor, parts: Tensor, values: Tensor) -> Tensor:
    """Binary cross-entropy of parts present plus, per attribute, cross-entropy on the patches that show its part.

    tokens: (n, N, D). parts: float (n, N, P) shares. values: int64 (n, A).
    """
    part_logits, value_logits = heads(tokens)
    loss = F.binary_cross_entropy_with_logits(part_logits, (parts > VISIBLE_SHARE).float())
    for a, logits in enumerate(value_logits):
        visible = parts[:, :, PART_INDEX[a]] > VISIBLE_SHARE
        target = values[:, a, None].expand_as(visible)[visible]
        if len(target):
            loss = loss + F.cross_entropy(logits[visible], target)
    return loss


@dataclass(frozen=True)
class TowerBatch:
    """images uint8 (n, H, W, 3), part shares (n, N, P), values (n, A)."""

    images: Tensor
    parts: Tensor
    values: Tensor


def tower_batch(
    pool: PicturePool, indices: np.ndarray, patch: int, generator: torch.Generator | None = None
) -> TowerBatch:
    """Pictures of the pool as a batch; with a generator each is mirrored with probability one half."""
    images, masks = pool.images[indices], pool.masks[indices]
    if generator is not None:
        flip = torch.rand(len(indices), generator=generator).numpy() < 0.5
        images, masks = images.copy(), masks.copy()
        images[flip], masks[flip] = images[flip, :, ::-1], masks[flip, :, ::-1]
    return TowerBatch(
        torch.from_numpy(np.ascontiguousarray(images)),
        torch.from_numpy(patch_parts(masks, patch)),
        torch.from_numpy(pool.values[indices]),
    )


def tower_loss(backbone: Backbone, heads: nn.ModuleList, batch: TowerBatch) -> Tensor:
    """Dense loss on the merged tokens, and at a third of the weight on each DeepStack output."""
    vision = backbone.vision(backbone.pixels(batch.images))
    n = vision.num_images
    loss = dense_loss(heads[0], vision.merged.view(n, -1, backbone.hidden_size), batch.parts, batch.values)  # type: ignore[arg-type]
    for head, features in zip(list(heads)[1:], vision.deepstack, strict=True):
        loss = loss + dense_loss(head, features.view(n, -1, backbone.hidden_size), batch.parts, batch.values) / 3  # type: ignore[arg-type]
    return loss


@torch.no_grad()
def tower_accuracy(backbone: Backbone, heads: nn.ModuleList, pool: PicturePool, patch: int) -> dict[str, float]:
    """Accuracy per attribute, read from the patch that shows most of its part; pictures that hide the part left out."""
    right: dict[str, list[float]] = {name: [] for name in ATTRIBUTES}
    for start in range(0, len(pool.images), 128):
        batch = tower_batch(pool, np.arange(start, min(start + 128, len(pool.images))), patch)
        vision: VisionTokens = backbone.vision(backbone.pixels(batch.images))
        _, value_logits = heads[0](vision.padded()[0])
        for a, name in enumerate(ATTRIBUTES):
            share, best = batch.parts[:, :, PART_INDEX[a]].max(1)
            predicted = (
                value_logits[a].gather(1, best[:, None, None].expand(-1, 1, value_logits[a].shape[-1])).argmax(-1)[:, 0]
            )
            right[name] += (predicted == batch.values[:, a])[share > VISIBLE_SHARE].float().tolist()
    return {name: float(np.mean(r)) for name, r in right.items()}
