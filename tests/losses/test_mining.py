"""Mined pairs against loops that choose and weigh every pair by itself."""

import importlib
import math

import pytest
import torch
import torch.nn.functional as F

from fieldmark.losses.mining import build_miner
from fieldmark.losses.registry import MetricLossConfig, build_metric_loss

CLASSES, WIDTH, EPSILON = 4, 6, 0.25


def batch(n=14, width=WIDTH, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(n, width, generator=generator, dtype=torch.float64)
    return embeddings, torch.arange(n) % CLASSES


def build(miner, name="multi_similarity", width=WIDTH, seed=0, dimensions=(), options=None, **miner_options):
    config = MetricLossConfig(name, options or {}, dimensions=dimensions, miner=miner, miner_options=miner_options)
    return build_metric_loss(config, CLASSES, width, generator=torch.Generator().manual_seed(seed))


def multi_similarity_twin(embeddings, labels, positives, negatives):
    """Mean over all anchors; positives, negatives: anchor → indices, duplicates counting once."""
    similarity = F.normalize(embeddings, dim=1) @ F.normalize(embeddings, dim=1).T
    terms = []
    for a in range(len(labels)):
        p, n = sorted(set(positives[a])), sorted(set(negatives[a]))
        terms.append((1 + (-2 * (similarity[a][p] - 0.5)).exp().sum()).log() / 2)
        terms.append((1 + (50 * (similarity[a][n] - 0.5)).exp().sum()).log() / 50)
    return torch.stack(terms).sum() / len(labels)


def agree(loss, embeddings, labels, twin):
    """Value and gradient of both."""
    gradients = []
    values = []
    for function in (lambda e: loss(e, labels), twin):
        leaf = embeddings.clone().requires_grad_()
        value = function(leaf)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, leaf)[0])
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().sum() > 0


def hard_pairs(embeddings, labels):
    similarity = F.normalize(embeddings, dim=1) @ F.normalize(embeddings, dim=1).T
    everyone = range(len(labels))
    positives, negatives = [], []
    for a in everyone:
        alike = [i for i in everyone if i != a and labels[i] == labels[a]]
        others = [i for i in everyone if labels[i] != labels[a]]
        least, most = min(similarity[a, i] for i in alike), max(similarity[a, i] for i in others)
        positives.append([i for i in alike if similarity[a, i] - EPSILON < most])
        negatives.append([i for i in others if similarity[a, i] + EPSILON > least])
    return positives, negatives


def test_multi_similarity_miner_equals_its_equations():
    embeddings, labels = batch()
    # Classes that hang together, or every pair is hard and nothing is mined.
    embeddings = embeddings + 4 * torch.eye(CLASSES, WIDTH, dtype=torch.float64)[labels]
    positives, negatives = hard_pairs(embeddings, labels)
    kept = sum(map(len, negatives))
    assert 0 < kept < sum(int((labels != label).sum()) for label in labels)
    agree(
        build("multi_similarity", epsilon=EPSILON),
        embeddings,
        labels,
        lambda leaf: multi_similarity_twin(leaf, labels, positives, negatives),
    )


def test_infonce_on_mined_pairs_equals_its_equation():
    embeddings, labels = batch()
    embeddings = embeddings + 4 * torch.eye(CLASSES, WIDTH, dtype=torch.float64)[labels]
    positives, negatives = hard_pairs(embeddings, labels)

    def twin(leaf):
        similarity = F.normalize(leaf, dim=1) @ F.normalize(leaf, dim=1).T / 0.2
        terms = []
        for a in range(len(labels)):
            below = similarity[a][negatives[a]].exp().sum()
            terms += [(1 + below / similarity[a, p].exp()).log() for p in positives[a]]
        return torch.stack(terms).mean()

    agree(build("multi_similarity", "infonce", options={"temperature": 0.2}, epsilon=EPSILON), embeddings, labels, twin)


def triplets(loss, embeddings, labels):
    """What a loss's miner draws next, without moving it on."""
    drawn = []
    hook = loss.inner.miner.register_forward_hook(lambda module, inputs, output: drawn.append(output))
    before = loss.inner.batches.clone()
    loss(embeddings, labels)
    loss.inner.batches.copy_(before)
    hook.remove()
    return [t.tolist() for t in drawn[0]]


