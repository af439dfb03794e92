"""What NFT must know of a response, in the one number a response that verl carries: its advantage.

With c = 1 for a correct response and 0 for a wrong one, and r the share of correct ones in its group, A = c - r is
the advantage of Dr. GRPO, and holds both: c = (A > 0), and r = 1 - A or -A. So NFT needs no field of its own on the
way from the grader through the replay buffer to the policy loss.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

LARGEST_EXACT_GROUP = 128
"""Up to this many responses a group, a rate comes back to the last bit."""

_ROUNDING = 2.0**-22
"""More than what fp32 loses in c - r, and far less than two rates k/n differ by."""


def correctness(rewards: Tensor) -> Tensor:
    """Whether each response is correct, from rewards of 0 and 1 or of -1 and +1.

    Args:
        rewards: any shape, bool or number.

    Returns:
        bool, same shape.

    Raises:
        ValueError: rewards of another kind, such as those with a length penalty in them, named by the first one.
    """
    values = rewards.to(torch.promote_types(rewards.dtype, torch.float32))
    right = values == 1
    for wrong in (0, -1):
        if bool((right | (values == wrong)).all()):
            return right
    known = right | (values == 0) | (values == -1)
    found = "both 0 and -1" if bool(known.all()) else f"{values[~known].flatten()[0].item():g}"
    raise ValueError(f"rewards must be 0 and 1, or -1 and +1; found {found}")


def encode_advantage(correct: Tensor, correct_rate: Tensor) -> Tensor:
    """A = c - r.

    Args:
        correct: whether each response is correct, (batch,), bool or 0/1.
        correct_rate: share of correct responses in the group of each, (batch,).

    Returns:
        (batch,), fp32 (fp64 with an fp64 rate). Zero where all or none of a group is correct.
    """
    dtype = torch.promote_types(correct_rate.dtype, torch.float32)
    return correct.to(dtype) - correct_rate.to(dtype)


def decode_advantage(advantages: Tensor) -> tuple[Tensor, Tensor]:
    """The inverse of `encode_advantage`; exact for groups of up to `LARGEST_EXACT_GROUP` responses.

    Args:
        advantages: (batch,), or (batch, response_length) as verl spreads them: one value a response, and 0 where a
            mask or padding has erased it. fp32 or wider.

    Returns:
        correct, (batch,), bool, and correct_rate, (batch,), in the dtype given. A response of a group without signal,
        whose advantage is zero, comes back as wrong with a rate of 0, and its loss is zero.

    Raises:
        ValueError: half precision, in which rates of large groups cannot be told apart, or values beyond -1 to 1,
            which are no advantages of this kind.
    """
    if advantages.dtype not in (torch.float32, torch.float64):
        raise ValueError(f"advantages: got {advantages.dtype}, expected fp32 or fp64")
    if advantages.dim() == 2:
        largest = advantages.abs().argmax(-1, keepdim=True)
        advantages = advantages.gather(-1, largest).squeeze(-1)
    if not bool((advantages.abs() <= 1).all()):
        raise ValueError("advantages: beyond -1 to 1, expected correctness minus the correct rate of the group")
    correct = advantages > 0
    rate = torch.where(correct, 1 - advantages.double(), -advantages.double())
    return correct, _to_rate(rate).to(advantages.dtype)


def _to_rate(rate: Tensor) -> Tensor:
    """The k/n within rounding of each rate, where there is one with n up to `LARGEST_EXACT_GROUP`."""
    rates = _rates(rate.device)
    above = torch.searchsorted(rates, rate).clamp(1, len(rates) - 1)
    below = above - 1
    nearest = torch.where(rate - rates[below] < rates[above] - rate, rates[below], rates[above])
    return torch.where((nearest - rate).abs() < _ROUNDING, nearest, rate)


@lru_cache(maxsize=8)
def _rates(device: torch.device) -> Tensor:
    """All k/n, in order, fp64."""
    sizes = torch.arange(1, LARGEST_EXACT_GROUP + 1, dtype=torch.float64)
    rates = sizes[:, None] / sizes
    return torch.cat([torch.zeros(1, dtype=torch.float64), rates[rates <= 1].unique()]).to(device)
