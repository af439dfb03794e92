"""Learning from tokens alone that the model already finds likely enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from verl_ext.objectives.objective import Objective, TokenInputs, require_between, widened
from verl_ext.objectives.registry import register_objective

Denominator = Literal["kept", "all"]


@dataclass(frozen=True, kw_only=True)
class _OverThreshold(Objective):
    threshold: float = 0.1
    """Smallest probability of a token that is learned."""
    denominator: Denominator = "kept"
    """Which tokens the mean is over: "kept", those that are learned, as in the code of arXiv 2510.00526; or "all"
    tokens of the response, as in ProFit (arXiv 2601.09195)."""

    def __post_init__(self) -> None:
        require_between("threshold", self.threshold, 0, 1)

    def counted(self, inputs: TokenInputs) -> Tensor | None:
        """See `Objective`."""
        return self._kept(inputs) if self.denominator == "kept" else None

    def _kept(self, inputs: TokenInputs) -> Tensor:
        return inputs.log_probs.detach().exp() >= self.threshold


@register_objective("top_p")
@dataclass(frozen=True, kw_only=True)
class TopP(_OverThreshold):
    """OnlyTopP (arXiv 2510.00526): DFT on the likely tokens.

    loss_t = (1 - p_t) [p_t >= threshold]
    """

    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """See `Objective`."""
        return -widened(inputs.log_probs).expm1() * self._kept(inputs)


@register_objective("top_log_p")
@dataclass(frozen=True, kw_only=True)
class TopLogP(_OverThreshold):
    """OnlyTopLogP (arXiv 2510.00526): SFT on the likely tokens. With denominator "all" it is ProFit (arXiv 2601.09195).

    loss_t = -log p_t [p_t >= threshold]

    ProFit was published with threshold 0.1 and learning rate 1e-5.
    """

    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """See `Objective`."""
        # A token that is impossible (log p of minus infinity) is not kept, and infinity times 0 is no number.
        kept = self._kept(inputs)
        return -widened(inputs.log_probs).where(kept, 0.0)
