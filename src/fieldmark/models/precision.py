"""Which floating-point type to compute in."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_dtype(name: str, device: str | torch.device = "cpu") -> torch.dtype:
    """The dtype of a name; "auto" takes bfloat16 only where the device computes it fast, else float32.

    A CPU without bfloat16 instructions emulates it: 400 times slower where it was measured. So on CPU, "auto" asks the
    processor for AVX-512 BF16 or AMX first.

    Raises:
        ValueError: unknown name.
    """
    if name == "auto":
        return torch.bfloat16 if _fast_bfloat16(torch.device(device)) else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not one of {['auto', *sorted(DTYPES)]}")
    return DTYPES[name]


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return False
