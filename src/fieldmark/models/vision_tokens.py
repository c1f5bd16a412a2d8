"""From pixels to the patch tokens that the language model sees.

`Preprocessing` turns uint8 pictures into the flat patches that a Qwen-style tower expects, `VisionTower` runs
the tower and its merger, and `VisionTokens` carries what came out. The tokens are computed once per
micro-batch: as leaves they feed the metric loss and every replay, and their gradients return to the tower in
one backward pass.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class PixelBatch:
    """Pictures cut into patches.

    pixel_values: (sum of t*h*w, channels * temporal * patch * patch) float32, block-major over merge x merge
    blocks.
    grid_thw: int64 (n, 3), the grid of each picture in unmerged patches.
    """

    pixel_values: Tensor
    grid_thw: Tensor


@dataclass(frozen=True)
class Preprocessing:
    """How uint8 pictures become patches; the values are those of the image processor saved beside the
    weights.

    image_mean, image_std: per channel, for pictures in [0, 1]. patch_size in pixels, merge_size in patches,
    temporal_patch_size in frames (a still picture is repeated that many times).
    """

    image_mean: tuple[float, float, float]
    image_std: tuple[float, float, float]
    patch_size: int
    merge_size: int
    temporal_patch_size: int

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Preprocessing":
        """Read the fields of a `preprocessor_config.json`."""
        missing = [key for key in ("image_mean", "image_std", "patch_size", "merge_size") if key not in config]
        if missing:
            raise ValueError(f"the image processor's configuration lacks {missing}; it has {sorted(config)}")
        if not config.get("do_rescale", True) or abs(config.get("rescale_factor", 1 / 255) - 1 / 255) > 1e-6:
            raise ValueError("only image processors that rescale by 1/255 are supported")
        mean, std = tuple(map(float, config["image_mean"])), tuple(map(float, config["image_std"]))
        if not config.get("do_normalize", True):
            mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        if len(mean) != 3 or len(std) != 3:
            raise ValueError(f"image_mean and image_std need three values each, got {mean} and {std}")
        return cls(
            mean,
            std,
            int(config["patch_size"]),
            int(config["merge_size"]),
            int(config.get("temporal_patch_size", 1)),
        )

    @classmethod
    def from_file(cls, path: Path) -> "Preprocessing":
        """Read `preprocessor_config.json` or `processor_config.json` at `path`."""
        config = json.loads(path.read_text(encoding="utf-8"))
        return cls.from_config(config.get("image_processor", config))

    def to_config(self) -> dict[str, Any]:
        """The inverse of `from_config`: JSON-ready."""
        return {
            "image_mean": list(self.image_mean),
            "image_std": list(self.image_std),
            "patch_size": self.patch_size,
            "merge_size": self.merge_size,
            "temporal_patch_size": self.temporal_patch_size,
        }

    def check_size(self, image_size: int) -> None:
        """Hold that pictures of image_size x image_size pixels can be cut into patches."""
        unit = self.patch_size * self.merge_size
        if image_size <= 0 or image_size % unit:
            raise ValueError(
                f"image_size {image_size} is not a multiple of {unit}: take e.g. "
                f"{max(1, round(image_size / unit)) * unit}"
            )

    def __call__(self, images: Tensor | Sequence[Tensor]) -> PixelBatch:
        """Normalise and cut pictures into patches, in tensor code.

        images: uint8 (B, H, W, 3), or a list of uint8 (H, W, 3) or (B, H, W, 3) tensors of any sizes.
        H and W must be multiples of patch_size * merge_size. Equals the Hugging Face image processor with
        resizing switched off.
        """
        batches = [images] if isinstance(images, Tensor) else list(images)
        if not batches:
            raise ValueError("no pictures given: pass at least one")
        patches, grids = zip(*(self._patchify(batch) for batch in batches), strict=True)
        if len(patches) == 1:
            return PixelBatch(patches[0], grids[0])
        return PixelBatch(torch.cat(patches), torch.cat(grids))

    def _patchify(self, images: Tensor) -> tuple[Tensor, Tensor]:
        images = images[None] if images.dim() == 3 else images
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[-1] != 3:
            raise ValueError(f"pictures must be uint8 (B, H, W, 3), got {images.dtype} {tuple(images.shape)}")
        count, height, width, channels = images.shape
        patch, merge = self.patch_size, self.merge_size
        unit = patch * merge
        if height % unit or width % unit or not height or not width:
            raise ValueError(
                f"picture size {height}x{width} is not a multiple of {unit} (patch {patch} x merge {merge}): "
                f"resize to e.g. {max(1, round(height / unit)) * unit}x{max(1, round(width / unit)) * unit}"
            )
        mean = torch.tensor(self.image_mean, device=images.device)
        std = torch.tensor(self.image_std, device=images.device)
        pixels = images * (1.0 / (255.0 * std)) - mean / std
        rows, columns = height // patch, width // patch
        pixels = pixels.view(count, rows // merge, merge, patch, columns // merge, merge, patch, channels)
        pixels = pixels.permute(0, 1, 4, 2, 5, 7, 3, 6)  # n, row block, column block, row, column, channel, y, x
        pixels = pixels.unsqueeze(6).expand(*pixels.shape[:6], self.temporal_patch_size, patch, patch)
        grid = torch.tensor([[1, rows, columns]], device=images.device).repeat(count, 1)
        return pixels.reshape(count * rows * columns, -1), grid


@dataclass(frozen=True)
class VisionTokens:
    """What the tower hands to the language model, for a batch of pictures.

    merged: (sum of N_i, D) patch tokens after the merger, row-major per picture, pictures one after the
    other.
    deepstack: for each DeepStack layer a tensor like `merged` (empty for towers without DeepStack).
    grid_thw: int64 (n, 3) in unmerged patch units; merge_size: patches merged per side, N_i = t*h*w /
    merge_size^2.
    """

    merged: Tensor
    deepstack: tuple[Tensor, ...]
    grid_thw: Tensor
    merge_size: int

    def __post_init__(self) -> None:
        total = sum(self.counts)
        for name, features in (
            ("merged", self.merged),
            *((f"deepstack[{i}]", f) for i, f in enumerate(self.deepstack)),
        ):
            if features.dim() != 2 or features.shape[0] != total:
                raise ValueError(f"{name} has shape {tuple(features.shape)}, but the grids ask for {total} tokens")

    @classmethod
    def none(cls, width: int, merge_size: int, device: torch.device) -> "VisionTokens":
        """The tokens of no picture, for batches of text alone. width: D."""
        grid = torch.zeros(0, 3, dtype=torch.int64, device=device)
        return cls(torch.zeros(0, width, device=device), (), grid, merge_size)

    @property
    def counts(self) -> list[int]:
        """N_i: tokens of each picture."""
        return [t * h * w // self.merge_size**2 for t, h, w in self.grid_thw.tolist()]

    @property
    def grids(self) -> list[tuple[int, int]]:
        """Rows and columns of tokens of each picture."""
        return [(h // self.merge_size, w // self.merge_size) for _, h, w in self.grid_thw.tolist()]

    @property
    def num_images(self) -> int:
        return self.grid_thw.shape[0]

    def split(self) -> list[Tensor]:
        """The merged tokens of each picture: n tensors (N_i, D)."""
        return list(self.merged.split(self.counts))

    def padded(self) -> tuple[Tensor, Tensor]:
        """Merged tokens as (n, N_max, D), zeros behind the end, and the mask (n, N_max) of real tokens."""
        counts = self.counts
        longest = max(counts, default=0)
        lengths = torch.tensor(counts, device=self.merged.device)
        mask = torch.arange(longest, device=self.merged.device) < lengths[:, None]
        if counts and min(counts) == longest:
            return self.merged.view(len(counts), longest, -1), mask
        return nn.utils.rnn.pad_sequence(self.split(), batch_first=True), mask

    def token_index(self, indices: Sequence[int]) -> Tensor:
        """Rows of `merged` that belong to the pictures `indices`, in that order (pictures may repeat)."""
        counts = self.counts
        if bad := [i for i in indices if not 0 <= i < len(counts)]:
            raise ValueError(f"pictures {bad} asked for, but there are {len(counts)}")
        ends = torch.tensor(counts).cumsum(0).tolist()
        pieces = [torch.arange(ends[i] - counts[i], ends[i]) for i in indices]
        index = torch.cat(pieces) if pieces else torch.zeros(0, dtype=torch.int64)
        return index.to(self.merged.device)

    def select(self, indices: Sequence[int]) -> "VisionTokens":
        """The tokens of some pictures, in the given order; differentiable."""
        index = self.token_index(indices)
        return VisionTokens(
            self.merged.index_select(0, index),
            tuple(layer.index_select(0, index) for layer in self.deepstack),
            self.grid_thw[list(indices)],
            self.merge_size,
        )

    def as_leaves(self) -> "VisionTokens":
        """Detached float32 copies that require gradients.

        float32 whatever the tower computes in: gradients of many replays are summed here, and bfloat16 sums
        drift.
        """

        def leaf(features: Tensor) -> Tensor:
            return features.detach().to(torch.float32, copy=True).requires_grad_()

        return VisionTokens(leaf(self.merged), tuple(map(leaf, self.deepstack)), self.grid_thw, self.merge_size)

    def detach(self) -> "VisionTokens":
        """The same values without gradient."""
        return VisionTokens(
            self.merged.detach(),
            tuple(layer.detach() for layer in self.deepstack),
            self.grid_thw,
            self.merge_size,
        )

    def gradients(self) -> tuple[Tensor, ...]:
        """Gradients gathered in these leaves, (merged, *deepstack); zeros where nothing arrived."""
        leaves = (self.merged, *self.deepstack)
        if not all(leaf.is_leaf and leaf.requires_grad for leaf in leaves):
            raise ValueError("gradients() needs leaves: call as_leaves() first")
        return tuple(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for leaf in leaves)

    def backward(self, leaves: "VisionTokens") -> None:
        """Send the gradients gathered in `leaves` (made by `as_leaves` of these tokens) back into the tower,
        once. Features that no trained weight of the tower has touched are left out.

        Raises:
            ValueError: other shapes, or features without any graph.
        """
        features = (self.merged, *self.deepstack)
        gradients = leaves.gradients()
        if [f.shape for f in features] != [g.shape for g in gradients]:
            raise ValueError("these leaves were not made from these tokens: their shapes differ")
        reached = [(f, g.to(f.dtype)) for f, g in zip(features, gradients, strict=True) if f.requires_grad]
        if not reached:
            raise ValueError("these tokens have no graph: the tower is frozen, or it ran without gradient")
        torch.autograd.backward([f for f, _ in reached], [g for _, g in reached])


class VisionTower(nn.Module):
    """A vision model with its merger, and the preprocessing it was trained with.

    model: the tower module of a transformers vision-language model; called with flat patches and `grid_thw`,
    it returns the merged tokens as `pooler_output` and, if it has DeepStack, `deepstack_features`.
    """

    model: Any

    def __init__(self, model: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.model = model
        self.preprocessing = preprocessing
        projection = getattr(getattr(model, "patch_embed", None), "proj", None)
        if type(projection) is nn.Conv3d and projection.kernel_size == projection.stride:
            projection.__class__ = _PatchProjection

    @property
    def width(self) -> int:
        """D, the width of the tokens that are handed to the language model."""
        config = self.model.config
        return int(getattr(config, "out_hidden_size", config.hidden_size))  # Qwen2-VL calls its inner width embed_dim

    def pixels(self, images: Tensor | Sequence[Tensor]) -> PixelBatch:
        """`Preprocessing.__call__`, with the result on the tower's device."""
        device = next(self.model.parameters()).device
        images = images.to(device) if isinstance(images, Tensor) else [image.to(device) for image in images]
        return self.preprocessing(images)

    def forward(self, pixels: PixelBatch) -> VisionTokens:
        """Run the tower. With gradient if grad mode is on."""
        values = pixels.pixel_values.to(next(self.model.parameters()).dtype)
        output = self.model(values, grid_thw=pixels.grid_thw, return_dict=True)
        # DeepStack features come as a tensor or as one tensor per picture, depending on transformers'
        # version.
        layers = getattr(output, "deepstack_features", None) or ()
        return VisionTokens(
            _one_tensor(output.pooler_output),
            tuple(_one_tensor(layer) for layer in layers),
            pixels.grid_thw,
            self.preprocessing.merge_size,
        )


class _PatchProjection(nn.Conv3d):
    """A convolution that sees exactly one patch is a matrix product, and as such 4 to 9 times as fast."""

    def forward(self, patches: Tensor) -> Tensor:
        """(n, channels, frames, y, x), each of the kernel's size, to (n, out_channels, 1, 1, 1)."""
        if patches.shape[1:] != self.weight.shape[1:]:
            raise ValueError(f"patches {tuple(patches.shape[1:])} do not have the kernel's shape")
        product = nn.functional.linear(patches.flatten(1), self.weight.flatten(1), self.bias)
        return product[:, :, None, None, None]


def _one_tensor(features: Tensor | Sequence[Tensor]) -> Tensor:
    return features if isinstance(features, Tensor) else torch.cat(tuple(features))
