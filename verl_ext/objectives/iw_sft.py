"""Importance-weighted supervised fine-tuning (arXiv 2507.12856)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from verl_ext.objectives.objective import Needs, Objective, TokenInputs, require_between, widened
from verl_ext.objectives.registry import register_objective

LARGEST_WEIGHT = 16.0
"""Of a sequence, as in the published code."""
TOKEN_WEIGHTS = (0.2, 1.8)
"""Within which the weight of a single token is kept, as in the published code."""


@register_objective("iw_sft")
@dataclass(frozen=True, kw_only=True)
class IWSFT(Objective):
    """Importance-weighted SFT (arXiv 2507.12856): a tighter bound on the reward than SFT's.

        loss_t = -stop_gradient(w_t) log p_t
        sequence:  w_t = min(exp(exponent * mean_s(log p_s - log p_ref,s)), 16)    s over the learned tokens of t's row
        token:     w_t = clamp(p_t / p_ref,t, 0.2, 1.8)

    The reference is the model that the run starts from, so that all weights are 1 at first. The published code's class
    has an exponent of 2 and its trainer calls it with 1.
    """

    level: Literal["sequence", "token"] = "sequence"
    """Whether a whole row or each token has a weight."""
    exponent: float = 2.0
    """Of the weight of a row."""

    def __post_init__(self) -> None:
        require_between("exponent", self.exponent, 0)

    @property
    def needs(self) -> Needs:
        """See `Objective`."""
        return Needs(reference_log_probs=True, rows=self.level == "sequence")

    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """See `Objective`."""
        log_probs = widened(inputs.log_probs)
        log_ratio = log_probs.detach() - inputs.reference_log_probs
        if self.level == "sequence":
            weight = (self.exponent * inputs.rows.mean(log_ratio)).exp().clamp(max=LARGEST_WEIGHT)
        else:
            weight = log_ratio.exp().clamp(*TOKEN_WEIGHTS)
        return -weight * log_probs
