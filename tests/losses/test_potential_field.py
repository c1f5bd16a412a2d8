"""Potential Field loss against the equations written as a double loop, forward and backward."""

import sys

import pytest
import torch
import torch.nn.functional as F

from fieldmark.losses import PotentialField, potential_field

DELTA, ALPHA = 0.2, 3.0


def double_loop(embeddings, labels, proxies, delta=DELTA, alpha=ALPHA, reduction="mean"):
    """The published sums, one pair of points at a time, by autograd."""
    num_classes, per_class, width = proxies.shape
    points = F.normalize(torch.cat([embeddings, proxies.reshape(-1, width)]), dim=1)
    classes = labels.tolist() + [j for j in range(num_classes) for _ in range(per_class)]
    total = points.new_zeros(())
    for a in range(len(points)):
        for b in range(len(points)):
            if a == b:
                continue
            squared = ((points[a] - points[b]) ** 2).sum()
            distance = squared.clamp_min(1e-8).sqrt()
            if classes[a] == classes[b]:
                total = total - (delta**-alpha if distance < delta else distance**-alpha)
            else:
                total = total + (distance**-alpha if distance < delta else delta**-alpha)
    return total / len(embeddings) if reduction == "mean" else total


def make_points(dtype=torch.float64, seed=0, batch=7, classes=3, per_class=2, width=5, spread=0.15):
    """Points around one direction, so that distances lie on both sides of delta for both kinds of pair."""
    generator = torch.Generator().manual_seed(seed)
    centre = torch.randn(width, generator=generator, dtype=dtype)
    embeddings = centre + spread * torch.randn(batch, width, generator=generator, dtype=dtype)
    proxies = centre + spread * torch.randn(classes, per_class, width, generator=generator, dtype=dtype)
    labels = torch.randint(classes, (batch,), generator=generator)
    return embeddings, labels, proxies


def value_and_gradients(loss, embeddings, labels, proxies, **options):
    leaves = embeddings.clone().requires_grad_(), proxies.clone().requires_grad_()
    value = loss(leaves[0], labels, leaves[1], **options)
    return value.detach(), *torch.autograd.grad(value, leaves)


def pair_kinds(embeddings, labels, proxies):
    """{(same class, inside delta)} that occur."""
    points = F.normalize(torch.cat([embeddings, proxies.flatten(0, 1)]), dim=1)
    classes = torch.cat([labels, torch.arange(len(proxies)).repeat_interleave(proxies.shape[1])])
    a, b = torch.triu_indices(len(points), len(points), 1)
    inside = (points[a] - points[b]).norm(dim=1) < DELTA
    return set(zip((classes[a] == classes[b]).tolist(), inside.tolist(), strict=True))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("seed", range(3))
def test_equals_double_loop_forward_and_backward(reduction, seed):
    inputs = make_points(seed=seed)
    assert len(pair_kinds(*inputs)) == 4  # every branch of the equations is taken
    expected = value_and_gradients(double_loop, *inputs, reduction=reduction)
    found = value_and_gradients(potential_field, *inputs, reduction=reduction)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("delta", "alpha"), [(0.1, 1.0), (0.4, 3.0), (1.2, 4.5)])
def test_equals_double_loop_for_other_fields(delta, alpha):
    inputs = make_points(seed=5)
    expected = value_and_gradients(double_loop, *inputs, delta=delta, alpha=alpha)
    found = value_and_gradients(potential_field, *inputs, delta=delta, alpha=alpha)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_float32_keeps_its_digits_between_near_neighbours():
    """The Gram form of the distance alone loses them: at d = 0.003 its square is off by a few percent."""
    embeddings, labels, proxies = make_points(torch.float64, seed=1, width=64, spread=1e-3)
    expected = value_and_gradients(double_loop, embeddings.float().double(), labels, proxies.float().double())
    found = value_and_gradients(potential_field, embeddings.float(), labels, proxies.float())
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == torch.float32
        assert (a.double() - b).norm() <= 2e-4 * b.norm()


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_coinciding_points_are_finite_and_equal_the_loop(reduction):
    embeddings, labels, proxies = make_points(seed=2)
    labels = torch.tensor([0, 0, 1, 1, 2, 2, 0])
    embeddings[1] = embeddings[0]  # same class
    embeddings[2] = embeddings[0]  # another class: repulsion at its clamp
    proxies[0, 0] = embeddings[0]
    proxies[1, 0] = embeddings[0]
    proxies[2, 1] = proxies[2, 0]
    inputs = embeddings, labels, proxies
    expected = value_and_gradients(double_loop, *inputs, reduction=reduction)
    found = value_and_gradients(potential_field, *inputs, reduction=reduction)
    assert found[0] > 1e11  # the clamp at 1e-4 was reached
    for a, b in zip(found, expected, strict=True):
        assert torch.isfinite(a).all()
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-6)


def test_everything_collapsed_gives_zero_gradient_in_float32():
    embeddings = torch.ones(4, 8)
    value, *gradients = value_and_gradients(
        potential_field, embeddings, torch.tensor([0, 0, 1, 1]), torch.ones(2, 2, 8)
    )
    assert torch.isfinite(value)
    assert all((gradient == 0).all() for gradient in gradients)


