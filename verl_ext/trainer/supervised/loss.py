"""The loss that verl's engine calls once a micro-batch: an objective's token losses, masked and reduced.

Whatever produced the log-probabilities (padded, packed, sequence parallel, fused head, LoRA), they arrive here
gathered, one per token, so that an objective is right in every mode or in none.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from verl_ext.objectives.registry import TokenLoss

Reduction = Literal["token_mean", "published"]
REDUCTIONS: tuple[Reduction, ...] = ("token_mean", "published")

SUM_NAMES = ("sum_loss", "sum_cross_entropy", "sum_prob", "num_tokens")
"""What is added up for the log, over the learned tokens."""


def supervised_loss(
    model_output: dict[str, Tensor],
    data: TensorDict,
    dp_group: object = None,
    *,
    token_loss: TokenLoss,
    reduction: Reduction,
) -> tuple[Tensor, dict[str, Any]]:
    """Loss of one micro-batch, scaled so that the micro-batches of all ranks add up to the batch's loss.

    With M the learned tokens of a micro-batch, N those of the global batch, D data-parallel ranks (whose gradients
    FSDP averages) and K micro-batches a rank:

        token_mean: D / N * sum_M loss_t
        published:  1 / K * sum_M loss_t / (|M| + 1e-8)     the DFT repository's reduction: a token counts for
                                                            more in a micro-batch that has few

    Args:
        model_output: "log_probs", jagged (rows, tokens): entry t is log p of token t + 1, fp32 or wider.
        data: a micro-batch with "loss_mask", jagged (rows, tokens), and verl's batch_num_tokens and dp_size.
        dp_group: unused; part of verl's interface.
        token_loss: from the log-probs to the loss of each token.
        reduction: see above.

    Returns:
        The loss, and SUM_NAMES for the log.
    """
    log_probs = model_output["log_probs"].values()
    # Entry t predicts token t + 1. A row's last entry wraps to the next row's first token, which is never learned.
    learned = torch.roll(data["loss_mask"].values(), shifts=-1, dims=0).bool()
    losses = torch.where(learned, token_loss(log_probs), 0.0)
    sum_loss = losses.sum()
    if reduction == "token_mean":
        loss = sum_loss * (data["dp_size"] / data["batch_num_tokens"])
    else:
        rows_per_rank = data["global_batch_size"] // data["dp_size"]
        num_micro_batches = rows_per_rank // data["micro_batch_size_per_gpu"]
        loss = sum_loss / (learned.sum() + 1e-8) / num_micro_batches
    return loss, sums_for_log(sum_loss, log_probs, learned)


@torch.no_grad()
def sums_for_log(sum_loss: Tensor, log_probs: Tensor, learned: Tensor) -> dict[str, float]:
    """SUM_NAMES of a micro-batch.

    Args:
        sum_loss: of the learned tokens, scalar.
        log_probs: log p of the target tokens, any shape.
        learned: bool, the same shape.
    """
    kept = torch.where(learned, log_probs, 0.0)
    probs = torch.where(learned, log_probs.exp(), 0.0)
    sums = torch.stack([sum_loss, -kept.sum(), probs.sum(), learned.sum()])
    return dict(zip(SUM_NAMES, sums.tolist(), strict=True))
