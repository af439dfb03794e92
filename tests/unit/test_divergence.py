"""The divergence from a reference, a chunk of logits at a time, against full logits and torch's own gradients."""

from __future__ import annotations

import pytest
import torch

from verl_ext.engine.divergence import ReferenceHead, head_divergence
from verl_ext.engine.loss_head import head_outputs
from verl_ext.objectives.asft import forward_kl, reverse_kl

TOKENS, WORDS, CHANNELS = 11, 37, 5


def tensors(dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)

    def made(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype)

    labels = torch.randint(WORDS, (TOKENS,), generator=generator)
    own = (made(TOKENS, CHANNELS).requires_grad_(), made(WORDS, CHANNELS).requires_grad_())
    return *own, labels, ReferenceHead(made(TOKENS, CHANNELS), made(WORDS, CHANNELS)), made(TOKENS), made(TOKENS)


def jensen_shannon(log_dist, reference_log_dist):
    """Neither of the two that the package has."""
    middle = torch.logaddexp(log_dist, reference_log_dist) - torch.tensor(2.0).log()
    return (forward_kl(middle, log_dist) + forward_kl(middle, reference_log_dist)) / 2


@pytest.mark.parametrize("divergence", [forward_kl, reverse_kl, jensen_shannon])
@pytest.mark.parametrize("chunk_bytes", [1, 5000, 2**30], ids=["a token", "three chunks", "all"])
@pytest.mark.parametrize("temperature", [1.0, 0.7, torch.linspace(0.5, 1.5, TOKENS, dtype=torch.float64)])
def test_values_and_gradients_are_those_of_full_logits(divergence, chunk_bytes, temperature):
    hidden, weight, labels, reference, a, b = tensors()
    scale = temperature.unsqueeze(1) if isinstance(temperature, torch.Tensor) else temperature
    dist = (hidden @ weight.t() / scale).log_softmax(-1)
    other = (reference.hidden_states @ reference.weight.t() / scale).log_softmax(-1)
    expected = dist.gather(1, labels[:, None])[:, 0], divergence(dist, other)
    found = head_divergence(
        *(hidden, weight, labels, reference, divergence), temperature=temperature, chunk_bytes=chunk_bytes
    )
    for value, wanted in zip(found, expected, strict=True):
        assert torch.allclose(value, wanted, atol=1e-13)
    gradients = torch.autograd.grad((found[0] * a + found[1] * b).sum(), (hidden, weight))
    wanted = torch.autograd.grad((expected[0] * a + expected[1] * b).sum(), (hidden, weight))
    for gradient, of_full in zip(gradients, wanted, strict=True):
        assert torch.allclose(gradient, of_full, atol=1e-12)


def test_of_half_precision_the_gradient_is_summed_in_fp32():
    hidden, weight, labels, reference, a, b = tensors(torch.bfloat16)
    found = head_divergence(hidden, weight, labels, reference, reverse_kl, chunk_bytes=1)
    assert found[0].dtype == found[1].dtype == torch.float32
    gradients = torch.autograd.grad((found[0] * a + found[1] * b).sum(), (hidden, weight))
    exact = [t.detach().double().requires_grad_() for t in (hidden, weight)]
    wide = ReferenceHead(reference.hidden_states.double(), reference.weight.double())
    values = head_divergence(*exact, labels, wide, reverse_kl)
    wanted = torch.autograd.grad((values[0] * a + values[1] * b).sum(), exact)
    for gradient, of_exact in zip(gradients, wanted, strict=True):
        assert gradient.dtype == torch.bfloat16
        assert (gradient - of_exact).norm() < 0.02 * of_exact.norm()


def test_no_token_and_what_needs_no_gradient():
    hidden, weight, labels, reference, *_ = tensors()
    none = ReferenceHead(reference.hidden_states[:0], reference.weight)
    log_probs, values = head_divergence(hidden[:0], weight, labels[:0], none, forward_kl)
    assert log_probs.shape == values.shape == (0,)
    assert (torch.autograd.grad((log_probs + values).sum(), weight)[0] == 0).all()
    _, values = head_divergence(hidden, weight.detach(), labels, reference, forward_kl)
    assert torch.autograd.grad(values.sum(), hidden)[0].abs().sum() > 0


@pytest.mark.parametrize("chunk_bytes", [1, 1500, 2**30])
def test_the_entropy_of_the_likeliest_words(chunk_bytes):
    """It is given to the objective beside log p, and the gradient then needs no second pass over the logits."""
    hidden, weight, labels, *_ = tensors()
    logits = hidden @ weight.t()
    best = logits.detach().sort(descending=True).values[:, :4].softmax(-1)
    expected = -(best * best.log()).sum(-1)

    def token_loss(log_probs, entropy):
        return -entropy * log_probs

    found = head_outputs(hidden, weight, labels, top_k=4, token_loss=token_loss, chunk_bytes=chunk_bytes)
    assert torch.allclose(found.top_k_entropy, expected, atol=1e-13) and not found.top_k_entropy.requires_grad
    losses = token_loss(found.log_probs, found.top_k_entropy).sum()
    plain = token_loss(logits.log_softmax(-1).gather(1, labels[:, None])[:, 0], expected).sum()
    for gradient, wanted in zip(
        torch.autograd.grad(losses, (hidden, weight)), torch.autograd.grad(plain, (hidden, weight)), strict=True
    ):
        assert torch.allclose(gradient, wanted, atol=1e-12)


def test_more_words_than_there_are_means_all_of_them():
    hidden, weight, labels, *_ = tensors()
    found = head_outputs(hidden, weight, labels, top_k=WORDS + 5, with_entropy=True)
    assert torch.allclose(found.top_k_entropy, found.entropy, atol=1e-13)
