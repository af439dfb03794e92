"""Proximal Supervised Fine-Tuning (arXiv 2508.17784)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verl_ext.objectives.objective import Needs, Objective, TokenInputs, require_between, widened
from verl_ext.objectives.registry import register_objective


@register_objective("psft")
@dataclass(frozen=True, kw_only=True)
class PSFT(Objective):
    """Proximal Supervised Fine-Tuning (arXiv 2508.17784): PPO's clipped objective with an advantage of 1 everywhere.

        loss_t = -min(R_t, 1 + clip_high),    R_t = p_t / p_old,t

    The old policy is the one before the first of every `steps` optimizer steps; a token that has become likelier by
    more than `clip_high` since then is not pulled any further. Published on verl with 0.28 and 8 steps to an old policy
    (256 rows in mini-batches of 32). The lower bound of PPO's clip, published as 0.2, never decides a loss whose
    advantage is positive. With steps=1 every ratio is 1 and nothing is clipped.
    """

    clip_high: float = 0.28
    """By how much the ratio may exceed 1 before its gradient ends."""
    steps: int = 8
    """Optimizer steps between two old policies."""

    def __post_init__(self) -> None:
        require_between("clip_high", self.clip_high, 0)
        require_between("steps", self.steps, 1)

    @property
    def needs(self) -> Needs:
        """See `Objective`."""
        return Needs(old_log_probs=self.steps)

    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """See `Objective`."""
        ratio = (widened(inputs.log_probs) - inputs.old_log_probs).exp()
        return -ratio.clamp(max=1 + self.clip_high)