def test_gradcheck():
    embeddings, labels, proxies = make_points(seed=3, batch=5)
    assert torch.autograd.gradcheck(
        lambda e, p: potential_field(e, labels, p), (embeddings.requires_grad_(), proxies.requires_grad_())
    )


def test_a_point_does_not_act_on_itself():
    """One embedding, one proxy of its class: the pair counts in both orders, the points themselves never."""
    embedding, proxy = torch.tensor([[1.0, 0.0]]), torch.tensor([[[0.0, 1.0]]])
    value = potential_field(embedding, torch.tensor([0]), proxy, reduction="sum")
    torch.testing.assert_close(value, torch.tensor(-2 * 2**-1.5))


def test_fields_are_flat_where_they_should_be():
    near, far = torch.tensor([[1.0, 0.05]]), torch.tensor([[0.0, 1.0]])
    proxies = torch.tensor([[[1.0, 0.0]], [[-1.0, 0.0]]])
    for embedding, label in ((near, 0), (far, 1)):
        _, gradient, _ = value_and_gradients(potential_field, embedding, torch.tensor([label]), proxies)
        attracted = bool(gradient.abs().sum() > 0)
        assert attracted == (embedding is far)  # near its own proxy and far from the other: no force at all
    towards_own = value_and_gradients(potential_field, far, torch.tensor([1]), proxies)[1]
    assert -towards_own[0, 0] < 0  # descent moves it towards the proxy at -1


def test_mean_divides_everything_by_the_batch_size():
    inputs = make_points(seed=4)
    mean = value_and_gradients(potential_field, *inputs, reduction="mean")
    total = value_and_gradients(potential_field, *inputs, reduction="sum")
    for a, b in zip(mean, total, strict=True):
        torch.testing.assert_close(a * len(inputs[0]), b)


def test_invariant_to_scale_and_order():
    embeddings, labels, proxies = make_points(seed=6)
    value = potential_field(embeddings, labels, proxies)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(potential_field(3 * embeddings[order], labels[order], 0.1 * proxies), value)


def test_chunked_equals_whole(monkeypatch):
    inputs = make_points(seed=7, batch=20, spread=0.02)
    whole = value_and_gradients(potential_field, *inputs)
    module = sys.modules["fieldmark.losses.potential_field"]  # as an attribute, that name is the function
    monkeypatch.setattr(module, "_MAX_ELEMENTS", 60)  # 2 rows, 12 near pairs at a time
    for a, b in zip(value_and_gradients(potential_field, *inputs), whole, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_bfloat16_and_autocast_compute_in_float32():
    embeddings, labels, proxies = make_points(torch.float32, seed=8)
    expected = potential_field(embeddings.bfloat16().float(), labels, proxies)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = potential_field(embeddings.bfloat16(), labels, proxies)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_reduced_matmul_precision_does_not_reach_it():
    inputs = make_points(torch.float32, seed=9, width=64)
    expected = potential_field(*inputs)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        torch.testing.assert_close(potential_field(*inputs), expected, rtol=0, atol=0)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_module_trains_its_proxies():
    generator = torch.Generator().manual_seed(0)
    loss = PotentialField(3, 8, proxies_per_class=2, generator=generator)
    assert loss.proxies.shape == (3, 2, 8)
    embeddings, labels, _ = make_points(torch.float32, width=8)
    value = loss(embeddings, labels)
    torch.testing.assert_close(value, potential_field(embeddings, labels, loss.proxies))
    value.backward()
    assert loss.proxies.grad.abs().sum() > 0


def test_descent_separates_classes():
    generator = torch.Generator().manual_seed(0)
    loss = PotentialField(3, 8, proxies_per_class=2, generator=generator)
    embeddings = torch.nn.Parameter(torch.randn(12, 8, generator=generator))
    labels = torch.arange(12) % 3
    optimiser = torch.optim.Adam([embeddings, loss.proxies], lr=0.05)
    before = loss(embeddings, labels).item()
    for _ in range(150):
        optimiser.zero_grad()
        loss(embeddings, labels).backward()
        optimiser.step()
    unit = F.normalize(embeddings.detach(), dim=1)
    distance = (unit[:, None] - unit).norm(dim=2)
    same = labels[:, None] == labels
    assert distance[~same].min() >= DELTA
    nearest = distance.fill_diagonal_(9.0).argmin(1)
    assert (labels[nearest] == labels).float().mean() > 0.9
    assert loss(embeddings, labels) < 0.9 * before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": torch.tensor([0, 1, 3])}, "labels span 0..3"),
        ({"labels": torch.tensor([-1, 1, 0])}, "labels span -1..1"),
        ({"labels": torch.tensor([0, 1])}, "expected 3 integers"),
        ({"labels": torch.tensor([0.0, 1.0, 1.0])}, "expected 3 integers"),
        ({"embeddings": torch.ones(0, 4), "labels": torch.ones(0).long()}, "B >= 1"),
        ({"proxies": torch.ones(3, 2, 5)}, r"expected \(num_classes, M, 4\)"),
        ({"delta": 0.0}, "delta is 0.0"),
        ({"delta": 2.5}, "delta is 2.5"),
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"reduction": "none"}, "reduction is 'none'"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {
        "embeddings": torch.ones(3, 4),
        "labels": torch.tensor([0, 1, 2]),
        "proxies": torch.ones(3, 2, 4),
    }
    with pytest.raises(ValueError, match=message):
        potential_field(**(arguments | change))
