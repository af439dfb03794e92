"""Numbers about an NFT update that add up over micro-batches and ranks to those of the whole batch."""

from __future__ import annotations

import torch
from torch import Tensor

from verl_ext.objectives.nft import CORRECT_RATE_BOUNDS, negative_policy_ratio, policy_log_ratio
from verl_ext.objectives.nft_config import NFTConfig

RATIO_QUANTILES = (0.01, 0.5, 0.99)

_SUMS = ("positive_tokens", "negative_tokens", "positive_loss", "negative_loss", "clipped_tokens")

# Log ratios are counted in 257 bins that are finest around 0, where the two policies agree:
# bin i is around 1e-4 sinh(0.1 i), so the outermost ones are around -18 and 18.
_FINEST, _GROWTH, _BINS_A_SIDE = 1e-4, 0.1, 128

STATISTICS_SIZE = len(_SUMS) + 2 * _BINS_A_SIDE + 1


@torch.no_grad()
def nft_statistics(
    losses: Tensor,
    log_prob: Tensor,
    old_log_prob: Tensor,
    correct: Tensor,
    correct_rate: Tensor,
    response_mask: Tensor,
    config: NFTConfig,
) -> Tensor:
    """Sums over the response tokens of groups that have both right and wrong answers.

    Args:
        losses: what `nft_token_loss` returned, (batch, response_length), not reduced.
        log_prob, old_log_prob, correct, correct_rate, response_mask: what it was given.
        config: the settings it was given.

    Returns:
        (STATISTICS_SIZE,), fp64, without gradient. The sum of several is that of all: see `nft_metrics`.
    """
    rate = correct_rate.unsqueeze(-1)
    counted = response_mask.bool() & (rate > 0) & (rate < 1)
    is_correct = correct.bool().unsqueeze(-1)
    log_ratio = policy_log_ratio(log_prob, old_log_prob, ratio=config.ratio, response_mask=response_mask)
    policy_ratio = log_ratio.exp()
    negative_ratio = negative_policy_ratio(policy_ratio, rate.to(policy_ratio.dtype).clamp(*CORRECT_RATE_BOUNDS))
    clipped = torch.where(is_correct, policy_ratio < config.positive_floor, negative_ratio < config.eps)
    positive, negative = counted & is_correct, counted & ~is_correct
    sums = [
        positive.sum(),
        negative.sum(),
        torch.where(positive, losses, 0.0).sum(dtype=torch.float64),
        torch.where(negative, losses, 0.0).sum(dtype=torch.float64),
        (counted & clipped).sum(),
    ]
    bins = (log_ratio[counted] / _FINEST).asinh().div(_GROWTH).round().clamp(-_BINS_A_SIDE, _BINS_A_SIDE)
    histogram = torch.bincount(bins.long() + _BINS_A_SIDE, minlength=2 * _BINS_A_SIDE + 1)
    return torch.cat([torch.stack([value.double() for value in sums]), histogram.double()])


def nft_metrics(statistics: Tensor) -> dict[str, float]:
    """Shares and means per token, and quantiles, from the sum of any number of `nft_statistics`.

    Args:
        statistics: (STATISTICS_SIZE,).

    Returns:
        positive_token_share: tokens of correct answers among all.
        positive_loss, negative_loss: mean loss of a token of a correct, of a wrong answer.
        clipped_share: tokens whose ratio was below its smallest value: that of the policy in a correct answer
            (`positive_floor`), that of the negative policy in a wrong one (`eps`).
        ratio_p1, ratio_p50, ratio_p99: quantiles over tokens of pi / pi_old, whose logarithm is right to 5 % or 5e-6.

        Where no token was counted, shares and losses are 0 and ratios 1.
    """
    statistics = statistics.cpu()
    sums = dict(zip(_SUMS, statistics.tolist(), strict=False))
    positive, negative = sums["positive_tokens"], sums["negative_tokens"]
    tokens = max(positive + negative, 1.0)
    return {
        "positive_token_share": positive / tokens,
        "positive_loss": sums["positive_loss"] / max(positive, 1.0),
        "negative_loss": sums["negative_loss"] / max(negative, 1.0),
        "clipped_share": sums["clipped_tokens"] / tokens,
        **{f"ratio_p{100 * q:g}": _ratio_quantile(statistics[len(_SUMS) :], q) for q in RATIO_QUANTILES},
    }


def _ratio_quantile(histogram: Tensor, quantile: float) -> float:
    counts = histogram.cumsum(0)
    if not counts[-1]:
        return 1.0
    index = int(torch.searchsorted(counts, quantile * counts[-1]))
    return torch.tensor(_GROWTH * (index - _BINS_A_SIDE), dtype=torch.float64).sinh().mul(_FINEST).exp().item()
