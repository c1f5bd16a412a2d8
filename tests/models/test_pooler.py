import math

import pytest
import torch

from fieldmark.models.pooler import build_pooler


def batch(n=3, tokens=5, width=8):
    generator = torch.Generator().manual_seed(0)
    mask = torch.ones(n, tokens, dtype=torch.bool)
    mask[1, 3:] = False
    return torch.randn(n, tokens, width, generator=generator) + 0.5, mask


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_attention_pooler_is_the_formula():
    x, mask = batch()
    pooler = build_pooler("attention", 8, 4, seeded())
    with torch.no_grad():
        pooler.query.normal_(generator=seeded(1))
        pooler.key.weight.normal_(generator=seeded(2))
    out = pooler(x, mask)
    for i in range(3):
        tokens = x[i][mask[i]]
        scores = torch.stack([pooler.query @ (pooler.key.weight @ t) for t in tokens]) / math.sqrt(8)
        beta = scores.softmax(0)
        z = pooler.projection.weight @ sum(b * t for b, t in zip(beta, tokens, strict=True))
        torch.testing.assert_close(out.embedding[i], z / z.norm(), rtol=0, atol=1e-5)
        torch.testing.assert_close(out.attention[i][mask[i]], beta, rtol=0, atol=1e-5)
        torch.testing.assert_close(out.log_attention[i][mask[i]], beta.log(), rtol=0, atol=1e-5)
    assert not out.attention[~mask].any() and out.log_attention[~mask].eq(-math.inf).all()


@pytest.mark.parametrize("kind", ["mean", "max"])
@pytest.mark.parametrize("size", [None, 4, 8])
def test_mean_and_max(kind, size):
    x, mask = batch()
    pooler = build_pooler(kind, 8, size, seeded())
    out = pooler(x, mask)
    assert out.attention is None and pooler.embedding_size == (size or 8)
    for i in range(3):
        tokens = x[i][mask[i]]
        z = tokens.mean(0) if kind == "mean" else tokens.amax(0)
        z = z if size is None else pooler.projection.weight @ z
        torch.testing.assert_close(out.embedding[i], z / z.norm(), rtol=0, atol=1e-5)


def test_padding_changes_nothing():
    x, mask = batch()
    for kind in ("attention", "mean", "max"):
        pooler = build_pooler(kind, 8, 8)
        torch.testing.assert_close(pooler(x, mask).embedding[1], pooler(x[1:2, :3]).embedding[0])


def test_untrained_attention_is_close_to_mean_pooling():
    x, mask = batch()
    attention, mean = build_pooler("attention", 8, 8, seeded())(x, mask), build_pooler("mean", 8)(x, mask)
    assert (attention.embedding * mean.embedding).sum(-1).min() > 0.999
    assert torch.equal(build_pooler("attention", 8).projection.weight, torch.eye(8))


@pytest.mark.parametrize("size", [4, 12])
def test_the_projection_starts_orthonormal(size):
    weight = build_pooler("mean", 8, size, seeded()).projection.weight
    gram = weight @ weight.T if size < 8 else weight.T @ weight
    torch.testing.assert_close(gram, torch.eye(min(size, 8)), rtol=0, atol=1e-5)


def test_every_parameter_learns_from_the_first_step():
    x, mask = batch()
    pooler = build_pooler("attention", 8, 4, seeded())
    pooler(x, mask).embedding[:, 0].sum().backward()
    assert all(p.grad.abs().max() > 0 for p in pooler.parameters())


def test_same_generator_same_start():
    first, second = (build_pooler("attention", 8, 4, seeded(3)).state_dict() for _ in range(2))
    assert all(torch.equal(first[k], second[k]) for k in first)


def test_bad_input():
    with pytest.raises(ValueError, match="'median'"):
        build_pooler("median", 8)
    with pytest.raises(ValueError, match="tokens"):
        build_pooler("mean", 8)(torch.zeros(2, 3, 7))
