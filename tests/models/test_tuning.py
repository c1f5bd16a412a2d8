"""Tuning of a part of the tower, for every family: what trains, what is computed, what is deployed."""

import copy

import pytest
import torch
from tests.fixtures_families import TINY, save_tiny_family
from tests.fixtures_models import pictures
from torch import nn

from fieldmark.models.backbone import load_backbone
from fieldmark.models.pooler import build_pooler
from fieldmark.models.retrieval_encoder import RetrievalEncoder
from fieldmark.models.tower import load_tower
from fieldmark.models.tuning import (
    TuningConfig,
    deployed_weights,
    tower_blocks,
    trained_tensors,
    tune_tower,
)

IMAGES = [pictures(2, 16)[0], pictures(2, 24)[1]]
DEPTH = 3


@pytest.fixture(scope="module", params=list(TINY))
def untouched(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "checkpoint"
    save_tiny_family(folder, request.param)
    return load_tower(folder)


@pytest.fixture
def tower(untouched):
    return copy.deepcopy(untouched)


def tune(tower, method, seed=0, **options):
    tune_tower(tower, TuningConfig(method, **options), torch.Generator().manual_seed(seed))
    return tower


def features(tower):
    tokens = tower(tower.pixels(IMAGES))
    return [tokens.merged, *tokens.deepstack]


def gradients(tower, weights):
    """Of a fixed function of all features, by name of the parameter."""
    tower.zero_grad()
    total = sum((one.float() * w).sum() for one, w in zip(features(tower), weights, strict=True))
    total.backward()
    return {name: p.grad.clone() for name, p in tower.named_parameters() if p.grad is not None}


def random_like(tensors, seed=3):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(one.shape, generator=generator) for one in tensors]


def disturb(tower):
    """Adapters as if they had been trained."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in trained_tensors(tower).values():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.05)


def encoder_of(tower):
    pooler = build_pooler("attention", tower.width, 12, torch.Generator().manual_seed(0))
    return RetrievalEncoder(tower, pooler, 16)


def test_blocks_are_the_towers_own(tower):
    blocks = tower_blocks(tower)
    assert len(blocks) == DEPTH
    assert all(any(type(m) is nn.Linear for m in block.modules()) for block in blocks)


def test_lora_computes_what_the_tower_did_and_trains_adapters_of_every_linear_layer_only(tower):
    with torch.no_grad():
        before = features(tower)
    linear = [name for name, m in tower_blocks(tower).named_modules() if type(m) is nn.Linear]
    convolution = [p for p in tower.parameters() if p.dim() > 2]
    tune(tower, "lora", rank=3)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(before, features(tower), strict=True))
    trained = trained_tensors(tower)
    assert len(trained) == 2 * len(linear) and all(".lora_A." in n or ".lora_B." in n for n in trained)
    assert {min(p.shape) for p in trained.values()} == {3}
    assert convolution and not any(p.requires_grad for p in convolution)
    found = gradients(tower, random_like(before))
    assert found.keys() == trained.keys()
    # at first B is zero, so A gets no gradient; every B does
    for name, gradient in found.items():
        assert (gradient.abs().sum() > 0) == (".lora_B." in name), name


def test_gradient_of_an_adapter_is_that_of_the_full_weight(tower):
    """dL/dB = alpha / r · dL/dW Aᵀ and dL/dA = alpha / r · Bᵀ dL/dW, with dL/dW of a plain tower of merged weights."""
    tuned = tune(copy.deepcopy(tower), "lora", rank=2, alpha=3.0)
    disturb(tuned)
    weights = random_like(features(tuned))
    fast = gradients(tuned, weights)
    tower.load_state_dict(deployed_weights(tuned))
    plain = gradients(tower, weights)
    values = dict(tuned.named_parameters())
    whole = torch.stack([g.norm() for g in fast.values()]).norm()
    for name, gradient in fast.items():
        layer, _, kind = name.removesuffix(".default.weight").rpartition(".")
        full = plain[f"{layer}.weight"]
        other = values[name.replace(kind, "lora_B" if kind == "lora_A" else "lora_A")].detach()
        slow = 1.5 * (other.T @ full if kind == "lora_A" else full @ other.T)
        assert (gradient - slow).norm() <= 1e-4 * slow.norm() + 1e-6 * whole, name


def test_deployed_is_plain_and_equals_the_adapted(tower, tmp_path):
    names = set(encoder_of(tower).state_dict())
    encoder = encoder_of(tune(tower, "lora", rank=2))
    plain = encoder.encode(IMAGES)
    disturb(tower)
    state = {name: t.clone() for name, t in encoder.state_dict().items()}
    adapted = encoder.encode(IMAGES)
    assert not torch.allclose(adapted, plain, atol=1e-3)
    encoder.save_pretrained(tmp_path / "encoder")
    assert all(torch.equal(t, state[name]) for name, t in encoder.state_dict().items())  # saving changes nothing
    loaded = RetrievalEncoder.from_pretrained(tmp_path / "encoder")
    assert set(loaded.state_dict()) == names
    assert not any("lora" in name for name, _ in loaded.named_modules())
    torch.testing.assert_close(loaded.encode(IMAGES), adapted, rtol=0, atol=1e-5)
    with torch.no_grad():
        for one, other in zip(features(tower), features(loaded.tower), strict=True):
            torch.testing.assert_close(other, one, rtol=0, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize("count", [1, DEPTH])
def test_last_blocks_get_the_gradient_of_full_tuning_and_the_rest_none(tower, count):
    full = gradients(tower, weights := random_like(features(tower)))
    tune(tower, "last_blocks", blocks=count)
    allowed = {id(p) for block in list(tower_blocks(tower))[-count:] for p in block.parameters()}
    assert {id(p) for p in trained_tensors(tower).values()} == allowed
    found = gradients(tower, weights)
    assert found.keys() == trained_tensors(tower).keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, full[name], rtol=1e-5, atol=1e-6)


def test_leaves_send_gradients_to_what_trains_only(tower):
    """DeepStack features of frozen blocks have no graph; a frozen tower has none at all."""
    tune(tower, "last_blocks", blocks=1)
    tokens = tower(tower.pixels(IMAGES))
    leaves = tokens.as_leaves()
    weights = random_like([tokens.merged, *tokens.deepstack])
    sum((one * w).sum() for one, w in zip((leaves.merged, *leaves.deepstack), weights, strict=True)).backward()
    tower.zero_grad()
    tokens.backward(leaves)
    through_leaves = {name: p.grad.clone() for name, p in trained_tensors(tower).items()}
    direct = gradients(tower, weights)
    for name, gradient in through_leaves.items():
        torch.testing.assert_close(gradient, direct[name], rtol=1e-5, atol=1e-6)
    tower.requires_grad_(False)
    tokens = tower(tower.pixels(IMAGES))
    with pytest.raises(ValueError, match="the tower is frozen"):
        tokens.backward(tokens.as_leaves())


def test_the_whole_model_sees_the_adapters(tmp_path):
    """The backbone shares the tower's modules: what the language model is shown is what is trained."""
    save_tiny_family(tmp_path / "checkpoint", "internvl")
    backbone = load_backbone(tmp_path / "checkpoint")
    backbone.freeze_language()
    tune(backbone.tower, "lora", rank=2)
    assert {id(p) for p in backbone.parameters() if p.requires_grad} == {
        id(p) for p in trained_tensors(backbone.tower).values()
    }


