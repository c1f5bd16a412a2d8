"""Nested sizes: the loss by hand, own proxies per size, gradient, and what is refused."""

import pytest
import torch
import torch.nn.functional as F

from fieldmark.losses import MetricLossConfig, build_metric_loss
from fieldmark.losses.matryoshka import check_dimensions, truncate

CLASSES, WIDTH = 4, 8


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    z = F.normalize(torch.randn(12, WIDTH, generator=torch.Generator().manual_seed(0)), dim=1)
    return z, torch.arange(12) % CLASSES


def build(name: str, dimensions: tuple[int, ...]) -> torch.nn.Module:
    return build_metric_loss(MetricLossConfig(name, dimensions=dimensions), CLASSES, WIDTH)


def test_is_the_mean_over_truncated_and_normalised_embeddings() -> None:
    z, labels = batch()
    value = build("infonce", (2, 5))(z, labels)
    expected = [
        build_metric_loss(MetricLossConfig("infonce"), CLASSES, size)(F.normalize(z[:, :size], dim=1), labels)
        for size in (8, 5, 2)
    ]
    assert float(value) == pytest.approx(float(torch.stack(expected).mean()), rel=1e-6)
    assert float(value) != pytest.approx(float(expected[0]), rel=1e-3)


def test_the_whole_embedding_may_be_named_or_not() -> None:
    z, labels = batch()
    assert torch.equal(build("infonce", (2, 8))(z, labels), build("infonce", (2,))(z, labels))


def test_every_size_has_proxies_of_its_own_and_they_are_trained_and_saved() -> None:
    z, labels = batch()
    z.requires_grad_()
    loss = build("potential_field", (2, 4))
    widths = sorted(p.shape[-1] for p in loss.parameters())
    assert widths == [2, 4, 8]
    assert len(loss.state_dict()) == 3
    loss(z, labels).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in loss.parameters())
    assert z.grad is not None and (z.grad.abs().sum(0) > 0).all()


def test_leaves_the_plain_loss_as_it_was() -> None:
    z, labels = batch()
    plain, empty = build_metric_loss(MetricLossConfig(), CLASSES, WIDTH), build("potential_field", ())
    assert torch.equal(plain(z, labels), empty(z, labels)) and len(list(empty.parameters())) == 1


def test_truncate() -> None:
    z = torch.tensor([[3.0, 4.0, 12.0]])
    assert torch.allclose(truncate(z, 2), torch.tensor([[0.6, 0.8]]))
    assert truncate(z.bfloat16(), 2).dtype == torch.float32


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [((0,), "contain 0"), ((9,), "from 1 to 8"), ((4, 4), "twice"), ((2.0,), "contain 2.0"), ((True,), "contain True")],
)
def test_refuses(dimensions: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_dimensions(dimensions, WIDTH)
    with pytest.raises(ValueError, match=message):
        build("infonce", dimensions)
