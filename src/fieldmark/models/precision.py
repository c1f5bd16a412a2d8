"""On which device to compute, and in which floating-point type."""

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def resolve_dtype(name: str, device: str | torch.device = "cpu") -> torch.dtype:
    """The dtype of a name; "auto" takes bfloat16 only where the device computes it fast, else float32.

    A CPU without bfloat16 instructions emulates it: 400 times slower where it was measured. So on CPU, "auto" asks the
    processor for AVX-512 BF16 or AMX first.

    Raises:
        ValueError: unknown name, or the device is not there.
    """
    check_device(device)
    if name == "auto":
        return torch.bfloat16 if _fast_bfloat16(torch.device(device)) else torch.float32
    if name not in DTYPES:
        raise ValueError(f"dtype {name!r} is not one of {['auto', *sorted(DTYPES)]}")
    return DTYPES[name]


def check_device(device: str | torch.device) -> torch.device:
    """The device, held to be there.

    Raises:
        ValueError: an unknown name, or a GPU that this machine or this build of torch does not have.
    """
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device {device!r} is no torch device: use cpu, cuda or cuda:N") from error
    if found.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (found.index or 0) >= count:
            raise ValueError(
                f"device {str(device)!r} is not there: torch {torch.__version__} sees {count} GPUs. Use cpu (also "
                "set the dtype to float32), or a driver and a build of torch that see the GPU"
            )
    return found


def _fast_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "cpu":
        known = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
        return bool(known.get("avx512_bf16") or known.get("amx_bf16"))
    return False
