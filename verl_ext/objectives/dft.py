"""Dynamic Fine-Tuning (arXiv 2508.05629)."""

from __future__ import annotations

import torch
from torch import Tensor

from verl_ext.objectives.registry import register_objective


@register_objective("dft")
def dft_token_loss(log_probs: Tensor) -> Tensor:
    """Dynamic Fine-Tuning loss of each target token (arXiv 2508.05629, Eq. 9).

    loss_t = -stop_gradient(p_t) * log p_t, so that its gradient is -grad p_t: a token the model already finds
    likely pulls hard, an unlikely one hardly at all.

    Args:
        log_probs: log p_t of the target tokens, natural log, any shape and float dtype.

    Returns:
        Tensor of the same shape, fp32 (fp64 stays fp64). Not masked, not reduced.
    """
    log_probs = log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))
    return -log_probs.detach().exp() * log_probs
