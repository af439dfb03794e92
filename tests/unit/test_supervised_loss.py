"""Reductions of the token losses against the formulas written out."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu

from verl_ext.engine.fsdp import NUM_COUNTED
from verl_ext.objectives.dft import dft_token_loss
from verl_ext.objectives.objective import Needs, Objective, OfLogProbs
from verl_ext.objectives.registry import build_objective
from verl_ext.trainer.supervised.loss import supervised_loss

LENGTHS = [[4, 7], [3, 9], [5, 5], [8, 2]]
"""Tokens of the rows of each micro-batch; two ranks take two micro-batches each."""
DP_SIZE, ROWS_PER_MICRO, ROWS = 2, 2, 8


def micro_batch(lengths: list[int], seed: int, num_tokens: int):
    """A micro-batch as verl's engine hands it to the loss, with log-probs to differentiate by."""
    generator = torch.Generator().manual_seed(seed)
    log_probs = -5 * torch.rand(sum(lengths), dtype=torch.float64, generator=generator)
    log_probs.requires_grad_()
    masks = [torch.tensor([0] + [1] * (length - 1)) for length in lengths]
    offsets = torch.tensor([0, *lengths]).cumsum(0)
    data = tu.get_tensordict(
        {"loss_mask": torch.nested.as_nested_tensor(masks, layout=torch.jagged)},
        {
            "dp_size": DP_SIZE,
            "batch_num_tokens": num_tokens,
            "global_batch_size": ROWS,
            "micro_batch_size_per_gpu": ROWS_PER_MICRO,
        },
    )
    assert isinstance(data, TensorDict)
    output = {"log_probs": torch.nested.nested_tensor_from_jagged(log_probs, offsets)}
    learned = torch.cat([torch.arange(length) < length - 1 for length in lengths])  # the last token predicts nothing
    return output, data, log_probs, learned


@pytest.fixture
def batches():
    num_tokens = sum(length - 1 for lengths in LENGTHS for length in lengths)
    return [micro_batch(lengths, seed, num_tokens) for seed, lengths in enumerate(LENGTHS)]


def dft(log_probs):
    return -log_probs.detach().exp() * log_probs


def averaged_over_ranks(batches, reduction: str):
    """The loss whose gradient FSDP ends up with: a rank adds its micro-batches, ranks are averaged."""
    losses = [
        supervised_loss(output, data, objective=OfLogProbs(dft_token_loss), reduction=reduction)[0]
        for output, data, _, _ in batches
    ]
    return sum(losses) / DP_SIZE


def test_token_mean_weighs_every_learned_token_of_the_global_batch_alike(batches):
    loss = averaged_over_ranks(batches, "token_mean")
    expected = torch.cat([dft(log_probs)[learned] for _, _, log_probs, learned in batches]).mean()
    assert loss.item() == pytest.approx(expected.item(), abs=1e-14)
    gradients = torch.autograd.grad(loss, [b[2] for b in batches])
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, [b[2] for b in batches]), strict=True):
        assert torch.allclose(gradient, wanted, atol=1e-15)


def test_published_is_the_mean_over_micro_batches_of_their_means(batches):
    loss = averaged_over_ranks(batches, "published")
    means = [dft(log_probs)[learned].mean() for _, _, log_probs, learned in batches]
    assert loss.item() == pytest.approx((sum(means) / len(means)).item(), rel=1e-7)
    token_mean = averaged_over_ranks(batches, "token_mean")
    assert abs(loss.item() - token_mean.item()) > 1e-4, "the two reductions must differ on uneven micro-batches"


def test_sums_for_the_log(batches):
    output, data, log_probs, learned = batches[0]
    _, sums = supervised_loss(output, data, objective=OfLogProbs(dft_token_loss), reduction="token_mean")
    kept = log_probs.detach()[learned]
    assert sums["num_tokens"] == len(kept) == 9
    assert sums["sum_cross_entropy"] == pytest.approx(-kept.sum().item())
    assert sums["sum_prob"] == pytest.approx(kept.exp().sum().item())
    assert sums["sum_loss"] == pytest.approx(dft(kept).sum().item())


def test_tokens_that_are_not_learned_have_no_gradient_even_where_they_are_impossible():
    output, data, log_probs, learned = micro_batch([3, 2], 0, 3)
    with torch.no_grad():
        log_probs[~learned] = -torch.inf
    loss, _ = supervised_loss(output, data, objective=OfLogProbs(dft_token_loss), reduction="token_mean")
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert torch.isfinite(loss)
    assert torch.isfinite(gradient[learned]).all()


def test_what_is_counted_is_told_and_divides_the_published_mean(batches):
    """The engine divides the token mean by it, because it knows the number for the whole batch."""
    objective = build_objective("top_log_p", {"threshold": 0.1})
    output, data, log_probs, learned = batches[0]
    kept = learned & (log_probs.exp() >= 0.1)
    assert 0 < kept.sum() < learned.sum()
    loss, sums = supervised_loss(output, data, objective=objective, reduction="published")
    assert sums[NUM_COUNTED] == kept.sum()
    assert loss.item() == pytest.approx(-log_probs[kept].mean().item() / 2, rel=1e-7)  # of two micro-batches


def test_weights_multiply_the_losses_of_an_objective_that_does_not_ask_for_them(batches):
    output, data, log_probs, learned = batches[1]
    weights = torch.linspace(0, 2, 12, dtype=torch.float64)  # of each token; a loss stands one before its token
    data["weights"] = torch.nested.nested_tensor_from_jagged(weights, output["log_probs"].offsets())
    _, sums = supervised_loss(output, data, objective=OfLogProbs(dft_token_loss), reduction="token_mean")
    assert sums["sum_loss"] == pytest.approx((dft(log_probs) * weights.roll(-1))[learned].sum().item())

    class Squared(Objective):
        needs = Needs(weights=True)

        def token_losses(self, inputs):
            return inputs.weights**2

    _, sums = supervised_loss(output, data, objective=Squared(), reduction="token_mean")
    assert sums["sum_loss"] == pytest.approx((weights.roll(-1) ** 2)[learned].sum().item())


def test_rows_are_those_of_the_micro_batch(batches):
    output, data, log_probs, learned = batches[2]
    data["reference_log_probs"] = torch.nested.nested_tensor_from_jagged(
        torch.zeros(10, dtype=torch.float64), output["log_probs"].offsets()
    )
    objective = build_objective("iw_sft", {"exponent": 1.0})
    _, sums = supervised_loss(output, data, objective=objective, reduction="token_mean")
    rows = [log_probs[:4], log_probs[5:9]]  # without the last entry of each, which predicts nothing
    expected = sum((-row * row.mean().exp()).sum().item() for row in rows)
    assert learned.sum() == 8 and sums["sum_loss"] == pytest.approx(expected)
