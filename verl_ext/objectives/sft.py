"""Supervised fine-tuning: the baseline of every method here."""

from __future__ import annotations

import torch
from torch import Tensor

from verl_ext.objectives.registry import register_objective


@register_objective("sft")
def sft_token_loss(log_probs: Tensor) -> Tensor:
    """Cross-entropy of each target token: loss_t = -log p_t.

    Args:
        log_probs: log p_t of the target tokens, natural log, any shape and float dtype.

    Returns:
        Tensor of the same shape, fp32 (fp64 stays fp64). Not masked, not reduced.
    """
    return -log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
