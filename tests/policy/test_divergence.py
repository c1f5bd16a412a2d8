"""Divergence from a reference: estimate against exact, chunked against plain, and what the gradients belong to."""

import math

import pytest
import torch

from fieldmark.policy.divergence import kl_exact, kl_k3, token_kl


def test_k3_estimates_the_exact_divergence() -> None:
    generator = torch.Generator().manual_seed(3)
    logp = torch.randn(7, generator=generator).log_softmax(-1)
    logq = (logp + 0.5 * torch.randn(7, generator=generator)).log_softmax(-1)
    exact = kl_exact(logp, logq)
    by_hand = sum(math.exp(p) * (p - q) for p, q in zip(logp.tolist(), logq.tolist(), strict=True))
    assert exact.item() == pytest.approx(by_hand, abs=1e-6)
    drawn = torch.multinomial(logp.exp(), 400_000, replacement=True, generator=generator)
    estimate = kl_k3(logp[drawn], logq[drawn])
    assert (estimate >= 0).all()
    assert estimate.mean().item() == pytest.approx(exact.item(), rel=0.02)
    assert kl_k3(logp, logp).tolist() == [0.0] * 7


def test_kl_exact_with_impossible_tokens() -> None:
    logp = torch.tensor([[0.5, 0.5, 0.0]]).log().requires_grad_()
    logq = torch.tensor([[0.25, 0.25, 0.5]]).log()
    value = kl_exact(logp, logq)
    assert value.item() == pytest.approx(math.log(2))
    value.sum().backward()
    assert logp.grad is not None
    assert torch.isfinite(logp.grad).all()


@pytest.fixture
def states() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Hidden states of a policy and of a reference near it, and an output head."""
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(9, 6, generator=generator)
    reference = hidden + 0.4 * torch.randn(9, 6, generator=generator)
    return hidden.requires_grad_(), reference, torch.randn(23, 6, generator=generator)


@pytest.mark.parametrize("chunk_size", [None, 1, 4])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_chunked_divergence_equals_the_plain_one(states, chunk_size, temperature) -> None:
    hidden, reference, weight = states
    factors = torch.linspace(-1, 2, len(hidden))
    ours = token_kl(hidden, reference, weight, temperature=temperature, chunk_size=chunk_size)
    (gradient,) = torch.autograd.grad((factors * ours).sum(), hidden)
    plain = kl_exact(*((h @ weight.T / temperature).log_softmax(-1) for h in (hidden, reference)))
    (truth,) = torch.autograd.grad((factors * plain).sum(), hidden)
    torch.testing.assert_close(ours, plain, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, truth, rtol=1e-4, atol=1e-6)
    assert truth.norm() > 0.1


def test_no_divergence_from_oneself(states) -> None:
    hidden, _, weight = states
    value = token_kl(hidden, hidden.detach(), weight)
    (gradient,) = torch.autograd.grad(value.sum(), hidden)
    assert value.abs().max() < 1e-6 and gradient.abs().max() < 1e-6


def test_k3_has_the_gradient_of_the_reverse_divergence(states) -> None:
    """In expectation over the policy's own tokens, here by summing over the vocabulary; the exact one has its own."""
    hidden, reference, weight = states
    logp, logq = ((h @ weight.T).log_softmax(-1) for h in (hidden, reference))
    (of_k3,) = torch.autograd.grad((logp.detach().exp() * kl_k3(logp, logq)).sum(), hidden, retain_graph=True)
    (reverse,) = torch.autograd.grad(kl_exact(logq, logp).sum(), hidden, retain_graph=True)
    (forward,) = torch.autograd.grad(kl_exact(logp, logq).sum(), hidden)
    torch.testing.assert_close(of_k3, reverse, rtol=1e-4, atol=1e-5)
    assert (of_k3 - forward).norm() > 0.05 * forward.norm()


def test_bad_states_are_refused(states) -> None:
    hidden, reference, weight = states
    with pytest.raises(ValueError, match=r"\(9, 6\) and \(8, 6\)"):
        token_kl(hidden, reference[:8], weight)
    with pytest.raises(ValueError, match="temperature"):
        token_kl(hidden, reference, weight, temperature=0.0)
    with pytest.raises(ValueError, match="frozen"):
        token_kl(hidden, reference, weight.requires_grad_())
