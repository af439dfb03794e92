"""NFT under verl's two names: advantage estimator `nft` and policy loss `nft` (see `registration.register_algorithms`).

They are registered when verl's registry of algorithms is imported, in the driver and in every worker.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor
from verl.workers.config.actor import PolicyLossConfig

from verl_ext.objectives.nft import nft_token_loss
from verl_ext.objectives.nft_advantage import correctness, decode_advantage, encode_advantage
from verl_ext.objectives.nft_config import NFTConfig
from verl_ext.objectives.nft_reduction import published_sum
from verl_ext.objectives.nft_statistics import STATISTICS_SIZE, nft_metrics, nft_statistics

NAME = "nft"
_STATISTIC = "nft_statistic/"


@dataclass
class NFTPolicyLossConfig(PolicyLossConfig):
    """verl's `actor.policy_loss` with the fields of `NFTConfig`, and with the published reduction.

    Raises:
        ValueError: a value that cannot work; its message begins with the name of the field.
    """

    neg_weight: float = 1.0
    eps: float = 1.0
    positive_floor: float = 0.0
    prompt_weight: str = "dr_grpo"
    ratio: str = "token"
    reduction: str | None = None
    """None: verl's `actor.loss_agg_mode`. "published": each rank's sum over tokens (or sequences) / 1000."""

    def __post_init__(self) -> None:
        self.nft()
        if self.reduction not in (None, "published"):
            raise ValueError(f"reduction: got {self.reduction!r}, expected null or published")

    def nft(self) -> NFTConfig:
        """The objective's own settings."""
        return NFTConfig(**{field.name: self[field.name] for field in fields(NFTConfig)})


def compute_nft_advantage(
    token_level_rewards: Tensor, response_mask: Tensor, index: np.ndarray, config: Any = None, **_: Any
) -> tuple[Tensor, Tensor]:
    """A = c - r_q from correctness: c of a response, r_q the mean of c over the responses to the same prompt.

    Args:
        token_level_rewards: rewards that sum to 0/1 or -1/+1 over each response, (batch, response_length).
        response_mask: (batch, response_length); a row without any token is padding and belongs to no group.
        index: name of each response's prompt, (batch,).

    Returns:
        Advantages, and the same again as returns, (batch, response_length), fp32; 0 outside the mask.

    Raises:
        ValueError: rewards of another kind, such as those shaped by a length penalty.
    """
    rewards = token_level_rewards.sum(-1)
    is_real = response_mask.bool().any(-1)
    correct = torch.zeros_like(rewards)
    correct[is_real] = correctness(rewards[is_real]).to(correct.dtype)
    advantages = torch.zeros_like(correct)
    for prompt in np.unique(index):
        group = torch.from_numpy(index == prompt) & is_real
        if group.any():
            rate = correct[group].double().mean().expand(int(group.sum()))
            advantages[group] = encode_advantage(correct[group], rate).to(advantages.dtype)
    advantages = advantages.unsqueeze(-1) * response_mask
    return advantages, advantages


def compute_policy_loss_nft(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config: Any = None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """NFT's loss of a micro-batch (see `nft_token_loss`), reduced so that micro-batches and ranks add up.

    Args:
        old_log_prob, log_prob: (batch, response_length), natural log.
        advantages: of the estimator `nft`, (batch, response_length), fp32.
        response_mask: (batch, response_length).
        loss_agg_mode: verl's, over the global batch.
        config: verl's ActorConfig; its `policy_loss` is an `NFTPolicyLossConfig`.
        rollout_is_weights: importance weights between actor and rollout, (batch, response_length), or None.

    Returns:
        The loss, and statistics for `read_statistics`.
    """
    from verl.trainer.ppo.core_algos import agg_loss  # the registry's module, whose import needs this one complete

    settings = config.policy_loss.nft()
    correct, correct_rate = decode_advantage(advantages)
    losses = nft_token_loss(
        log_prob, old_log_prob, correct, correct_rate, response_mask=response_mask, **asdict(settings)
    )
    statistics = nft_statistics(
        losses.detach(), log_prob.detach(), old_log_prob, correct, correct_rate, response_mask, settings
    )
    if rollout_is_weights is not None:
        losses = losses * rollout_is_weights
    if config.policy_loss.reduction == "published":
        loss = published_sum(losses, response_mask, settings.ratio)
    else:
        loss = agg_loss(losses, response_mask, loss_agg_mode, **config.global_batch_info)
    return loss, {f"{_STATISTIC}{i}": value for i, value in enumerate(statistics.tolist())}


def read_statistics(metrics: dict[str, Any], prefix: str = "actor/") -> dict[str, float]:
    """Take the statistics of `compute_policy_loss_nft` out of verl's metrics and return what they say.

    verl averages each over micro-batches, ranks and optimizer steps. All are sums with as many terms, so their
    ratios are those of the whole batch.
    """
    names = [f"{prefix}{_STATISTIC}{i}" for i in range(STATISTICS_SIZE)]
    if names[0] not in metrics:
        return {}
    sums = torch.tensor([float(metrics.pop(name)) for name in names], dtype=torch.float64)
    return {f"nft/{name}": value for name, value in nft_metrics(sums).items()}
