"""The loss that verl's engine calls once a micro-batch of graded generations: NFT's token losses, masked and reduced."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from verl_ext.objectives.nft import nft_token_loss
from verl_ext.objectives.nft_config import NFTConfig
from verl_ext.objectives.nft_reduction import published_sum
from verl_ext.objectives.nft_statistics import nft_statistics
from verl_ext.trainer.supervised.loss import SUM_NAMES, sums_for_log

NFTReduction = Literal["token_mean", "response_mean", "published"]

NFT_SUM_NAMES = (*SUM_NAMES, "statistics")


def nft_offline_loss(
    model_output: dict[str, Tensor],
    data: TensorDict,
    dp_group: object = None,
    *,
    settings: NFTConfig,
    reduction: NFTReduction,
) -> tuple[Tensor, dict[str, Any]]:
    """Loss of one micro-batch, scaled so that the micro-batches of all ranks add up to the batch's loss.

    With N response tokens and B responses in the global batch, D data-parallel ranks (whose gradients FSDP averages),
    and sums over the micro-batch:

        token_mean:     D / N * sum_tokens loss_t
        response_mean:  D / B * sum_responses mean_t loss_t
        published:      sum_tokens loss_t / 1000, or with a sequence ratio sum_responses loss    the NFT repository's
                        own: the mean over ranks of sums over a rank, so its scale depends on tokens and on ranks

    Args:
        model_output: "log_probs", jagged (rows, tokens): entry t is log pi of token t + 1, fp32 or wider. If there is
            "entropy", laid out alike, its sum is returned too, as `sum_entropy`.
        data: a micro-batch of `RolloutDataset` rows, with verl's batch_num_tokens and dp_size, and with num_responses.
        dp_group: unused; part of verl's interface.
        settings: of the objective.
        reduction: see above.

    Returns:
        The loss, and NFT_SUM_NAMES for the log.
    """
    offsets = data["input_ids"].offsets()
    # Entry t predicts token t + 1: what belongs to a token moves one to the left. A row's first token is never
    # learned, so nothing crosses into another row. All below is (rows, longest row).
    log_probs = _padded(model_output["log_probs"].values(), offsets)
    learned = _padded(torch.roll(data["loss_mask"].values(), shifts=-1).bool(), offsets)
    old_log_probs = _padded(torch.roll(data["old_log_probs"].values(), shifts=-1), offsets)
    log_probs = torch.where(learned, log_probs, 0.0)
    given = (log_probs, old_log_probs, data["correct"].values(), data["correct_rate"].values())

    losses = nft_token_loss(*given, response_mask=learned, **asdict(settings))
    losses = torch.where(learned, losses, 0.0)
    sum_loss = losses.sum()
    if reduction == "token_mean":
        loss = sum_loss * (data["dp_size"] / data["batch_num_tokens"])
    elif reduction == "response_mean":
        response_losses = losses.sum(-1) / learned.sum(-1).clamp(min=1)
        loss = response_losses.sum() * (data["dp_size"] / data["num_responses"])
    else:
        loss = published_sum(losses, learned, settings.ratio)
    statistics = nft_statistics(losses.detach(), *given, learned, settings).cpu()
    sums = sums_for_log(sum_loss, log_probs, learned) | {"statistics": statistics}
    if "entropy" in model_output:
        entropy = _padded(model_output["entropy"].values().detach(), offsets)
        sums["sum_entropy"] = torch.where(learned, entropy, 0.0).sum().item()
    return loss, sums


def _padded(values: Tensor, offsets: Tensor) -> Tensor:
    """(tokens of all rows,) to (rows, longest row), zero behind each row's end."""
    lengths = offsets.diff()
    positions = torch.arange(int(lengths.max()), device=values.device)
    within = positions < lengths.unsqueeze(-1)
    padded = values.new_zeros(within.shape)
    padded[within] = values
    return padded
