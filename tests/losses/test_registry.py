"""Metric losses by name: peers, options, users' own, and what is refused."""

import importlib
import os
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fieldmark.losses import (
    MetricLossConfig,
    PotentialField,
    build_metric_loss,
    metric_loss_names,
    potential_field,
    proxy_parameter_groups,
    register_metric_loss,
    registry,
)

CLASSES, WIDTH = 4, 6
PEERS = ("proxy_anchor", "multi_similarity", "infonce", "supcon")


def batch(dtype=torch.float32, n=12):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, WIDTH, generator=generator, dtype=dtype), torch.arange(n) % CLASSES


def build(name, **options):
    return build_metric_loss(MetricLossConfig(name, options), CLASSES, WIDTH)


@pytest.fixture
def clean_registry(monkeypatch):
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))


def test_names():
    assert set(metric_loss_names()) >= {"potential_field", *PEERS}


@pytest.mark.parametrize("name", ["potential_field", *PEERS])
def test_scalar_with_gradient_and_deterministic(name):
    embeddings, labels = batch()
    embeddings.requires_grad_()
    loss = build(name)
    assert isinstance(loss, nn.Module)
    value = loss(embeddings, labels)
    assert value.shape == () and value.dtype == torch.float32
    value.backward()
    assert torch.isfinite(embeddings.grad).all() and embeddings.grad.abs().sum() > 0
    assert torch.equal(build(name)(embeddings, labels), value)


@pytest.mark.parametrize("name", ["potential_field", *PEERS])
def test_bfloat16_under_autocast_is_float32_and_keeps_the_proxies(name):
    embeddings, labels = batch()
    embeddings = embeddings.bfloat16()
    loss = build(name)
    expected = loss(embeddings.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(embeddings, labels), expected)
    assert all(parameter.dtype == torch.float32 for parameter in loss.parameters())


def test_potential_field_options_reach_it():
    loss = build("potential_field", proxies_per_class=3, delta=0.5, alpha=2.0, reduction="sum")
    assert isinstance(loss.inner, PotentialField)
    embeddings, labels = batch()
    torch.testing.assert_close(
        loss(embeddings, labels), potential_field(embeddings, labels, loss.inner.proxies, 0.5, 2.0, "sum")
    )
    assert loss.inner.proxies.shape == (CLASSES, 3, WIDTH)


def test_infonce_equals_its_equation():
    embeddings, labels = batch(torch.float64)
    similarity = F.normalize(embeddings, dim=1) @ F.normalize(embeddings, dim=1).T / 0.2
    terms = []
    for a in range(len(labels)):
        negatives = similarity[a][labels != labels[a]].exp().sum()
        for p in range(len(labels)):
            if p != a and labels[p] == labels[a]:
                positive = similarity[a, p].exp()
                terms.append(-(positive / (positive + negatives)).log())
    torch.testing.assert_close(build("infonce", temperature=0.2)(embeddings, labels), torch.stack(terms).mean())


def test_supcon_equals_its_equation():
    embeddings, labels = batch(torch.float64)
    similarity = F.normalize(embeddings, dim=1) @ F.normalize(embeddings, dim=1).T / 0.2
    terms = []
    for a in range(len(labels)):
        others = [b for b in range(len(labels)) if b != a]
        log_sum = torch.stack([similarity[a, b] for b in others]).logsumexp(0)
        terms.append(-torch.stack([similarity[a, b] - log_sum for b in others if labels[b] == labels[a]]).mean())
    torch.testing.assert_close(build("supcon", temperature=0.2)(embeddings, labels), torch.stack(terms).mean())


def test_multi_similarity_equals_its_equation():
    embeddings, labels = batch(torch.float64)
    similarity = F.normalize(embeddings, dim=1) @ F.normalize(embeddings, dim=1).T
    terms = []
    for a in range(len(labels)):
        same = labels == labels[a]
        same[a] = False
        positive = (1 + (-2 * (similarity[a][same] - 0.5)).exp().sum()).log() / 2
        negative = (1 + (50 * (similarity[a][labels != labels[a]] - 0.5)).exp().sum()).log() / 50
        terms.append(positive + negative)
    torch.testing.assert_close(build("multi_similarity")(embeddings, labels), torch.stack(terms).mean())


def test_proxy_anchor_equals_its_equation():
    embeddings, labels = batch()
    labels = labels % 3  # one class without an embedding
    loss = build("proxy_anchor")
    (proxies,) = loss.parameters()
    similarity = F.normalize(embeddings, dim=1) @ F.normalize(proxies.detach(), dim=1).T
    positive = negative = torch.zeros(())
    for j in range(CLASSES):
        own = labels == j
        if own.any():
            positive = positive + (1 + (-32 * (similarity[own, j] - 0.1)).exp().sum()).log() / 3
        negative = negative + (1 + (32 * (similarity[~own, j] + 0.1)).exp().sum()).log() / CLASSES
    torch.testing.assert_close(loss(embeddings, labels).detach(), positive + negative, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["potential_field", "proxy_anchor"])
def test_proxies_come_from_the_generator_and_global_randomness_is_untouched(name):
    def proxies(seed):
        generator = torch.Generator().manual_seed(seed)
        loss = build_metric_loss(MetricLossConfig(name), CLASSES, WIDTH, generator=generator)
        return next(loss.parameters()).detach()

    state = torch.get_rng_state()
    assert torch.equal(proxies(1), proxies(1)) and not torch.equal(proxies(1), proxies(2))
    assert torch.equal(torch.get_rng_state(), state)


