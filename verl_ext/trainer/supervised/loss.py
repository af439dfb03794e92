"""The loss that verl's engine calls once a micro-batch: an objective's token losses, masked and reduced.

Whatever produced the log-probabilities (padded, packed, sequence parallel, fused head, LoRA), they arrive here
gathered, one per token, so that an objective is right in every mode or in none.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor

from verl_ext.engine.fsdp import NUM_COUNTED
from verl_ext.objectives.objective import Objective, Rows, TokenInputs

Reduction = Literal["token_mean", "published"]
REDUCTIONS: tuple[Reduction, ...] = ("token_mean", "published")

SUM_NAMES = ("sum_loss", "sum_cross_entropy", "sum_prob", "num_tokens")
"""What is added up for the log, over the learned tokens. `supervised_loss` adds NUM_COUNTED."""


def supervised_loss(
    model_output: dict[str, Tensor],
    data: TensorDict,
    dp_group: object = None,
    *,
    objective: Objective,
    reduction: Reduction,
) -> tuple[Tensor, dict[str, Any]]:
    """Loss of one micro-batch, scaled so that the micro-batches of all ranks add up to the batch's loss.

    With M the learned tokens of a micro-batch, N those of the global batch, D data-parallel ranks (whose gradients
    FSDP averages) and K micro-batches a rank:

        token_mean: D / N * sum_M loss_t
        published:  1 / K * sum_M loss_t / (|M| + 1e-8)     the DFT repository's reduction: a token counts for
                                                            more in a micro-batch that has few

    Where the objective counts some tokens only, the engine makes of the first the mean over those, and the second is a
    mean over those in each micro-batch.

    Args:
        model_output: "log_probs", jagged (rows, tokens): entry t is log p of token t + 1, fp32 or wider. "top_k_entropy"
            and "divergence", laid out alike, where the objective asks for them.
        data: a micro-batch with "loss_mask", jagged (rows, tokens), and verl's batch_num_tokens and dp_size; with
            "reference_log_probs" and "old_log_probs", laid out like the log-probs, where the objective asks for them.
            "weights", laid out like the tokens, multiply the losses of an objective that does not ask for them.
        dp_group: unused; part of verl's interface.
        objective: from what it asks for to the loss of each token.
        reduction: see above.

    Returns:
        The loss, and SUM_NAMES for the log.
    """
    log_probs = model_output["log_probs"].values()
    # Entry t predicts token t + 1. A row's last entry wraps to the next row's first token, which is never learned.
    learned = torch.roll(data["loss_mask"].values(), shifts=-1, dims=0).bool()
    weights = data.get("weights", None)
    weights = None if weights is None else torch.roll(weights.values(), shifts=-1)
    inputs = _inputs(model_output, data, objective, log_probs, learned, weights)
    losses = objective.token_losses(inputs)
    if weights is not None and not objective.needs.weights:
        losses = losses * weights
    losses = torch.where(learned, losses, 0.0)
    sum_loss = losses.sum()
    counted = objective.counted(inputs)
    counted = learned if counted is None else counted & learned
    if reduction == "token_mean":
        loss = sum_loss * (data["dp_size"] / data["batch_num_tokens"])
    else:
        rows_per_rank = data["global_batch_size"] // data["dp_size"]
        num_micro_batches = rows_per_rank // data["micro_batch_size_per_gpu"]
        loss = sum_loss / (counted.sum() + 1e-8) / num_micro_batches
    return loss, sums_for_log(sum_loss, log_probs, learned) | {NUM_COUNTED: counted.sum().item()}


def _inputs(
    model_output: dict[str, Tensor],
    data: TensorDict,
    objective: Objective,
    log_probs: Tensor,
    learned: Tensor,
    weights: Tensor | None,
) -> TokenInputs:
    needs = objective.needs
    given: dict[str, Any] = {}
    if needs.top_k_entropy:
        given["top_k_entropy"] = model_output["top_k_entropy"].values()
    if needs.divergence is not None:
        given["divergence"] = model_output["divergence"].values()
    if needs.reference_log_probs:
        given["reference_log_probs"] = data["reference_log_probs"].values()
    if needs.old_log_probs:
        old = data.get("old_log_probs", None)
        # Outside training there is no old policy but the one at hand.
        given["old_log_probs"] = log_probs.detach() if old is None else old.values()
    if needs.weights:
        given["weights"] = weights
    if needs.rows:
        lengths = data["loss_mask"].offsets().diff()
        index = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), lengths)
        given["rows"] = Rows(index, learned)
    return TokenInputs(log_probs=log_probs, **given)


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
