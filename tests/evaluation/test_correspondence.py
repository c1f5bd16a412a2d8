"""The parts of a match: against loops over patches, and against the encoder's own embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.fixtures_families import TINY, save_tiny_family
from tests.fixtures_models import pictures, tiny_backbone

from fieldmark.evaluation.correspondence import (
    MatchExplanation,
    centred_shares,
    explain_pair,
    explain_pairs,
    token_shares,
)
from fieldmark.models.backbone import load_backbone
from fieldmark.models.pooler import PoolerKind, build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder

KINDS: list[tuple[PoolerKind, int | None]] = [
    ("attention", 8),
    ("attention", None),
    ("attention", 48),
    ("mean", None),
    ("mean", 8),
    ("max", None),
    ("max", 8),
]


def make(kind: PoolerKind, size: int | None, backbone=None) -> RetrievalEncoder:
    """An encoder whose attention is far from uniform and whose projections are no rotations."""
    backbone = backbone or tiny_backbone(0)
    generator = torch.Generator().manual_seed(1)
    pooler = build_pooler(kind, backbone.hidden_size, size, generator)
    with torch.no_grad():
        if kind == "attention":
            pooler.query.mul_(60)
            pooler.key.weight.add_(torch.randn(pooler.key.weight.shape, generator=generator))
        if pooler.projection is not None:
            pooler.projection.weight.add_(0.3 * torch.randn(pooler.projection.weight.shape, generator=generator))
    return RetrievalEncoder(backbone.tower, pooler, 32)


def shares_by_loops(encoder: RetrievalEncoder, picture: torch.Tensor) -> tuple[list[float], list[torch.Tensor]]:
    """What each patch weighs and gives to the normalised embedding, patch by patch, number by number."""
    with torch.no_grad():
        tokens = encoder.tokens(picture[None]).merged.double()
    pooler, n = encoder.pooler, len(tokens)
    weights, parts = [], []
    if pooler.kind == "attention":
        key, query = pooler.key.weight.detach().double(), pooler.query.detach().double()
        scores = [float(query @ (key @ token)) / pooler.width**0.5 for token in tokens]
    for i in range(n):
        if pooler.kind == "max":
            part, won = torch.zeros(pooler.width, dtype=torch.float64), 0.0
            for d in range(pooler.width):
                best = max(float(tokens[k, d]) for k in range(n))
                equal = [k for k in range(n) if float(tokens[k, d]) == best]
                if i in equal:
                    part[d] = best / len(equal)
                    won += 1 / len(equal)
            weights.append(won / pooler.width)
        else:
            weight = 1 / n
            if pooler.kind == "attention":
                weight = float(np.exp(scores[i]) / np.exp(scores).sum())
            part = weight * tokens[i]
            weights.append(weight)
        parts.append(part if pooler.projection is None else pooler.projection.weight.detach().double() @ part)
    length = sum(parts).norm()
    return weights, [part / length for part in parts]


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_parts_equal_loops_and_sum_to_the_cosine(kind: PoolerKind, size: int | None) -> None:
    encoder = make(kind, size)
    a, b = pictures(2, 16, seed=3)
    found = explain_pair(encoder, a, b)
    embeddings = encoder.encode(torch.stack([a, b])).double()
    assert found.cosine == pytest.approx(float(embeddings[0] @ embeddings[1]), abs=1e-6)
    assert found.contribution.sum() == pytest.approx(found.cosine, abs=1e-6)
    weights_a, parts_a = shares_by_loops(encoder, a)
    weights_b, parts_b = shares_by_loops(encoder, b)
    slow = np.array([[float(p @ q) for q in parts_b] for p in parts_a])
    np.testing.assert_allclose(found.contribution, slow, atol=1e-6)
    np.testing.assert_allclose(found.attention_a.ravel(), weights_a, atol=1e-6)
    np.testing.assert_allclose(found.attention_b.ravel(), weights_b, atol=1e-6)
    assert found.attention_a.sum() == pytest.approx(1) and found.pooler == kind
    apart = sum(parts_a) - sum(parts_b)
    np.testing.assert_allclose(found.difference_a.ravel(), [float(p @ apart) / 2 for p in parts_a], atol=1e-6)
    np.testing.assert_allclose(found.difference_b.ravel(), [float(p @ -apart) / 2 for p in parts_b], atol=1e-6)
    for half in (found.difference_a, found.difference_b):
        assert half.sum() == pytest.approx((1 - found.cosine) / 2, abs=1e-6)


def mean_embedding(encoder: RetrievalEncoder, dimensions: int | None = None) -> torch.Tensor:
    """Of a few pictures, as a collection's mean is made: of embeddings cut and normalised, itself not normalised."""
    return encoder.encode(pictures(9, 16, seed=31), dimensions=dimensions).double().mean(0)


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_centred_parts_equal_loops_and_sum_to_the_centred_cosine(kind: PoolerKind, size: int | None) -> None:
    encoder = make(kind, size)
    a, b = pictures(2, 16, seed=3)
    centre = mean_embedding(encoder)
    found, plain = explain_pair(encoder, a, b, centre=centre), explain_pair(encoder, a, b)
    z_a, z_b = encoder.encode(torch.stack([a, b])).double()
    centred = float(torch.nn.functional.cosine_similarity(z_a - centre, z_b - centre, dim=0))
    assert found.centred_cosine == found.explained_cosine == pytest.approx(centred, abs=1e-5)
    assert found.contribution.sum() == pytest.approx(found.centred_cosine)
    lengths = float((z_a - centre).norm() * (z_b - centre).norm())
    told = found.cosine - float(z_a @ centre) - float(z_b @ centre) + float(centre @ centre)
    assert found.centred_cosine * lengths == pytest.approx(told, abs=1e-6), "the formula of the docstring"
    weights_a, parts_a = shares_by_loops(encoder, a)
    weights_b, parts_b = shares_by_loops(encoder, b)
    left = [part - weight * centre for weight, part in zip(weights_a, parts_a, strict=True)]
    right = [part - weight * centre for weight, part in zip(weights_b, parts_b, strict=True)]
    slow = np.array([[float(p @ q) / lengths for q in right] for p in left])
    np.testing.assert_allclose(found.contribution, slow, atol=1e-5)
    np.testing.assert_allclose(found.similarity_a.ravel(), slow.sum(1), atol=1e-5)
    np.testing.assert_allclose(found.similarity_b.ravel(), slow.sum(0), atol=1e-5)
    # what m does not touch
    assert found.cosine == plain.cosine and plain.centred_cosine is None and plain.explained_cosine == plain.cosine
    for name in ("difference_a", "difference_b", "attention_a", "attention_b"):
        np.testing.assert_array_equal(getattr(found, name), getattr(plain, name))