# ---- randomness, precision, bad input: one family says it all


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("qwen") / "checkpoint"
    save_tiny_family(folder, "qwen3_vl")
    return load_tower(folder)


def test_adapters_come_from_the_generator_and_global_randomness_is_untouched(qwen):
    state = torch.get_rng_state()
    found = [trained_tensors(tune(copy.deepcopy(qwen), "lora", seed)) for seed in (1, 1, 2)]
    assert torch.equal(torch.get_rng_state(), state)
    name = next(n for n in found[0] if ".lora_A." in n)
    assert torch.equal(found[0][name], found[1][name]) and not torch.equal(found[0][name], found[2][name])
    drawn = found[0][name].detach()
    assert float(drawn.abs().max()) <= 1 / drawn.shape[1] ** 0.5
    assert float(drawn.std()) == pytest.approx((1 / (3 * drawn.shape[1])) ** 0.5, rel=0.1)


def test_adapters_of_a_bfloat16_tower_are_float32(qwen):
    tower = tune(copy.deepcopy(qwen).bfloat16(), "lora", rank=2)
    assert {p.dtype for p in trained_tensors(tower).values()} == {torch.float32}
    found = gradients(tower, random_like(features(tower)))
    assert {g.dtype for g in found.values()} == {torch.float32} and len(found) == len(trained_tensors(tower))
    assert {t.dtype for t in deployed_weights(tower).values()} == {torch.bfloat16}


def test_dropout_acts_where_a_graph_is_built_and_nowhere_else(qwen):
    tower = tune(copy.deepcopy(qwen), "lora", rank=2, dropout=0.5)
    disturb(tower)
    assert not tower.training
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(features(tower), features(tower), strict=True))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first, second = features(tower)[0], features(tower)[0]
        torch.manual_seed(1)
        again = features(tower)[0]
    assert torch.equal(first, again) and not torch.equal(first, second)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "lroa"}, "full, lora, last_blocks, frozen"),
        ({"rank": 0}, r"tuning\.rank must be at least 1"),
        ({"blocks": 0}, r"tuning\.blocks must be at least 1"),
        ({"alpha": 0.0}, r"tuning\.alpha"),
        ({"dropout": 1.0}, r"tuning\.dropout"),
    ],
)
def test_bad_settings_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TuningConfig(**options)


def test_more_blocks_than_there_are_is_refused(qwen):
    with pytest.raises(ValueError, match="has 3 blocks: choose 1 to 3"):
        tune(copy.deepcopy(qwen), "last_blocks", blocks=4)
