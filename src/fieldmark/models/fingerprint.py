"""Fingerprints of weights: which model made an embedding, which base an adapter belongs to."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

from fieldmark.models.adapters import adapter_layers
from fieldmark.models.backbone import Backbone

_SAMPLE = 4096
_CHUNK = 2**22


def frozen_checksum(backbone: Backbone) -> str:
    """Of a sample of each weight that is not trained, adapters left out."""
    parameters = backbone.model.named_parameters()
    return weights_checksum(
        ((name.replace(".base_layer.", "."), p) for name, p in parameters if not p.requires_grad and _is_base(name)),
        _SAMPLE,
    )


def model_fingerprint(backbone: Backbone, summary_row: Tensor) -> str:
    """Of all that the model computes with: as `frozen_checksum`, and in full what is trained and a switched-on adapter.

    summary_row: (D,), the row of [RET] in use.
    """
    exact = {name: p for name, p in backbone.model.named_parameters() if p.requires_grad and _is_base(name)}
    scales = []
    for name, layer in adapter_layers(backbone).items():
        if not layer.disable_adapters:
            exact |= {f"{name}.{key}": p for key, p in layer.named_parameters() if "lora_" in key}
            scales.append((name, layer.merged, sorted(layer.scaling.items())))
    exact["summary row"] = summary_row
    return hashlib.sha256(
        f"{frozen_checksum(backbone)} {weights_checksum(exact.items())} {scales}".encode()
    ).hexdigest()


def _is_base(name: str) -> bool:
    return ".lora_" not in name and not name.endswith("embed_tokens.row")


def weights_checksum(named: Iterable[tuple[str, Tensor]], most: int | None = None) -> str:
    """A short text that depends on names, shapes, types and values, the same on every device.

    most: look at so many evenly spread values of each tensor only: enough to tell one model from another, not to
    notice a single changed number. None looks at all.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(named, key=lambda pair: pair[0]):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype} {_checksum(tensor.detach(), most)}\n".encode())
    return digest.hexdigest()[:32]


def _checksum(tensor: Tensor, most: int | None) -> int:
    """Bits as integers, each times an odd factor of its own, summed modulo 2^64: whole numbers, so no rounding."""
    flat = tensor.reshape(-1)
    if most is not None and flat.numel() > most:
        flat = flat[:: -(-flat.numel() // most)]
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    bits = flat.contiguous().view(integer)
    total = 0
    for start in range(0, bits.numel(), _CHUNK):
        piece = bits[start : start + _CHUNK].to(torch.int64)
        factors = torch.arange(start, start + piece.numel(), device=piece.device) * 2654435761 * 2 + 1
        total = (total + int((piece * factors).sum())) % 2**64
    return total
