"""Fingerprints of weights: which model made an embedding, which base an adapter belongs to."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor

_CHUNK = 2**22


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
