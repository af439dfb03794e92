"""Statistics of an NFT update: against a loop over tokens, and additive over parts of a batch."""

from __future__ import annotations

import math
from dataclasses import asdict

import pytest
import torch

from verl_ext.objectives.nft import nft_token_loss
from verl_ext.objectives.nft_config import NFTConfig
from verl_ext.objectives.nft_statistics import nft_metrics, nft_statistics

BATCH, LENGTH = 12, 9
RATES = [0.25] * 4 + [0.75] * 4 + [1.0, 0.0, 0.5, 0.5]
CORRECT = [True, False, False, False] + [True] * 3 + [False] + [True, False, True, False]


def batch(spread: float = 0.5):
    """log_prob, old_log_prob, correct, correct_rate, response_mask; two groups without signal among them."""
    generator = torch.Generator().manual_seed(0)
    old = -5 * torch.rand(BATCH, LENGTH, generator=generator)
    new = old + spread * torch.randn(BATCH, LENGTH, generator=generator)
    mask = torch.rand(BATCH, LENGTH, generator=generator) < 0.7
    mask[:, 0] = True
    return new, old, torch.tensor(CORRECT), torch.tensor(RATES), mask


def statistics(tensors, config: NFTConfig) -> torch.Tensor:
    *given, mask = tensors
    losses = nft_token_loss(*given, response_mask=mask, **asdict(config))
    return nft_statistics(losses, *given, mask, config)


def by_loop(tensors, config: NFTConfig) -> dict[str, float]:
    new, old, correct, rates, mask = tensors
    losses = {True: [], False: []}
    ratios, clipped = [], 0
    for row in range(BATCH):
        rate = rates[row].item()
        if rate in (0.0, 1.0):
            continue
        differences = (new[row] - old[row])[mask[row]].tolist()
        if config.ratio == "sequence":
            differences = [math.fsum(differences)] * len(differences)
        for difference in differences:
            ratio = math.exp(min(difference, 10.0))
            weight = 1 - rate
            if correct[row]:
                losses[True].append(-weight * math.log(max(ratio, config.positive_floor)))
                clipped += ratio < config.positive_floor
            else:
                negative = (1 - rate * ratio) / (1 - rate)
                losses[False].append(-weight * config.neg_weight * math.log(max(negative, config.eps)))
                clipped += negative < config.eps
            ratios.append(ratio)
    return {
        "positive_token_share": len(losses[True]) / len(ratios),
        "positive_loss": sum(losses[True]) / len(losses[True]),
        "negative_loss": sum(losses[False]) / len(losses[False]),
        "clipped_share": clipped / len(ratios),
        **{f"ratio_p{p}": sorted(ratios)[math.ceil(p / 100 * len(ratios)) - 1] for p in (1, 50, 99)},
    }


@pytest.mark.parametrize("spread", [1e-3, 0.5])
@pytest.mark.parametrize(
    "config",
    [NFTConfig(), NFTConfig(eps=0.3, positive_floor=0.8, neg_weight=0.5), NFTConfig(ratio="sequence")],
    ids=["defaults", "all clips", "sequence"],
)
def test_metrics_equal_a_loop_over_tokens(config, spread):
    tensors = batch(spread)
    metrics, expected = nft_metrics(statistics(tensors, config)), by_loop(tensors, config)
    assert metrics.keys() == expected.keys()
    for name, value in expected.items():
        if name.startswith("ratio"):
            assert math.log(metrics[name]) == pytest.approx(math.log(value), rel=0.051, abs=6e-6), name
        else:
            assert metrics[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_parts_add_up_to_the_whole():
    config = NFTConfig(eps=0.3)
    tensors = batch()
    parts = [statistics([tensor[rows] for tensor in tensors], config) for rows in torch.arange(BATCH).split(5)]
    assert torch.allclose(sum(parts), statistics(tensors, config), rtol=1e-6)


def test_on_policy_nothing_is_clipped_and_ratios_are_one():
    new, _, *rest = batch()
    metrics = nft_metrics(statistics([new, new, *rest], NFTConfig()))
    assert (metrics["clipped_share"], metrics["positive_loss"], metrics["negative_loss"]) == (0.0, 0.0, 0.0)
    assert [metrics[f"ratio_p{p}"] for p in (1, 50, 99)] == [1.0] * 3


def test_groups_without_signal_alone_give_numbers():
    new, old, correct, _, mask = batch()
    metrics = nft_metrics(statistics([new, old, correct, correct.float(), mask], NFTConfig()))
    assert metrics == {**{name: 0.0 for name in metrics}, **{f"ratio_p{p}": 1.0 for p in (1, 50, 99)}}