def test_distance_weighted_loss_is_that_of_the_drawn_triplets():
    embeddings, labels = batch()
    loss = build("distance_weighted")
    anchors, p, n = triplets(loss, embeddings, labels)
    assert all(labels[a] == labels[b] and a != b for a, b in zip(anchors, p, strict=True))
    assert all(labels[a] != labels[b] for a, b in zip(anchors, n, strict=True))
    positives = [[b for a, b in zip(anchors, p, strict=True) if a == i] for i in range(len(labels))]
    negatives = [[b for a, b in zip(anchors, n, strict=True) if a == i] for i in range(len(labels))]
    agree(loss, embeddings, labels, lambda leaf: multi_similarity_twin(leaf, labels, positives, negatives))


def test_distance_weighted_draws_by_the_inverse_density_of_distances():
    """Section 4: log q(d) = (D - 2) log d + (D - 3) / 2 · log(1 - d² / 4), weight 1 / q(max(d, cutoff))."""
    embeddings, labels = batch()
    unit = F.normalize(embeddings, dim=1)
    weights = torch.zeros(len(labels), dtype=torch.float64)
    for i in range(len(labels)):
        d = max(float((unit[0] - unit[i]).norm()), 0.5)
        if labels[i] != labels[0] and d < 1.4:
            weights[i] = math.exp(-((WIDTH - 2) * math.log(d) + (WIDTH - 3) / 2 * math.log(1 - d * d / 4)))
    expected = weights / weights.sum()
    loss, seen = build("distance_weighted"), torch.zeros(len(labels))
    for _ in range(150):
        anchors, _, n = triplets(loss, embeddings, labels)
        loss.inner.batches += 1
        for a, b in zip(anchors, n, strict=True):
            seen[b] += a == 0
    drawn = seen / seen.sum()
    assert seen.sum() > 400 and bool((drawn[expected == 0] == 0).all())
    assert float((drawn - expected).abs().max()) < 0.08 and float(expected.max()) > 0.15


@pytest.mark.parametrize("miner", ["multi_similarity", "distance_weighted"])
def test_draws_come_from_the_generator_and_continue_from_the_state(miner):
    embeddings, labels = batch()
    state = torch.get_rng_state()
    first, second = build(miner), build(miner)
    values = [float(first(embeddings, labels)) for _ in range(6)]
    assert torch.equal(torch.get_rng_state(), state)
    for _ in range(3):
        second(embeddings, labels)
    resumed = build(miner)
    resumed.load_state_dict(second.state_dict())
    assert [float(resumed(embeddings, labels)) for _ in range(3)] == values[3:]
    other = build(miner, seed=1)
    draws = miner == "distance_weighted"
    assert (len(set(values)) > 1) == draws
    assert ([float(other(embeddings, labels)) for _ in range(6)] != values) == draws


def test_every_nested_size_mines_for_itself():
    embeddings, labels = batch()
    nested = build("multi_similarity", dimensions=(4,), epsilon=EPSILON)
    cut = F.normalize(embeddings[:, :4], dim=1)
    parts = [multi_similarity_twin(one, labels, *hard_pairs(one, labels)) for one in (embeddings, cut)]
    torch.testing.assert_close(nested(embeddings, labels), torch.stack(parts).mean())


def test_a_batch_without_hard_pairs_gives_zero_with_a_graph():
    embeddings = 10 * torch.eye(CLASSES, WIDTH).repeat(2, 1) + 0.001
    embeddings.requires_grad_()
    value = build("multi_similarity", epsilon=0.1)(embeddings, torch.arange(8) % CLASSES)
    value.backward()
    assert torch.isfinite(embeddings.grad).all()


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"miner": "hardest"}, "choose none, multi_similarity or distance_weighted"),
        ({"miner_options": {"epsilon": 0.1}}, "miner is none"),
        ({"miner": "multi_similarity"}, "'potential_field'.*takes no mined pairs: choose multi_similarity"),
        (
            {"name": "supcon", "miner": "multi_similarity", "miner_options": {"cutoff": 1}},
            "no option 'cutoff'.*epsilon",
        ),
    ],
)
def test_refused(config, message):
    with pytest.raises(ValueError, match=message):
        build_metric_loss(MetricLossConfig(**config), CLASSES, WIDTH)


def test_absent_library_is_explained(monkeypatch):
    def missing(name, package=None):
        raise ModuleNotFoundError("No module named 'pytorch_metric_learning'", name="pytorch_metric_learning")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ModuleNotFoundError, match=r"metric\.miner to none"):
        build_miner("multi_similarity", {})
