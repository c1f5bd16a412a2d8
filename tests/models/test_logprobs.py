import pytest
import torch

from fieldmark.models.logprobs import token_logprobs


def inputs(count=23, width=8, vocabulary=50):
    generator = torch.Generator().manual_seed(0)
    return (
        torch.randn(count, width, generator=generator),
        torch.randint(vocabulary, (count,), generator=generator),
        torch.randn(vocabulary, width, generator=generator),
        torch.randn(count, generator=generator),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("chunk_size", [1, 5, 23, 100, None])
def test_values_and_gradients_equal_plain_autograd(temperature, chunk_size):
    hidden, targets, weight, upstream = inputs()
    ours, plain = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    value = token_logprobs(ours, targets, weight, temperature=temperature, chunk_size=chunk_size)
    expected = (plain @ weight.T / temperature).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=1e-5)
    (value * upstream).sum().backward()
    (expected * upstream).sum().backward()
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-5)


def test_a_trained_head_gets_its_gradient():
    hidden, targets, weight, _ = inputs()
    weight.requires_grad_()
    token_logprobs(hidden, targets, weight).sum().backward()
    assert weight.grad is not None and weight.grad.any()


def test_all_logits_never_exist_at_once(monkeypatch):
    """With 3 rows a chunk no product is larger than 3 x V."""
    hidden, targets, weight, _ = inputs()
    sizes = []
    original = torch.Tensor.logsumexp
    monkeypatch.setattr(
        torch.Tensor,
        "logsumexp",
        lambda self, *a, **k: (sizes.append(self.shape[0]), original(self, *a, **k))[1],
    )
    token_logprobs(hidden.requires_grad_(), targets, weight, chunk_size=3).sum().backward()
    assert sizes == [3] * 7 + [2]


def test_wrong_shapes_and_temperature():
    hidden, targets, weight, _ = inputs()
    with pytest.raises(ValueError, match="hidden"):
        token_logprobs(hidden, targets[:-1], weight)
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(hidden, targets, weight, temperature=0.0)
