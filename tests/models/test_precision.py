import pytest
import torch

from fieldmark.models import precision


def test_names():
    assert precision.resolve_dtype("float32") is torch.float32
    with pytest.raises(ValueError, match="'float64' is not one of"):
        precision.resolve_dtype("float64")


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx2": True}, torch.float32), ({"amx_bf16": True}, torch.bfloat16), ({"avx512_bf16": True}, torch.bfloat16)],
)
def test_auto_takes_bfloat16_only_with_instructions_for_it(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert precision.resolve_dtype("auto", "cpu") is expected
