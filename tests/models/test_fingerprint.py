import torch

from fieldmark.models.fingerprint import weights_checksum


def test_checksum_notices_names_types_shapes_values_and_order():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(3, 4, generator=generator)
    changed = base.clone()
    changed[1, 2] = torch.nextafter(changed[1, 2], torch.tensor(9.0))
    variants = [
        [("a", base)],
        [("b", base)],
        [("a", base.double())],
        [("a", base.bfloat16())],
        [("a", base.reshape(4, 3))],
        [("a", changed)],
        [("a", base.flip(0))],
        [("a", -base)],
        [("a", base), ("b", base)],
    ]
    sums = [weights_checksum(one) for one in variants]
    assert len(set(sums)) == len(sums)
    assert weights_checksum([("b", base), ("a", base)]) == sums[-1]
    assert weights_checksum([("a", base.clone())]) == sums[0]
    assert weights_checksum([("a", base.T.contiguous().T)]) == sums[0]


def test_pieces_and_samples():
    long = torch.arange(2**22 + 5, dtype=torch.float32)
    last = long.clone()
    last[-1] = 0
    assert weights_checksum([("a", long)]) != weights_checksum([("a", last)])
    assert weights_checksum([("a", long)], most=100) == weights_checksum([("a", last)], most=100)
    assert weights_checksum([("a", long)], most=100) != weights_checksum([("a", long + 1)], most=100)
