"""Powers of the probability: one family from SFT over DFT to objectives that only sharpen what is known."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from verl_ext.objectives.objective import Objective, TokenInputs, require_between, widened
from verl_ext.objectives.registry import register_objective


@register_objective("power")
@dataclass(frozen=True, kw_only=True)
class Power(Objective):
    """The power family (arXiv 2510.00526, "GeneralFamily" in its code).

        loss_t = (1 - p_t^alpha) / alpha            with the gradient -p_t^alpha grad log p_t

    Towards alpha = 0 it becomes SFT's -log p_t; alpha = 1 has the gradient of DFT. A larger alpha learns less from
    tokens that the model finds unlikely. Published with alpha = 10, learning rate 5e-5, batch 256, on models that know
    the task well.
    """

    alpha: float = 1.0
    """The power; 0 is SFT."""

    def __post_init__(self) -> None:
        require_between("alpha", self.alpha, 0)

    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """See `Objective`."""
        log_probs = widened(inputs.log_probs)
        return -log_probs if self.alpha == 0 else -(self.alpha * log_probs).expm1() / self.alpha
