"""Correctness and correct rate, as an advantage and back."""

from __future__ import annotations

import pytest
import torch
from verl.workers.utils.padding import response_to_nested

from verl_ext.objectives.nft_advantage import LARGEST_EXACT_GROUP, correctness, decode_advantage, encode_advantage

# Every k of n that holds both right and wrong answers, each once with a right and once with a wrong response.
GROUPS = [(k, n) for n in range(2, LARGEST_EXACT_GROUP + 1) for k in range(1, n)]
CORRECT = torch.tensor([True, False]).repeat_interleave(len(GROUPS))


def rates(dtype: torch.dtype) -> torch.Tensor:
    return torch.tensor([k / n for k, n in GROUPS], dtype=dtype).repeat(2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_k_of_n_comes_back_to_the_last_bit(dtype):
    correct, rate = decode_advantage(encode_advantage(CORRECT, rates(dtype)))
    assert torch.equal(correct, CORRECT)
    assert rate.dtype == dtype
    assert torch.equal(rate, rates(dtype))


def test_rates_that_are_means_of_rewards_come_back_as_k_of_n():
    """As an estimator computes them, in fp32, by a sum and a division in whatever order."""
    rewards = torch.zeros(len(GROUPS), LARGEST_EXACT_GROUP)
    sizes = torch.tensor([n for _, n in GROUPS])
    for row, (k, _) in enumerate(GROUPS):
        rewards[row, :k] = 1
    mean = (rewards / sizes[:, None]).sum(-1)
    _, rate = decode_advantage(encode_advantage(CORRECT, mean.repeat(2)))
    assert torch.equal(rate, rates(torch.float32))


def test_what_verl_does_on_the_way_leaves_them_exact():
    """Spread over tokens, multiplied by the mask, cut to nested rows, padded again; some tokens are masked out."""
    length = 5
    generator = torch.Generator().manual_seed(0)
    mask = torch.rand(len(CORRECT), length, generator=generator) < 0.6
    mask[:, 3] = True
    spread = encode_advantage(CORRECT, rates(torch.float32)).unsqueeze(-1) * mask
    lengths = torch.randint(4, length + 1, (len(CORRECT),), generator=generator)
    whole = torch.nested.as_nested_tensor([torch.ones(int(n)) for n in lengths], layout=torch.jagged)
    received = torch.nested.to_padded_tensor(response_to_nested(spread, whole), 0.0)
    correct, rate = decode_advantage(received)
    assert torch.equal(correct, CORRECT)
    assert torch.equal(rate, rates(torch.float32))


@pytest.mark.parametrize("right", [True, False])
def test_a_group_without_signal_comes_back_as_one_whose_loss_is_zero(right):
    advantages = encode_advantage(torch.tensor([right]), torch.tensor([float(right)]))
    correct, rate = decode_advantage(advantages)
    assert (advantages.item(), correct.item(), rate.item()) == (0.0, False, 0.0)


def test_larger_groups_come_back_within_rounding():
    sizes = torch.tensor([129.0, 1000.0, 4096.0])
    rate = torch.cat([1 / sizes, (sizes - 1) / sizes, 37 / sizes])
    correct = torch.tensor([True, False, True]).repeat_interleave(3)
    decoded, back = decode_advantage(encode_advantage(correct, rate))
    assert torch.equal(decoded, correct)
    assert (back - rate).abs().max() < 2**-21


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(dtype):
    with pytest.raises(ValueError, match="advantages: got torch"):
        decode_advantage(torch.zeros(2, dtype=dtype))


@pytest.mark.parametrize("value", [1.7, -3.0, float("nan")])
def test_an_advantage_of_another_kind_is_refused(value):
    with pytest.raises(ValueError, match="advantages: beyond -1 to 1"):
        decode_advantage(torch.tensor([0.5, value]))


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ([0, 1, 1], [False, True, True]),
        ([-1.0, 1.0], [False, True]),
        ([True, False], [True, False]),
        ([0.0, 0.0], [False, False]),
        ([-1, -1], [False, False]),
        ([1, 1], [True, True]),
    ],
)
def test_rewards_of_either_coding_say_which_responses_are_correct(rewards, expected):
    assert correctness(torch.tensor(rewards)).tolist() == expected


@pytest.mark.parametrize(
    ("rewards", "found"),
    [([1.0, 0.5], "0.5"), ([-1, 0, 1], "both 0 and -1"), ([1.0, float("nan")], "nan"), ([2, 1], "2")],
)
def test_shaped_rewards_are_refused(rewards, found):
    with pytest.raises(ValueError, match=f"0 and 1, or -1 and \\+1; found {found}$"):
        correctness(torch.tensor(rewards))