@pytest.mark.parametrize(("kind", "size"), KINDS)
def test_a_centre_of_zero_is_none(kind: PoolerKind, size: int | None) -> None:
    encoder = make(kind, size)
    a, b = pictures(2, 16, seed=4)
    found = explain_pair(encoder, a, b, centre=torch.zeros(encoder.embedding_size))
    plain = explain_pair(encoder, a, b)
    np.testing.assert_allclose(found.contribution, plain.contribution, atol=1e-12)
    assert found.centred_cosine == pytest.approx(plain.cosine, abs=1e-6)


@pytest.mark.parametrize("kind", ["mean", "attention", "max"])
@torch.no_grad()
def test_a_patch_that_holds_its_share_of_the_mean_carries_nothing(kind: PoolerKind) -> None:
    pooler = make(kind, 8).pooler
    generator = torch.Generator().manual_seed(6)
    shares, other = (token_shares(pooler, torch.randn(5, pooler.width, generator=generator), 8) for _ in range(2))
    centre = shares.parts[2] / shares.weight[2]
    left = centred_shares(shares, centre)
    assert left.parts[2].norm() < 1e-12 < left.parts[1].norm()
    carried = left.parts @ centred_shares(other, centre).parts.T
    np.testing.assert_allclose(carried[2], 0, atol=1e-9)
    moved = shares.parts.sum(0) - centre
    torch.testing.assert_close(left.parts.sum(0), moved)
    torch.testing.assert_close(left.weight, shares.weight)


@pytest.mark.parametrize("dimensions", [2, 5])
def test_the_centre_of_cut_embeddings_is_that_of_cut_embeddings(dimensions: int) -> None:
    encoder = make("attention", 8)
    a, b = pictures(2, 16, seed=6)
    centre = mean_embedding(encoder, dimensions)
    found = explain_pair(encoder, a, b, dimensions=dimensions, centre=centre)
    z_a, z_b = encoder.encode(torch.stack([a, b]), dimensions=dimensions).double() - centre
    expected = float(torch.nn.functional.cosine_similarity(z_a, z_b, dim=0))
    assert found.centred_cosine == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ValueError, match=rf"shape \(8,\).*have {dimensions} numbers.*cut and normalised"):
        explain_pair(encoder, a, b, dimensions=dimensions, centre=mean_embedding(encoder))


