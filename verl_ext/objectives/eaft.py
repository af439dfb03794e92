"""Entropy-Adaptive Fine-Tuning (arXiv 2601.02151)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verl_ext.objectives.objective import Needs, Objective, TokenInputs, require_between, widened
from verl_ext.objectives.registry import register_objective

ENTROPY_UNIT = 3.0
"""Nats that count as full uncertainty; about ln 20, the largest entropy of twenty words (the published code's number)."""


@register_objective("eaft")
@dataclass(frozen=True, kw_only=True)
class EAFT(Objective):
    """Entropy-Adaptive Fine-Tuning (arXiv 2601.02151).

        loss_t = -stop_gradient((H_t / 3)^alpha) log p_t

    H_t is the entropy of the `top_k` likeliest words, in nats, their probabilities made to sum to one. A token of which
    the model is sure and wrong, which SFT pulls hardest at, is hardly learned. Published with alpha = 1 and 20 words.
    """

    alpha: float = 1.0
    """The power of the entropy; 0 is SFT."""
    top_k: int = 20
    """How many words the entropy is taken over."""

    def __post_init__(self) -> None:
        require_between("alpha", self.alpha, 0)
        require_between("top_k", self.top_k, 2)

    @property
    def needs(self) -> Needs:
        """See `Objective`."""
        return Needs(top_k_entropy=self.top_k)

    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """See `Objective`."""
        weight = (inputs.top_k_entropy.detach() / ENTROPY_UNIT) ** self.alpha
        return -weight * widened(inputs.log_probs)
