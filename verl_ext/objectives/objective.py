"""What an objective of supervised training is: its parameters, what it asks for, and the loss of each token."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

TokenLoss = Callable[[Tensor], Tensor]
"""log p of the target tokens, natural log, any shape -> loss of each, same shape, not masked, not reduced."""

Divergence = Callable[[Tensor, Tensor], Tensor]
"""log pi and log pi_ref of every word, (tokens, vocabulary) each -> one number a token, (tokens,).

Called with a chunk of tokens at a time, and again for its gradient, so that it may depend on nothing else."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """What an objective asks for beside the log-probabilities of the target tokens. Each costs something."""

    top_k_entropy: int = 0
    """Entropy of the k likeliest words, their probabilities made to sum to one; 0 for none. Costs a top-k."""
    reference_log_probs: bool = False
    """log p of the target tokens under the model that the run started from. Costs a forward pass; with LoRA through
    the same weights with the adapter off, otherwise through a frozen copy."""
    divergence: Divergence | None = None
    """A function of the whole distributions of both models. Costs a forward pass, and the logits of both twice."""
    old_log_probs: int = 0
    """log p of the target tokens under the policy as it was before the first of so many steps; 0 for none. Costs a
    forward pass."""
    weights: bool = False
    """The numbers in the column `data.weights_key`, which the objective then applies itself."""
    rows: bool = False
    """Which tokens are of one row, for means over rows."""

    @property
    def reference(self) -> bool:
        """Whether a reference model has to run."""
        return self.reference_log_probs or self.divergence is not None

    @property
    def of_single_tokens(self) -> bool:
        """Whether a token's loss follows from its own log-probability and top-k entropy alone."""
        return self == Needs(top_k_entropy=self.top_k_entropy)


@dataclass(frozen=True)
class Rows:
    """Which tokens of a micro-batch belong together."""

    index: Tensor
    """Row of each token, (tokens,), int64."""
    learned: Tensor
    """Whether the token is learned, (tokens,), bool."""

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a row's learned tokens, given to each of its tokens; 0 in a row without any. (tokens,) to (tokens,)."""
        count = int(self.index.max()) + 1 if self.index.numel() else 0
        kept = torch.where(self.learned, values, 0.0)
        sums = values.new_zeros(count).index_add(0, self.index, kept)
        tokens = values.new_zeros(count).index_add(0, self.index, self.learned.to(values.dtype))
        return (sums / tokens.clamp(min=1))[self.index]


@dataclass(frozen=True, kw_only=True)
class TokenInputs:
    """What an objective is given: (tokens,) each, in nats, fp32 or wider; None where it did not ask.

    Only `log_probs` and `divergence` carry a gradient.
    """

    log_probs: Tensor
    """log p of each target token."""
    top_k_entropy: Tensor | None = None
    reference_log_probs: Tensor | None = None
    divergence: Tensor | None = None
    old_log_probs: Tensor | None = None
    weights: Tensor | None = None
    rows: Rows | None = None


class Objective(ABC):
    """An objective of supervised training.

    A subclass is a frozen dataclass whose fields are its parameters, set as `objective.<field>=<value>`. They are int,
    float, bool, str, a Literal of names, or one of these or None; each has a default. What its `__post_init__` refuses
    with a ValueError, whose message begins with the field's name, is said to the user as a mistake in that key.
    """

    @property
    def needs(self) -> Needs:
        """What it asks for; may depend on its parameters."""
        return Needs()

    @abstractmethod
    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """The loss of each token, (tokens,), not masked and not reduced; what stands at tokens not learned is dropped."""

    def counted(self, inputs: TokenInputs) -> Tensor | None:
        """Which tokens the mean is over, (tokens,), bool; None for all that are learned.

        The loss is then their mean over the whole batch, on whichever ranks and in whichever micro-batches they are.
        """
        return None

    def token_loss(self, log_probs: Tensor, top_k_entropy: Tensor | None = None) -> Tensor:
        """The same of an objective over single tokens."""
        return self.token_losses(TokenInputs(log_probs=log_probs, top_k_entropy=top_k_entropy))


@dataclass(frozen=True)
class OfLogProbs(Objective):
    """An objective without parameters that is a function of a token's log-probability alone."""

    function: TokenLoss

    def token_losses(self, inputs: TokenInputs) -> Tensor:
        """See `Objective`."""
        return self.function(inputs.log_probs)


def widened(log_probs: Tensor) -> Tensor:
    """In fp32, or in fp64 where it is."""
    return log_probs.to(torch.promote_types(log_probs.dtype, torch.float32))


def require_between(name: str, value: float, least: float, most: float = float("inf")) -> None:
    """Check a parameter.

    Raises:
        ValueError: it is not a number within these bounds; its message begins with the name.
    """
    if not least <= value <= most:
        bounds = f"{least:g} or more" if most == float("inf") else f"{least:g} to {most:g}"
        raise ValueError(f"{name}: got {value!r}, expected {bounds}")
