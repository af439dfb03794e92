"""Negative-aware Fine-Tuning (arXiv 2505.18116): supervised learning on right and on wrong answers."""

from __future__ import annotations

import torch
from torch import Tensor

from verl_ext.objectives.nft_config import NFTConfig, PromptWeight, Ratio

MAX_LOG_RATIO = 10.0
"""Beyond it a ratio stays at e^10 and has no gradient, as in the published code."""
CORRECT_RATE_BOUNDS = (0.02, 0.98)
"""A group's correct rate is kept within them, as in the published code; up to 50 answers a group reach neither."""


def nft_token_loss(
    log_prob: Tensor,
    old_log_prob: Tensor,
    correct: Tensor,
    correct_rate: Tensor,
    *,
    neg_weight: float = 1.0,
    eps: float = 1.0,
    prompt_weight: PromptWeight = "dr_grpo",
    ratio: Ratio = "token",
    response_mask: Tensor | None = None,
    positive_floor: float = 0.0,
) -> Tensor:
    """NFT loss of each response token (arXiv 2505.18116, Eq. 10).

    With R = pi(a|q) / pi_old(a|q), r the correct rate of the group and c whether the answer is correct:

        loss = -w(r) * [ c * log max_v(R, positive_floor) + neg_weight * (1 - c) * log max_v((1 - r R) / (1 - r), eps) ]
        max_v(x, m) = stop_gradient(max(x, m) - x) + x        the value is clipped, the gradient passes

    (1 - r R) / (1 - r) is the ratio of the implicit negative policy, which together with the positive one makes up
    the old policy. Where R = 1 and eps <= 1 the gradient is that of GRPO (prompt_weight="grpo", population standard
    deviation) or Dr. GRPO ("dr_grpo").

    Args:
        log_prob, old_log_prob: log pi and log pi_old of the response tokens, (batch, response_length), natural log.
        correct: whether each response is correct, (batch,), bool or 0/1.
        correct_rate: share of correct answers in the group of each response, (batch,), from 0 to 1.
        neg_weight: weight of wrong answers; 0 is RFT, which learns from correct ones alone.
        eps: smallest ratio of the negative policy (published as `clamp_negative`).
        prompt_weight: w(r): "uniform" 1, "dr_grpo" 1 - r, "grpo" sqrt((1 - r) / r).
        ratio: R of each "token"; of the whole "sequence", the exponential of the masked sum of log differences; or
            "sequence_mean", of their masked mean. With the last two every token holds its response's loss.
        response_mask: 1 where a token belongs to the response, (batch, response_length); needed by the last two.
        positive_floor: smallest ratio of a correct answer (published as `clamp_positive`).

    Returns:
        (batch, response_length), fp32 (fp64 stays fp64). Not masked, not reduced. Zero where all or none of a group
        is correct.

    Raises:
        ValueError: an unknown name, a negative weight, or a sequence ratio without response_mask.
    """
    NFTConfig(neg_weight=neg_weight, eps=eps, positive_floor=positive_floor, prompt_weight=prompt_weight, ratio=ratio)
    if ratio != "token" and response_mask is None:
        raise ValueError(f"response_mask: not given, needed by ratio={ratio!r}")
    log_ratio = policy_log_ratio(log_prob, old_log_prob, ratio=ratio, response_mask=response_mask)
    given_rate = correct_rate.to(log_ratio.dtype).unsqueeze(-1)  # (batch, 1)
    teaches = (given_rate > 0) & (given_rate < 1)
    log_ratio = torch.where(teaches, log_ratio, 0.0)
    policy_ratio = log_ratio.exp()
    rate = given_rate.clamp(*CORRECT_RATE_BOUNDS)

    # Without a floor log R is log_ratio itself, which also holds where R is too small for a float.
    positive_loss = -_log_max_value(policy_ratio, positive_floor) if positive_floor else -log_ratio
    negative_loss = -neg_weight * _log_max_value(negative_policy_ratio(policy_ratio, rate), eps)
    is_correct = correct.to(torch.bool).unsqueeze(-1)
    losses = torch.where(is_correct, positive_loss, negative_loss) * _prompt_weight(rate, prompt_weight)
    return torch.where(teaches, losses, 0.0)


def policy_log_ratio(
    log_prob: Tensor, old_log_prob: Tensor, *, ratio: Ratio, response_mask: Tensor | None = None
) -> Tensor:
    """log R of each token as `nft_token_loss` has it, at most MAX_LOG_RATIO.

    Args:
        see `nft_token_loss`.

    Returns:
        (batch, response_length), fp32 or wider.
    """
    dtype = torch.promote_types(log_prob.dtype, torch.float32)
    log_ratio = log_prob.to(dtype) - old_log_prob.to(dtype)
    if ratio != "token":
        log_ratio = _of_sequences(log_ratio, response_mask, mean=ratio == "sequence_mean")
    return log_ratio.clamp(max=MAX_LOG_RATIO)


def negative_policy_ratio(policy_ratio: Tensor, rate: Tensor) -> Tensor:
    """(1 - r R) / (1 - r), for R and r that broadcast."""
    return (1 - rate * policy_ratio) / (1 - rate)


def _log_max_value(x: Tensor, smallest: float) -> Tensor:
    """log max_v(x, smallest).

    The straight-through term is zero in value and added behind the logarithm: inside, as the equation has it, an x of
    -10^6 would swallow a small `smallest` in fp32, and the logarithm would be that of zero.
    """
    held = x.detach().clamp(min=smallest)
    return held.log() + (x - x.detach()) / held


def _of_sequences(log_ratio: Tensor, response_mask: Tensor, *, mean: bool) -> Tensor:
    mask = response_mask.to(log_ratio.dtype)
    total = torch.where(mask.bool(), log_ratio, 0.0).sum(-1, keepdim=True)
    if mean:
        total = total / mask.sum(-1, keepdim=True).clamp(min=1)
    return total.expand_as(log_ratio)


def _prompt_weight(rate: Tensor, name: PromptWeight) -> Tensor | float:
    if name == "uniform":
        return 1.0
    return 1 - rate if name == "dr_grpo" else ((1 - rate) / rate).sqrt()
