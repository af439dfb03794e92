"""Anchored Supervised Fine-Tuning (arXiv 2509.23753)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from verl_ext.objectives.dft import dft_token_loss
from verl_ext.objectives.objective import Needs, Objective, TokenInputs, require_between
from verl_ext.objectives.registry import register_objective

KLDirection = Literal["forward", "reverse"]


def forward_kl(log_dist: Tensor, reference_log_dist: Tensor) -> Tensor:
    """KL(pi_ref, pi) = sum_v pi_ref(v) (log pi_ref(v) - log pi(v)), (tokens, vocabulary) to (tokens,)."""
    return (reference_log_dist.exp() * (reference_log_dist - log_dist)).sum(-1)


def reverse_kl(log_dist: Tensor, reference_log_dist: Tensor) -> Tensor:
    """KL(pi, pi_ref) = sum_v pi(v) (log pi(v) - log pi_ref(v)), (tokens, vocabulary) to (tokens,)."""
    return (log_dist.exp() * (log_dist - reference_log_dist)).sum(-1)


@register_objective("asft")
@dataclass(frozen=True, kw_only=True)
class ASFT(Objective):
    """Anchored Supervised Fine-Tuning (arXiv 2509.23753): DFT, held near the model that it starts from.

        loss_t = -stop_gradient(p_t) log p_t + kl_weight * KL_t

    KL_t is over the whole vocabulary. Published with kl_weight 0.1 (0.05 in its README), and learning rate 2e-5 over
    three epochs or 5e-5 over one. Its code takes the forward direction.
    """

    kl_weight: float = 0.1
    """Of the divergence from the reference."""
    direction: KLDirection = "forward"
    """"forward": KL(pi_ref, pi), which asks for all that the reference can say; "reverse": KL(pi, pi_ref), which
    forbids what it would not."""

    def __post_init__(self) -> None:
        require_between("kl_weight", self.kl_weight, 0)

    @property
    def needs(self) -> Needs:
        """See `Objective`."""
        return Needs(divergence=forward_kl if self.direction == "forward" else reverse_kl)

    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """See `Objective`."""
        return dft_token_loss(inputs.log_probs) + self.kl_weight * inputs.divergence