def test_a_centre_that_is_no_mean_is_refused() -> None:
    encoder = make("attention", 8)
    a, b = pictures(2, 16)
    for centre, says in [
        (torch.ones(8), "not their sum"),
        (torch.full((8,), float("nan")), "length nan"),
        (torch.zeros(1, 8), "shape"),
        (encoder.encode(a[None])[0], "the centre itself"),
    ]:
        with pytest.raises(ValueError, match=says):
            explain_pair(encoder, a, b, centre=centre)


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize(("kind", "size"), [("attention", 8), ("mean", None), ("max", 8)])
def test_every_family_and_pictures_of_two_sizes(tmp_path: Path, name: str, kind: PoolerKind, size: int | None) -> None:
    save_tiny_family(tmp_path / name, name)
    encoder = make(kind, size, load_backbone(tmp_path / name))
    preprocessing = encoder.tower.preprocessing
    unit = preprocessing.patch_size * preprocessing.merge_size
    generator = torch.Generator().manual_seed(5)
    sizes = [(2 * unit, 2 * unit), (2 * unit, 2 * unit)] if name == "internvl" else [(2 * unit, 3 * unit), (unit, unit)]
    a, b = (torch.randint(0, 256, (*one, 3), generator=generator, dtype=torch.uint8) for one in sizes)
    found = explain_pair(encoder, a, b)
    assert found.attention_a.shape == (sizes[0][0] // unit, sizes[0][1] // unit)
    assert found.contribution.shape == (found.attention_a.size, found.attention_b.size)
    embeddings = encoder.encode([a, b]).double()
    assert found.contribution.sum() == pytest.approx(float(embeddings[0] @ embeddings[1]), abs=1e-5)
    assert found.difference_a.sum() + found.difference_b.sum() == pytest.approx(1 - found.cosine, abs=1e-5)


def test_equal_numbers_share_the_maximum() -> None:
    pooler = build_pooler("max", 3, None)
    tokens = torch.tensor([[1.0, 2.0, -1.0], [1.0, 0.0, -2.0], [0.0, -1.0, -1.0], [1.0, 1.0, -3.0]])
    found = token_shares(pooler, tokens, 3)
    parts = torch.tensor([[1 / 3, 2, -0.5], [1 / 3, 0, 0], [0, 0, -0.5], [1 / 3, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(found.parts, parts / 6**0.5)
    torch.testing.assert_close(found.parts.sum(0), pooler(tokens[None]).embedding[0].double())
    weights = torch.tensor([1 / 3 + 1 + 1 / 2, 1 / 3, 1 / 2, 1 / 3], dtype=torch.float64) / 3
    torch.testing.assert_close(found.weight, weights)


def test_a_picture_does_not_differ_from_itself() -> None:
    a = pictures(1, 16)[0]
    found = explain_pair(make("max", 8), a, a)
    assert found.cosine == pytest.approx(1, abs=1e-6) and found.contribution.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(found.difference_a, 0, atol=1e-9)


@pytest.mark.parametrize("dimensions", [1, 5, 8])
def test_cut_embeddings(dimensions: int) -> None:
    encoder = make("attention", 8)
    a, b = pictures(2, 16, seed=4)
    found = explain_pair(encoder, a, b, dimensions=dimensions)
    cut = encoder.encode(torch.stack([a, b]), dimensions=dimensions).double()
    assert found.contribution.sum() == pytest.approx(float(cut[0] @ cut[1]), abs=1e-6)


def test_pictures_of_every_kind_give_the_same() -> None:
    encoder = make("attention", 8)
    a, b = pictures(2, 32, seed=6)
    found = [
        explain_pair(encoder, *pair)
        for pair in ((a, b), (a.numpy(), b.numpy()), (Image.fromarray(a.numpy()), Image.fromarray(b.numpy())))
    ]
    for one in found[1:]:
        np.testing.assert_array_equal(one.contribution, found[0].contribution)


def test_many_pairs_equal_single_ones_and_the_mode_is_kept() -> None:
    encoder = make("attention", 8).train()
    several = list(pictures(3, 16, seed=7))
    together = explain_pairs(encoder, several, [(0, 1), (2, 0)])
    assert encoder.training
    for (i, j), one in zip([(0, 1), (2, 0)], together, strict=True):
        alone = explain_pair(encoder, several[i], several[j])
        np.testing.assert_allclose(one.contribution, alone.contribution, atol=1e-6)
        assert one.cosine == pytest.approx(alone.cosine, abs=1e-6)


def small(contribution: list[list[float]]) -> MatchExplanation:
    values = np.array(contribution)
    a, b = np.full((1, values.shape[0]), 0.5), np.full((values.shape[1], 1), 0.5)
    return MatchExplanation(float(values.sum()), "mean", a, b, values, a, b)


def test_strongest_pairs_are_beyond_their_shares() -> None:
    found = small([[0.5, 0.1], [0.1, 0.3], [0.0, 0.0]])
    np.testing.assert_allclose(found.specific, [[0.14, -0.14], [-0.14, 0.14], [0, 0]], atol=1e-12)
    assert [(one.a, one.b, one.contribution) for one in found.strongest(5)] == [
        ((0, 0), (0, 0), 0.5),
        ((0, 1), (1, 0), 0.3),
    ]
    assert found.strongest(0) == () and len(found.strongest(1)) == 1
    np.testing.assert_allclose(found.similarity_a, [[0.6, 0.4, 0.0]])
    np.testing.assert_allclose(found.similarity_b, [[0.6], [0.4]])
    with pytest.raises(ValueError, match="negative"):
        found.strongest(-1)


def test_a_patch_may_stand_in_several_pairs_if_asked() -> None:
    found = small([[0.5, 0.4, -0.2], [-0.1, 0.0, 0.6]])
    once, often = found.strongest(6), found.strongest(6, each_patch_once=False)
    assert len({one.a for one in once}) == len(once) and len({one.b for one in once}) == len(once)
    assert [one.a for one in often].count((0, 0)) == 2
    assert sorted((one.specific for one in often), reverse=True) == [one.specific for one in often]


def test_specific_contributions_have_no_margins() -> None:
    found = explain_pair(make("attention", 8), *pictures(2, 16, seed=9))
    np.testing.assert_allclose(found.specific.sum(0), 0, atol=1e-12)
    np.testing.assert_allclose(found.specific.sum(1), 0, atol=1e-12)
    product = np.outer(found.similarity_a, found.similarity_b) / found.contribution.sum()
    np.testing.assert_allclose(found.specific + product, found.contribution, atol=1e-12)
    opposed = small([[0.5, -0.5], [0.1, -0.1]])
    np.testing.assert_array_equal(opposed.specific, opposed.contribution)


def test_centred_contributions_are_specific_as_they_are() -> None:
    """Also where they sum to next to nothing, and a product of margins would be larger than all of them."""
    values = np.array([[0.5, -0.4], [-0.3, 0.201]])
    a = np.full((1, 2), 0.5)
    found = MatchExplanation(0.9, "mean", a, a, values, a, a, centred_cosine=0.001)
    np.testing.assert_array_equal(found.specific, values)
    assert [(one.a, one.b, one.specific) for one in found.strongest(5)] == [
        ((0, 0), (0, 0), 0.5),
        ((0, 1), (0, 1), 0.201),
    ]


def test_json_says_the_same() -> None:
    encoder = make("attention", 8)
    found = explain_pair(encoder, *pictures(2, 16, seed=8))
    content = found.as_json()
    assert np.sum(content["contribution"]) == pytest.approx(content["cosine"], abs=1e-5)
    assert content["grid_a"] == [2, 2] and len(content["correspondences"]) <= 4
    assert "contribution" not in found.as_json(full=False) and content["centred_cosine"] is None
    centred = explain_pair(encoder, *pictures(2, 16, seed=8), centre=mean_embedding(encoder)).as_json()
    assert np.sum(centred["contribution"]) == pytest.approx(centred["centred_cosine"], abs=1e-5)
    assert centred["cosine"] == content["cosine"] and centred["difference_a"] == content["difference_a"]


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda e, a, b: explain_pair(e, a, b, dimensions=9), "choose a size from 1 to 8"),
        (lambda e, a, b: explain_pair(e, a[:15], b), "not a multiple"),
        (lambda e, a, b: explain_pair(e, a.float(), b), "uint8"),
        (lambda e, a, b: explain_pairs(e, [a, b], [(0, 2)]), "there are 2"),
    ],
)
def test_wrong_input_is_told(call, says: str) -> None:
    encoder = make("attention", 8)
    with pytest.raises(ValueError, match=says):
        call(encoder, *pictures(2, 16))


def test_an_embedding_of_length_zero_has_no_cosine() -> None:
    encoder = make("mean", 8)
    with torch.no_grad():
        encoder.pooler.projection.weight.zero_()
    with pytest.raises(ValueError, match="length 0"):
        explain_pair(encoder, *pictures(2, 16))
