"""What is deployed: the tower and a pooler, without the language model."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoConfig

from fieldmark.models.pooler import Pooled, Pooler, build_pooler
from fieldmark.models.precision import check_device
from fieldmark.models.tower import build_tower
from fieldmark.models.tuning import deployed_weights
from fieldmark.models.vision_tokens import PixelBatch, Preprocessing, VisionTokens, VisionTower
from fieldmark.models.weight_files import replace_folder, write_tensors

FORMAT, VERSION = "fieldmark.retrieval_encoder", 1
WEIGHTS_NAME, CONFIG_NAME = "model.safetensors", "config.json"


class RetrievalEncoder(nn.Module):
    """Pictures to L2-normalised embeddings.

    tower: `Backbone.tower` (weights are shared, not copied) or a loaded one. image_size: side in pixels to
    which PIL pictures are resized; a multiple of patch_size * merge_size.
    """

    def __init__(self, tower: VisionTower, pooler: Pooler, image_size: int) -> None:
        super().__init__()
        tower.preprocessing.check_size(image_size)
        if pooler.width != tower.width:
            raise ValueError(f"the pooler takes tokens of width {pooler.width}, the tower gives {tower.width}")
        self.tower = tower
        self.pooler = pooler
        self.image_size = image_size

    @property
    def embedding_size(self) -> int:
        return self.pooler.embedding_size

    def pixels(self, images: Tensor | Sequence[Tensor]) -> PixelBatch:
        """uint8 (B, H, W, 3) to patches."""
        return self.tower.pixels(images)

    def tokens(self, images: Tensor | Sequence[Tensor]) -> VisionTokens:
        """uint8 (B, H, W, 3) to patch tokens. With gradient if grad mode is on."""
        return self.tower(self.pixels(images))

    def pool(self, tokens: VisionTokens) -> Pooled:
        """Patch tokens (or leaves made of them) to embeddings."""
        padded, mask = tokens.padded()
        return self.pooler(padded, None if bool(mask.all()) else mask)

    def forward(self, images: Tensor | Sequence[Tensor]) -> Pooled:
        return self.pool(self.tokens(images))

    @torch.no_grad()
    def encode(
        self,
        images: Tensor | Sequence[Tensor | Image.Image],
        batch_size: int = 64,
        dimensions: int | None = None,
    ) -> Tensor:
        """Embeddings (n, D_e) float32 on the CPU; or (n, dimensions), the first numbers, normalised again.

        images: uint8 (n, H, W, 3); or a sequence of uint8 (H, W, 3) tensors, used as they are, or of PIL
        pictures, which are converted to RGB and resized to image_size x image_size (bicubic).
        dimensions: size of the embeddings, at most D_e; None for D_e. Any size can be cut, but only sizes that were
        trained (`metric.dimensions`) lose little.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be positive, got {batch_size}")
        size = self.embedding_size if dimensions is None else dimensions
        if not 1 <= size <= self.embedding_size:
            raise ValueError(f"dimensions is {size}: choose a size from 1 to {self.embedding_size}")
        training = self.training
        self.eval()
        try:
            parts = [
                self(self._as_tensors(images[start : start + batch_size])).embedding.float().cpu()
                for start in range(0, len(images), batch_size)
            ]
        finally:
            self.train(training)
        if not parts:
            return torch.zeros(0, size)
        embeddings = torch.cat(parts)
        if size < self.embedding_size:
            embeddings = nn.functional.normalize(embeddings[:, :size], dim=-1)
        return embeddings

    def _as_tensors(self, images: Any) -> Tensor | list[Tensor]:
        if isinstance(images, Tensor):
            return images
        tensors = [self._from_pil(image) if isinstance(image, Image.Image) else image for image in images]
        return torch.stack(tensors) if len({tensor.shape for tensor in tensors}) == 1 else tensors

    def _from_pil(self, image: Image.Image) -> Tensor:
        side = self.image_size
        resized = image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(resized))

    # ---- on disk

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and config.json: to a temporary folder beside `folder`, then rename it.

        Adapters are merged: what is loaded again is a plain tower.
        """
        folder = Path(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        vision = self.tower.model.config
        # all fields, not only those that differ from the defaults: another version may have others
        settings = {
            key: value
            for key, value in vision.to_dict().items()
            if key not in ("model_type", "transformers_version", "_name_or_path")
        }
        config = {
            "format": FORMAT,
            "version": VERSION,
            "vision_model_type": vision.model_type,
            "vision_config": settings,
            "preprocessing": self.tower.preprocessing.to_config(),
            "image_size": self.image_size,
            "embedding_size": self.embedding_size,
            "pooler": {
                "kind": self.pooler.kind,
                "width": self.pooler.width,
                "projection": self.pooler.has_projection,
            },
        }
        temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        try:
            write_tensors(deployed_weights(self), temporary / WEIGHTS_NAME, {"format": "pt"})
            text = json.dumps(config, indent=2, sort_keys=True) + "\n"
            (temporary / CONFIG_NAME).write_text(text, encoding="utf-8")
            os.chmod(temporary, 0o755)
            replace_folder(temporary, folder, CONFIG_NAME)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    @classmethod
    def from_pretrained(cls, folder: str | Path, device: str = "cpu") -> "RetrievalEncoder":
        """Load what `save_pretrained` wrote, without the language model. Missing weights are an error."""
        check_device(device)
        folder = Path(folder)
        if not (folder / CONFIG_NAME).is_file():
            raise ValueError(f"{folder} is no saved encoder: {CONFIG_NAME} is missing")
        config = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        if config.get("format") != FORMAT:
            raise ValueError(
                f"{folder / CONFIG_NAME} does not describe a retrieval encoder (a whole "
                "vision-language model is read by load_backbone)"
            )
        if not (folder / WEIGHTS_NAME).is_file():
            raise ValueError(f"{folder} is no saved encoder: {WEIGHTS_NAME} is missing")
        if config["version"] != VERSION:
            raise ValueError(
                f"{folder} was written in format version {config['version']}, this program reads {VERSION}"
            )
        vision = AutoConfig.for_model(config["vision_model_type"], **config["vision_config"])
        tower = VisionTower(build_tower(vision), Preprocessing.from_config(config["preprocessing"]))
        pooler = build_pooler(
            config["pooler"]["kind"],
            config["pooler"]["width"],
            config["embedding_size"] if config["pooler"]["projection"] else None,
        )
        encoder = cls(tower, pooler, config["image_size"])
        weights = load_file(folder / WEIGHTS_NAME)
        expected = encoder.state_dict()
        problems = [f"missing {sorted(expected.keys() - weights.keys())[:8]}"] * bool(expected.keys() - weights.keys())
        problems += [f"unexpected {sorted(weights.keys() - expected.keys())[:8]}"] * bool(
            weights.keys() - expected.keys()
        )
        problems += [
            f"{name} has shape {tuple(weights[name].shape)}, not {tuple(expected[name].shape)}"
            for name in expected.keys() & weights.keys()
            if weights[name].shape != expected[name].shape
        ]
        if problems:
            raise ValueError(f"the weights in {folder} do not fit its config.json: {'; '.join(problems)}")
        encoder.load_state_dict(weights, assign=True)
        return encoder.to(device).eval()