def test_state_dict_round_trip():
    first = build_metric_loss(MetricLossConfig(), CLASSES, WIDTH, generator=torch.Generator().manual_seed(5))
    second = build("potential_field")
    assert not torch.equal(first(*batch()), second(*batch()))
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(*batch()), second(*batch()))


def test_proxy_groups():
    config = MetricLossConfig()
    (group,) = proxy_parameter_groups(build("potential_field"), config, pooler_lr=1e-4)
    assert group["lr"] == pytest.approx(1e-2) and group["weight_decay"] == 0.0 and len(group["params"]) == 1
    assert proxy_parameter_groups(build("supcon"), config, pooler_lr=1e-4) == []
    with pytest.raises(ValueError, match="proxy_lr_factor"):
        MetricLossConfig(proxy_lr_factor=0.0)


def test_own_loss_function_by_decorator(clean_registry):
    @register_metric_loss("mine")
    def mine(embeddings, labels, num_classes, weight=1.0):
        return weight * num_classes * embeddings.square().mean()

    embeddings, labels = batch()
    torch.testing.assert_close(build("mine", weight=2.0)(embeddings, labels), 8 * embeddings.square().mean())
    with pytest.raises(ValueError, match="registered already"):
        register_metric_loss("mine")
    with pytest.raises(ValueError, match="':'"):
        register_metric_loss("a:b")


MODULE = """
import torch

def plain(embeddings, labels, power: float = 2.0):
    return embeddings.abs().pow(power).mean()

class Learned(torch.nn.Module):
    def __init__(self, num_classes, embedding_size, scale=1.0):
        super().__init__()
        self.centres = torch.nn.Parameter(torch.full((num_classes, embedding_size), scale))

    def forward(self, embeddings, labels):
        return (embeddings - self.centres[labels]).square().mean()

def vector(embeddings, labels):
    return embeddings.mean(1)

def number(embeddings, labels):
    return 1.0

def not_a_factory(num_classes):
    return num_classes

def greedy(embeddings, labels, margin):
    return embeddings.mean() * margin

not_callable = 3
"""


@pytest.fixture
def user_module(tmp_path, monkeypatch):
    (tmp_path / "my_losses.py").write_text(MODULE)
    (tmp_path / "broken_losses.py").write_text("import surely_not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("my_losses", None)


def test_own_loss_by_import_path(user_module):
    embeddings, labels = batch()
    torch.testing.assert_close(build("my_losses:plain", power=3)(embeddings, labels), embeddings.abs().pow(3).mean())
    learned = build("my_losses:Learned", scale=0.5)
    torch.testing.assert_close(learned(embeddings, labels), (embeddings - 0.5).square().mean())
    assert len(list(learned.parameters())) == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("proxy_ancor", {}, "Did you mean 'proxy_anchor'.*infonce, multi_similarity, potential_field"),
        ("zzz", {}, "unknown metric loss 'zzz'. Choose from"),
        ("supcon", {"temprature": 0.1}, "no option 'temprature'. Did you mean 'temperature'"),
        (
            "potential_field",
            {"margin": 0.1},
            "no option 'margin'.*alpha, delta, proxies_per_class, reduction",
        ),
        ("potential_field", {"num_classes": 3}, "'num_classes'.*set by the training run"),
        ("potential_field", {"proxies_per_class": 0}, "proxies_per_class is 0"),
        ("potential_field", {"reduction": "max"}, "reduction is 'max'"),
        ("potential_field", {"delta": -1.0}, "delta is -1.0"),
        ("no_such_module_here:loss", {}, "no module 'no_such_module_here'"),
        ("my_losses:absent", {}, "no function 'absent'"),
        ("my_losses:not_callable", {}, "no function 'not_callable'"),
        ("my_losses:", {}, "not an import path"),
        ("my_losses:not_a_factory", {}, "must return an nn.Module"),
        ("my_losses:greedy", {}, "needs the option.* margin"),
        ("my_losses:plain", {"embeddings": 1}, "set by the training run"),
    ],
)
def test_refused(user_module, name, options, message):
    with pytest.raises(ValueError, match=message):
        build(name, **options)


def test_an_import_error_inside_the_users_module_stays_itself(user_module):
    with pytest.raises(ModuleNotFoundError, match="surely_not_installed_anywhere"):
        build("broken_losses:loss")


@pytest.mark.parametrize(("name", "found"), [("vector", r"shape \(12,\)"), ("number", "float")])
def test_a_loss_must_be_scalar(user_module, name, found):
    with pytest.raises(ValueError, match=found):
        build(f"my_losses:{name}")(*batch())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda e, y: (e[:, :3], y), "built for"),
        (lambda e, y: (e, y[:-1]), "expected 12 integers"),
        (lambda e, y: (e, y.float()), "expected 12 integers"),
        (lambda e, y: (e, y + 1), "labels span 1..4"),
    ],
)
@pytest.mark.parametrize("name", ["proxy_anchor", "supcon"])
def test_bad_batches_are_named(name, change, message):
    with pytest.raises(ValueError, match=message):
        build(name)(*change(*batch()))


def test_absent_peer_library_is_explained(monkeypatch):
    def missing(name, package=None):
        raise ModuleNotFoundError("No module named 'pytorch_metric_learning'", name="pytorch_metric_learning")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match="pip install pytorch-metric-learning"):
        build("supcon")
    assert isinstance(build("potential_field").inner, PotentialField)


def test_peer_library_is_not_imported_without_need():
    code = "import sys, fieldmark.losses; assert 'pytorch_metric_learning' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
