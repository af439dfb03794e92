"""The chunked loss head against all logits at once: values, gradients, memory."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from verl_ext.engine import loss_head
from verl_ext.engine.loss_head import head_log_probs
from verl_ext.objectives.dft import dft_token_loss
from verl_ext.objectives.sft import sft_token_loss

TOKENS, VOCABULARY, CHANNELS = 37, 53, 8
FP64_CHUNKS = {"all": 2**20, "10 tokens, 15 words": 10 * VOCABULARY * 8, "1 token, 1 word": 1}


def inputs(tokens: int = TOKENS, dtype: torch.dtype = torch.float64, *, learns_weight: bool = True):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, CHANNELS, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, CHANNELS, generator=generator, dtype=torch.float64).to(dtype)
    labels = torch.randint(0, VOCABULARY, (tokens,), generator=generator)
    return hidden, weight.requires_grad_(learns_weight), labels


def full(hidden, weight, labels, temperature=1.0):
    """Log-probs and entropy by all logits, in fp64."""
    temperature = temperature.unsqueeze(1) if isinstance(temperature, torch.Tensor) else temperature
    every = (hidden.double() @ weight.double().t() / temperature).log_softmax(-1)
    return every.gather(1, labels.unsqueeze(1)).squeeze(1), -(every.exp() * every).sum(-1)


def gradients(loss, *of):
    return torch.autograd.grad(loss, [x for x in of if x.requires_grad])


def assert_same(found, expected, tolerance=1e-12):
    for one, other in zip(found, expected, strict=True):
        assert (one.double() - other.double()).abs().max().item() <= tolerance * max(1.0, other.abs().max().item())


def weights_of_tokens(tokens: int) -> torch.Tensor:
    """Some, none of them alike, and a third of them zero."""
    weights = torch.linspace(-2, 3, tokens, dtype=torch.float64)
    weights[::3] = 0
    return weights


@pytest.mark.parametrize("tokens", [TOKENS, 1])
@pytest.mark.parametrize("temperature", [1.0, 0.6, "of each token"])
@pytest.mark.parametrize("chunk_bytes", FP64_CHUNKS.values(), ids=FP64_CHUNKS.keys())
def test_values_and_gradients_are_those_of_all_logits(chunk_bytes, temperature, tokens):
    hidden, weight, labels = inputs(tokens)
    if temperature == "of each token":
        temperature = torch.linspace(0.4, 1.5, tokens, dtype=torch.float64)
    options = {"temperature": temperature, "chunk_bytes": chunk_bytes}
    log_probs, entropy = head_log_probs(hidden, weight, labels, with_entropy=True, **options)
    expected, expected_entropy = full(hidden, weight, labels, temperature)
    assert_same([log_probs, entropy], [expected, expected_entropy])

    weights = weights_of_tokens(tokens)
    for loss, wanted in [
        (weights @ log_probs, weights @ expected),
        (weights @ entropy, weights @ expected_entropy),
        (weights @ log_probs + log_probs @ entropy, weights @ expected + expected @ expected_entropy),
    ]:
        found = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
        assert_same(found, torch.autograd.grad(wanted, [hidden, weight], retain_graph=True))


@pytest.fixture
def recomputed(monkeypatch) -> list[bool]:
    """Grows by an entry whenever logits are computed a second time."""
    calls: list[bool] = []
    compute = loss_head._gradients
    monkeypatch.setattr(loss_head, "_gradients", lambda *a, **k: calls.append(True) or compute(*a, **k))
    return calls


@pytest.mark.parametrize("token_loss", [dft_token_loss, sft_token_loss, lambda lp: -(lp.exp() ** 0.5)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("chunk_bytes", FP64_CHUNKS.values(), ids=FP64_CHUNKS.keys())
@pytest.mark.parametrize("learns_weight", [True, False])
def test_a_named_objective_needs_no_second_pass(recomputed, learns_weight, chunk_bytes, temperature, token_loss):
    hidden, weight, labels = inputs(learns_weight=learns_weight)
    options = {"temperature": temperature, "chunk_bytes": chunk_bytes, "token_loss": token_loss}
    log_probs, _ = head_log_probs(hidden, weight, labels, **options)
    found = gradients(0.37 * token_loss(log_probs).sum(), hidden, weight)
    expected = gradients(0.37 * token_loss(full(hidden, weight, labels, temperature)[0]).sum(), hidden, weight)
    assert_same(found, expected)
    assert not recomputed


@pytest.mark.parametrize("change", [lambda losses: losses[:-1].sum(), lambda losses: losses @ losses.detach()])
def test_another_loss_than_named_is_noticed_and_right(recomputed, change):
    hidden, weight, labels = inputs()
    log_probs, _ = head_log_probs(hidden, weight, labels, token_loss=dft_token_loss, chunk_bytes=5000)
    found = gradients(change(dft_token_loss(log_probs)), hidden, weight)
    assert_same(found, gradients(change(dft_token_loss(full(hidden, weight, labels)[0])), hidden, weight))
    assert recomputed


def test_entropy_in_the_loss_of_a_named_objective_is_not_lost():
    hidden, weight, labels = inputs()
    log_probs, entropy = head_log_probs(hidden, weight, labels, token_loss=sft_token_loss, with_entropy=True)
    found = gradients(sft_token_loss(log_probs).mean() - 0.1 * entropy.mean(), hidden, weight)
    log_probs, entropy = full(hidden, weight, labels)
    assert_same(found, gradients(-log_probs.mean() - 0.1 * entropy.mean(), hidden, weight))


def test_a_second_backward_pass_gives_the_same():
    hidden, weight, labels = inputs()
    log_probs, _ = head_log_probs(hidden, weight, labels, token_loss=sft_token_loss)
    loss = sft_token_loss(log_probs).mean()
    first = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    kept = [gradient.clone() for gradient in first]
    assert_same(torch.autograd.grad(loss, [hidden, weight]), kept)
    assert_same(first, kept, 0.0)


@pytest.mark.parametrize("token_loss", [None, dft_token_loss])
def test_tokens_that_no_loss_counts_give_zero_gradients(token_loss):
    hidden, weight, labels = inputs()
    log_probs, _ = head_log_probs(hidden, weight, labels, token_loss=token_loss)
    for gradient in gradients((log_probs * torch.zeros(TOKENS)).sum(), hidden, weight):
        assert not gradient.any()


@pytest.mark.parametrize("token_loss", [None, dft_token_loss])
def test_no_tokens_at_all_still_reach_every_parameter(token_loss):
    hidden, weight, labels = inputs(tokens=0)
    log_probs, entropy = head_log_probs(hidden, weight, labels, token_loss=token_loss, with_entropy=True)
    assert log_probs.shape == entropy.shape == (0,)
    d_hidden, d_weight = gradients(log_probs.sum(), hidden, weight)
    assert d_hidden.shape == hidden.shape and d_weight.shape == weight.shape and not d_weight.any()


@pytest.mark.parametrize("token_loss", [None, dft_token_loss])
def test_micro_batches_add_up_in_a_tied_weight(token_loss):
    """The weight is also that of the embedding, and gets gradients of both from every micro-batch."""
    hidden, weight, labels = inputs()
    found, expected = weight.detach().clone().requires_grad_(), weight
    ids = torch.arange(TOKENS) % VOCABULARY
    for part in (slice(0, 20), slice(20, 21), slice(21, TOKENS)):
        states = hidden[part].detach() + found[ids[part]]
        log_probs, _ = head_log_probs(states, found, labels[part], token_loss=token_loss, chunk_bytes=4000)
        (dft_token_loss(log_probs).sum() / TOKENS).backward()
    dft_token_loss(full(hidden.detach() + expected[ids], expected, labels)[0]).mean().backward()
    assert_same([found.grad], [expected.grad])


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("token_loss", [None, dft_token_loss])
@pytest.mark.parametrize("chunk_bytes", [2**20, 2000, 300])
def test_precision(chunk_bytes, token_loss, dtype, tolerance):
    """fp32 log-probs and no worse than what the matrix products of this dtype allow; gradients in the dtype."""
    hidden, weight, labels = inputs(dtype=dtype)
    log_probs, _ = head_log_probs(hidden, weight, labels, token_loss=token_loss, chunk_bytes=chunk_bytes)
    assert log_probs.dtype == torch.float32
    found = gradients(dft_token_loss(log_probs).sum(), hidden, weight)
    assert [gradient.dtype for gradient in found] == [dtype, dtype]
    expected = full(hidden, weight, labels)[0]
    assert_same([log_probs], [expected], tolerance)
    assert_same(found, gradients(dft_token_loss(expected).sum(), hidden, weight), tolerance)


def test_half_precision_sums_over_chunks_in_fp32(recomputed):
    """1,024 equal contributions of a token each: in bf16 the sum would stop growing at 256 of them."""
    hidden = torch.ones(1024, 1, dtype=torch.bfloat16)
    weight = torch.zeros(2, 1, dtype=torch.bfloat16, requires_grad=True)
    labels = torch.zeros(1024, dtype=torch.long)
    log_probs, _ = head_log_probs(hidden, weight, labels, token_loss=sft_token_loss, chunk_bytes=16)
    (-log_probs.sum()).backward()
    assert weight.grad.flatten().tolist() == [-512.0, 512.0]
    assert not recomputed


def test_improbable_tokens_keep_their_log_probability():
    """exp(-200) is no fp32 number; its logarithm is."""
    weight = torch.tensor([[200.0], [0.0], [-300.0]], requires_grad=True)
    log_probs, _ = head_log_probs(torch.ones(3, 1), weight, torch.tensor([0, 1, 2]), token_loss=sft_token_loss)
    assert log_probs.tolist() == [0.0, -200.0, -500.0]
    assert torch.equal(gradients(-log_probs.sum(), weight)[0], torch.tensor([[2.0], [-1.0], [-1.0]]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("temperature", [1.0, 0.6, "of each token"])
def test_kept_logits_give_what_computing_them_again_gives(temperature, dtype):
    """A second backward pass has none that were kept."""
    hidden, weight, labels = inputs(dtype=dtype)
    if temperature == "of each token":
        temperature = torch.linspace(0.5, 2, TOKENS)
    log_probs, entropy = head_log_probs(hidden, weight, labels, temperature=temperature, with_entropy=True)
    loss = (weights_of_tokens(TOKENS) * log_probs).sum() - 0.1 * entropy.sum()
    from_kept = torch.autograd.grad(loss, [hidden, weight], retain_graph=True)
    assert_same(from_kept, torch.autograd.grad(loss, [hidden, weight]), 0.0)


@pytest.mark.parametrize("chunk_bytes, products", [(2**20, 3), (5000, 4)])
def test_logits_that_are_one_chunk_are_computed_once(chunk_bytes, products):
    hidden, weight, labels = inputs(dtype=torch.float32)
    with FlopCounterMode(display=False) as counted:
        dft_token_loss(head_log_probs(hidden, weight, labels, chunk_bytes=chunk_bytes)[0]).sum().backward()
    assert counted.get_total_flops() == products * 2 * TOKENS * VOCABULARY * CHANNELS


def test_under_autocast_nothing_is_rounded_further():
    hidden, weight, labels = inputs(dtype=torch.float32)
    plain = head_log_probs(hidden, weight, labels, token_loss=dft_token_loss)[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = head_log_probs(hidden, weight, labels, token_loss=dft_token_loss)[0]
        found = gradients(dft_token_loss(inside).sum(), hidden, weight)
    assert torch.equal(plain, inside)
    assert_same(found, gradients(dft_token_loss(plain).sum(), hidden, weight), 0.0)


class LargestAllocation(TorchDispatchMode):
    """Bytes of the largest new storage that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {x.untyped_storage().data_ptr() for x in args if isinstance(x, torch.Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in given:
                self.bytes = max(self.bytes, x.untyped_storage().nbytes())
        return result


@pytest.mark.parametrize("token_loss", [None, dft_token_loss])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_never_more_than_a_chunk_of_logits(monkeypatch, dtype, token_loss):
    monkeypatch.setattr(loss_head, "_CACHED_ELEMENTS", 4096)
    tokens, vocabulary, channels, chunk_bytes = 512, 4096, 4, 2**18
    hidden = torch.randn(tokens, channels).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, channels).to(dtype).requires_grad_()
    labels = torch.randint(0, vocabulary, (tokens,))
    with LargestAllocation() as largest:
        log_probs, _ = head_log_probs(
            hidden, weight, labels, token_loss=token_loss, with_entropy=True, chunk_bytes=chunk_bytes
        )
        dft_token_loss(log_probs).sum().backward()
    assert tokens * vocabulary * weight.element_size() >= 16 * chunk_bytes
    assert chunk_bytes // 2 < largest.bytes <= chunk_bytes


@pytest.mark.parametrize(
    "change", [{"weight": torch.zeros(3, 5)}, {"labels": torch.zeros(2, dtype=torch.long)}], ids=["dtype", "labels"]
)
def test_inputs_that_do_not_fit_are_refused(change):
    given = {"hidden_states": torch.zeros(4, 5, dtype=torch.float64), "weight": torch.zeros(3, 5, dtype=torch.float64)}
    given |= {"labels": torch.zeros(4, dtype=torch.long)} | change
    with pytest.raises(ValueError, match="expected"):
        head_log_probs(**given)
