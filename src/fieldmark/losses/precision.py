"""Full float32 arithmetic, whatever the surrounding program has switched on."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32(device: torch.device) -> Iterator[None]:
    """Compute matrix products inside the block in true float32.

    Autocast, TensorFloat-32 and the CPU's reduced-precision float32 modes are switched off and put back
    afterwards. Distances between near neighbours are small differences of large numbers: TF32 turns a squared
    distance of 0.04 into 0.04 ± 0.001, which moves both the potential field and the ranking of neighbours.

    The per-backend switches are used because reading the older global one raises once a program has mixed
    both.
    """
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)  # type: ignore[attr-defined]
    saved = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        with torch.autocast(device_type=device.type, enabled=False):
            yield
    finally:
        for backend, value in zip(backends, saved, strict=True):
            backend.fp32_precision = value
