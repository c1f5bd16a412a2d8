"""Where a pooler looks: the share of its attention on field marks, on other plumage and on the habitat.

Needs pictures whose parts are known (Fieldguide's part masks). Attention is given per patch; inside a patch
it is taken as evenly spread, so a part receives of each patch what it covers of it:

    share_p = Σ_k β_k · a_kp,        a_kp = area of part p in patch k / area of patch k

Uniform attention (mean pooling) gives each part its share of the picture's area: the line to compare with.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from fieldmark.data.collection import LabelledImages
from fieldmark.data.fieldguide.drawing import PART_OF_ATTRIBUTE, PARTS
from fieldmark.data.fieldguide.species import FIELD_MARKS, PLUMAGE
from fieldmark.data.fieldguide.world import is_fieldguide, read_mask
from fieldmark.data.loader import load_all
from fieldmark.models.retrieval_encoder import RetrievalEncoder

_MARKS = tuple(dict.fromkeys(PART_OF_ATTRIBUTE[name] for name in FIELD_MARKS))
_PLUMAGE = tuple(dict.fromkeys(PART_OF_ATTRIBUTE[name] for name in PLUMAGE))

PART_GROUPS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "field marks": _MARKS,
        "other plumage": _PLUMAGE,
        "habitat": tuple(part for part in PARTS if part not in _MARKS + _PLUMAGE),
    }
)
"""Group → its parts. Together they are all parts, each in one group; the habitat includes leaves before the
bird."""


@dataclass(frozen=True, eq=False)
class AttentionShare:
    """Shares of pooled attention and of area, for n pictures and P parts.

    Attributes:
        parts: names of the P parts.
        attention: (n, P) float64, rows sum to 1.
        area: (n, P) float64, rows sum to 1: what uniform attention would give.
        uniform: whether the pooler weighs all patches alike (mean pooling), so that both are equal.
    """

    parts: tuple[str, ...]
    attention: np.ndarray
    area: np.ndarray
    uniform: bool

    def part(self, name: str) -> tuple[float, float]:
        """Mean share of attention and of area of one part, or of one group of ``PART_GROUPS``."""
        return float(self.per_picture(name).mean()), float(self.area[:, self._columns(name)].sum(1).mean())

    def per_picture(self, name: str) -> np.ndarray:
        """(n,) share of attention of one part or group in each picture, for intervals."""
        return self.attention[:, self._columns(name)].sum(1)

    def _columns(self, name: str) -> list[int]:
        wanted = PART_GROUPS.get(name, (name,))
        unknown = [part for part in wanted if part not in self.parts]
        if unknown:
            raise ValueError(f"unknown part {unknown[0]!r}; choose from {', '.join((*PART_GROUPS, *self.parts))}")
        return [self.parts.index(part) for part in wanted]


def part_coverage(masks: Tensor, grid: tuple[int, int], num_parts: int) -> Tensor:
    """Share of each patch that each part covers.

    Args:
        masks: integer (n, H, W), values index the parts.
        grid: rows h and columns w of patches that are laid evenly over the whole picture; H and W need not be
            multiples of them.
        num_parts: P.

    Returns:
        (n, h * w, P) float64, row-major patches; sums to 1 over parts.

    Raises:
        ValueError: wrong shapes, or a value that is no part.
    """
    rows, columns = grid
    if masks.ndim != 3 or masks.is_floating_point() or masks.numel() == 0 or min(rows, columns) < 1:
        raise ValueError(f"masks must be integers (n, H, W) and the grid positive, got {tuple(masks.shape)} and {grid}")
    low, high = int(masks.min()), int(masks.max())
    if low < 0 or high >= num_parts:
        raise ValueError(f"masks hold values {low}..{high}, but there are {num_parts} parts: 0..{num_parts - 1}")
    one_hot = torch.nn.functional.one_hot(masks.long(), num_parts).double()
    down, across = _overlap(masks.shape[1], rows), _overlap(masks.shape[2], columns)
    return torch.einsum("rh,nhwp,cw->nrcp", down, one_hot, across).reshape(len(masks), rows * columns, num_parts)


def attention_share(attention: Tensor, coverage: Tensor) -> Tensor:
    """Share of attention that falls on each part: (n, N) and (n, N, P) → (n, P) float64.

    Raises:
        ValueError: shapes that do not fit, or rows of attention that are no distribution.
    """
    if attention.ndim != 2 or coverage.shape[:2] != attention.shape:
        raise ValueError(
            f"attention is {tuple(attention.shape)} and coverage {tuple(coverage.shape)}; expected (n, N) and (n, N, P)"
        )
    weights = attention.detach().cpu().double()
    sums = weights.sum(1)
    if bool((weights < 0).any()) or not bool(torch.isclose(sums, torch.ones_like(sums), atol=1e-3).all()):
        raise ValueError(f"each row of attention must be a distribution; the rows sum to {sums[:4].tolist()} ...")
    return torch.einsum("nk,nkp->np", weights / sums[:, None], coverage.double())


@torch.no_grad()
def collection_attention_share(
    encoder: RetrievalEncoder, images: LabelledImages, *, batch_size: int = 64, workers: int = 0
) -> AttentionShare:
    """Shares of an encoder's pooled attention over a Fieldguide collection.

    Raises:
        ValueError: the collection has no part masks, or the pooler has no distribution over patches
        (``max``).
    """
    if not is_fieldguide(images.root):
        raise ValueError(f"{images.root.name} has no part masks: only Fieldguide collections know where each part is")
    if encoder.pooler.kind == "max":
        raise ValueError("max pooling has no distribution over patches: use an attention or mean pooler")
    uniform = encoder.pooler.kind == "mean"
    grid = patch_grid(encoder)
    shares, areas = [], []
    encoder.eval()
    for batch in load_all(images, encoder.image_size, workers=workers, batch_size=batch_size):
        coverage = part_coverage(_masks(images, batch.indices.tolist()), grid, len(PARTS))
        area = coverage.mean(1)
        areas.append(area)
        if uniform:
            shares.append(area)
        else:
            attention = encoder(batch.images).attention
            assert attention is not None  # an attention pooler has one
            shares.append(attention_share(attention, coverage))
    if not areas:
        raise ValueError("the collection is empty: there is no attention to measure")
    return AttentionShare(PARTS, torch.cat(shares).numpy(), torch.cat(areas).numpy(), uniform)


def patch_grid(encoder: RetrievalEncoder) -> tuple[int, int]:
    """Rows and columns of merged patches of the encoder's (square) pictures."""
    preprocessing = encoder.tower.preprocessing
    side = encoder.image_size // (preprocessing.patch_size * preprocessing.merge_size)
    return side, side


def _masks(images: LabelledImages, indices: Sequence[int]) -> Tensor:
    return torch.from_numpy(np.stack([read_mask(images.root, images.ids[i]) for i in indices]).astype(np.int64))


def _overlap(pixels: int, patches: int) -> Tensor:
    """(patches, pixels) float64: which share of each patch's length each pixel takes; rows sum to 1."""
    edges = torch.arange(patches + 1, dtype=torch.float64) * pixels / patches
    starts = torch.arange(pixels, dtype=torch.float64)
    covered = torch.minimum(edges[1:, None], starts + 1) - torch.maximum(edges[:-1, None], starts)
    return covered.clamp_min(0) * patches / pixels
