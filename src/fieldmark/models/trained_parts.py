"""Parts of a backbone that are trained whole, beside adapters, where the base knows too little. Not part of ELVA.

tower   the vision tower, for pictures unlike those that it saw
words   token embeddings and output head, for words that the tokenizer spells and the model never wrote
"""

from pathlib import Path
from typing import Literal, get_args

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fieldmark.models.backbone import Backbone
from fieldmark.models.weight_files import check_file, write_tensors

Part = Literal["tower", "words"]
PARTS: tuple[Part, ...] = get_args(Part)


def part_parameters(backbone: Backbone, part: Part) -> dict[str, nn.Parameter]:
    """A part's parameters by name; the head is named only if it is not the token embeddings' own matrix."""
    if part == "tower":
        return dict(backbone.tower.model.named_parameters())
    words: nn.Parameter = backbone.model.get_input_embeddings().weight
    head: nn.Parameter = backbone.head.weight  # type: ignore[assignment]
    return {"embeddings": words} if head is words else {"embeddings": words, "head": head}


def set_trained(backbone: Backbone, part: Part, trained: bool) -> set[Part]:
    """Let a part be trained, or freeze it; the parts that are now trained by that."""
    for parameter in part_parameters(backbone, part).values():
        parameter.requires_grad_(trained)
    return {part} if trained else set()


def write_part(backbone: Backbone, part: Part, folder: Path) -> None:
    """Write a part to FOLDER/PART.safetensors."""
    write_tensors(_tensors(backbone, part), folder / f"{part}.safetensors")


def read_part(backbone: Backbone, part: Part, folder: Path) -> None:
    """Put what was written into a backbone.

    Raises:
        ValueError: the file is missing or cut short, or holds another model's.
    """
    file = folder / f"{part}.safetensors"
    if not file.is_file():
        raise ValueError(f"{file} is missing: copy the folder again")
    check_file(file)
    found, wanted = load_file(file), _tensors(backbone, part)
    misfits = sorted(
        name
        for name in found.keys() | wanted.keys()
        if name not in found or name not in wanted or found[name].shape != wanted[name].shape
    )
    if misfits:
        raise ValueError(f"{file} was made for another base: {', '.join(misfits[:3])} do not fit")
    with torch.no_grad():
        for name, tensor in wanted.items():
            tensor.copy_(found[name])


def _tensors(backbone: Backbone, part: Part) -> dict[str, Tensor]:
    """Parameters, and a tower's buffers."""
    if part == "tower":
        return dict(backbone.tower.model.state_dict())
    return {name: parameter.detach() for name, parameter in part_parameters(backbone, part).items()}
