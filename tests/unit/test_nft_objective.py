"""The NFT loss against the published code's values, GRPO's gradient, and a few lines written here."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from verl_ext.objectives.nft import nft_token_loss

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "nft_reference.json").read_text())["cases"]
PROMPT_WEIGHTS = ("uniform", "dr_grpo", "grpo")
"""The published code's `normalize` 0, 1, 2."""


@pytest.mark.parametrize("case", GOLDEN, ids=range(len(GOLDEN)))
def test_token_ratio_equals_the_published_code(case):
    log_prob = torch.tensor(case["log_prob"], dtype=torch.float64, requires_grad=True)
    mask = torch.tensor(case["response_mask"], dtype=torch.float64)
    losses = nft_token_loss(
        log_prob,
        torch.tensor(case["old_log_prob"], dtype=torch.float64),
        torch.tensor(case["correct"]),
        torch.tensor(case["correct_rate"], dtype=torch.float64),
        neg_weight=case["neg_weight"],
        eps=case["clamp_negative"],
        positive_floor=case["clamp_positive"],
        prompt_weight=PROMPT_WEIGHTS[case["normalize"]],
    )
    loss = (losses * mask).sum()
    loss.backward()
    masked = (losses * mask).detach()
    assert torch.allclose(masked, torch.tensor(case["token_loss"], dtype=torch.float64), atol=1e-12, rtol=0)
    assert loss.item() == pytest.approx(case["loss_sum"], abs=1e-11)
    expected = torch.tensor(case["grad_log_prob"], dtype=torch.float64)
    assert torch.allclose(log_prob.grad, expected, atol=1e-12, rtol=1e-13)  # gradients reach 280


def written_out(log_ratio: float, correct: bool, rate: float, *, neg_weight: float, eps: float, weight: str) -> float:
    ratio = math.exp(log_ratio)
    w = {"uniform": 1.0, "dr_grpo": 1 - rate, "grpo": math.sqrt((1 - rate) / rate)}[weight]
    if correct:
        return -w * math.log(ratio)
    return -w * neg_weight * math.log(max((1 - rate * ratio) / (1 - rate), eps))


@pytest.mark.parametrize("weight", PROMPT_WEIGHTS)
@pytest.mark.parametrize("ratio", ["sequence", "sequence_mean"])
@pytest.mark.parametrize("eps", [1.0, 0.1])
def test_a_sequence_ratio_gives_every_token_its_responses_loss(weight, ratio, eps):
    difference = torch.tensor([[0.1, -0.3, 9.0], [0.2, 0.4, -0.1], [-0.2, 5.0, 5.0]], dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    old = torch.full_like(difference, -1.0)
    correct, rate = [True, False, False], [0.25, 0.25, 0.75]
    losses = nft_token_loss(
        old + difference,
        old,
        torch.tensor(correct),
        torch.tensor(rate, dtype=torch.float64),
        neg_weight=0.5,
        eps=eps,
        prompt_weight=weight,
        ratio=ratio,
        response_mask=mask,
    )
    for row in range(3):
        log_ratio = (difference[row] * mask[row]).sum().item()
        if ratio == "sequence_mean":
            log_ratio /= mask[row].sum().item()
        expected = written_out(log_ratio, correct[row], rate[row], neg_weight=0.5, eps=eps, weight=weight)
        assert losses[row].tolist() == pytest.approx([expected] * 3, abs=1e-12)


@pytest.mark.parametrize("weight", ["grpo", "dr_grpo"])
@pytest.mark.parametrize("eps", [1.0, 0.1])
def test_on_policy_the_gradient_is_that_of_grpo(weight, eps):
    """Prop. 4.2: theta = theta_old, rewards 0 and 1, population standard deviation, the same sum over tokens."""
    rewards = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0], dtype=torch.float64)
    log_prob = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    rate = rewards.mean().expand(8)
    nft_token_loss(log_prob, log_prob.detach(), rewards, rate, eps=eps, prompt_weight=weight).sum().backward()
    advantages = rewards - rewards.mean()
    if weight == "grpo":
        advantages = advantages / rewards.std(correction=0)
    assert torch.allclose(log_prob.grad, -advantages[:, None].expand(8, 5), atol=1e-14)


def test_without_negatives_it_is_rft():
    log_prob = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    old = log_prob.detach() - 0.3
    correct, rate = torch.tensor([1, 0, 1, 0]), torch.full((4,), 0.5, dtype=torch.float64)
    nft_token_loss(log_prob, old, correct, rate, neg_weight=0, prompt_weight="uniform").sum().backward()
    assert torch.equal(log_prob.grad, -correct[:, None].expand(4, 3).double())


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_a_group_that_is_all_right_or_all_wrong_contributes_exactly_nothing(rate):
    log_prob = torch.tensor([[-0.1, -900.0, 0.0]], dtype=torch.float64, requires_grad=True)
    losses = nft_token_loss(log_prob, torch.zeros(1, 3), torch.tensor([rate]), torch.tensor([rate]))
    losses.sum().backward()
    assert not losses.detach().any()
    assert not log_prob.grad.any()


def test_a_ratio_that_explodes_is_held_at_e_to_the_ten_without_gradient():
    log_prob = torch.tensor([[50.0, 0.0]], requires_grad=True)
    losses = nft_token_loss(
        log_prob, torch.zeros(1, 2), torch.tensor([1]), torch.tensor([0.5]), prompt_weight="uniform"
    )
    losses.sum().backward()
    assert losses[0, 0].item() == pytest.approx(-10.0)
    assert log_prob.grad.tolist() == [[0.0, -1.0]]


def test_a_correct_token_that_became_impossible_is_still_pulled_up():
    log_prob = torch.tensor([[-500.0]], requires_grad=True)
    nft_token_loss(
        log_prob, torch.zeros(1, 1), torch.tensor([1]), torch.tensor([0.5]), prompt_weight="uniform"
    ).sum().backward()
    assert log_prob.grad.tolist() == [[-1.0]]


def test_losses_are_fp32_or_wider():
    half = torch.zeros(1, 2, dtype=torch.bfloat16)
    assert nft_token_loss(half, half, torch.tensor([1]), torch.tensor([0.5])).dtype == torch.float32


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prompt_weight": "drgrpo"}, "prompt_weight: got 'drgrpo'"),
        ({"ratio": "seq"}, "ratio: got 'seq'"),
        ({"neg_weight": -1.0}, "neg_weight: got -1.0"),
        ({"eps": 0.0}, "eps: got 0.0"),
        ({"ratio": "sequence"}, "response_mask: not given"),
    ],
)
def test_an_option_that_cannot_work_is_named(options, message):
    zeros = torch.zeros(1, 2)
    with pytest.raises(ValueError, match=message):
        nft_token_loss(zeros, zeros, torch.tensor([1]), torch.tensor([0.5]), **options)


@pytest.mark.parametrize("eps", [1.0, 0.01])
def test_a_small_eps_survives_a_large_ratio_in_fp32(eps):
    """(1 - r R) / (1 - r) is about -10^6 there; next to it 0.01 is nothing in fp32."""
    log_prob = torch.tensor([[10.0]], requires_grad=True)
    loss = nft_token_loss(log_prob, torch.zeros(1, 1), torch.tensor([0]), torch.tensor([0.98]), eps=eps)
    loss.sum().backward()
    assert loss.item() == pytest.approx(-0.02 * math.log(eps), rel=1e-6)
    assert log_prob.grad.item() == pytest.approx(0.98 * math.exp(10) / eps, rel=1e-5)
