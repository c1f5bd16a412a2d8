"""The pictures of requests: read, run through the tower, and who owns which."""

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fieldmark.data.decode import decode_image
from fieldmark.models.backbone import Backbone
from fieldmark.models.embedding_prompts import Request
from fieldmark.models.vision_tokens import VisionTokens


@dataclass(frozen=True, eq=False)
class Pictures:
    """The vision tokens of some requests' pictures (of none, if they are all text), and per request which are its."""

    vision: VisionTokens
    of: tuple[tuple[int, ...], ...]


def run_tower(backbone: Backbone, requests: Sequence[Request], image_size: int) -> Pictures:
    """The tower's tokens of all the pictures; with gradient if the tower is trained and grad mode is on.

    image_size: side to which pictures are resized that are read from their files.

    Raises:
        BadImage: a picture's file cannot be read.
    """
    found: list[Tensor] = []
    of = []
    for request in requests:
        start = len(found)
        found += [_read(one, image_size) if isinstance(one, Path) else one for one in request.pictures()]
        of.append(tuple(range(start, len(found))))
    if not found:
        merge = backbone.preprocessing.merge_size
        return Pictures(VisionTokens.none(backbone.hidden_size, merge, backbone.device), tuple(of))
    images = torch.stack(found) if len({picture.shape for picture in found}) == 1 else found
    trained = any(parameter.requires_grad for parameter in backbone.tower_parameters())
    with nullcontext() if trained else torch.no_grad():
        return Pictures(backbone.vision(backbone.pixels(images)), tuple(of))


def count_tokens(backbone: Backbone, request: Request, image_size: int) -> int:
    """Tokens that the language model gets for the request's pictures."""
    unit = backbone.preprocessing.patch_size * backbone.preprocessing.merge_size
    sides = [
        (image_size, image_size) if isinstance(one, Path) else (one.shape[0], one.shape[1])
        for one in request.pictures()
    ]
    return sum((height // unit) * (width // unit) for height, width in sides)


def _read(file: Path, image_size: int) -> Tensor:
    resized = decode_image(file).resize((image_size, image_size), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(resized))
