"""The settings of NFT, and the names under which its authors published them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from verl_ext.errors import ConfigError

PromptWeight = Literal["uniform", "dr_grpo", "grpo"]
Ratio = Literal["token", "sequence", "sequence_mean"]

PUBLISHED_NAMES = {
    "actor_rollout_ref.neg_weight": "neg_weight",
    "actor_rollout_ref.clamp_negative": "eps",
    "actor_rollout_ref.clamp_positive": "positive_floor",
    "actor_rollout_ref.normalize": "prompt_weight",
    "actor_rollout_ref.actor.ratio_type": "ratio",
}
"""Key of the NFT repository -> field of `NFTConfig`."""

PUBLISHED_PROMPT_WEIGHTS: dict[int, PromptWeight] = {0: "uniform", 1: "dr_grpo", 2: "grpo"}


@dataclass(frozen=True, kw_only=True)
class NFTConfig:
    """What `nft_token_loss` takes beside tensors, in the same words: `nft_token_loss(..., **asdict(config))`.

    Raises:
        ValueError: a value that cannot work; its message begins with the name of the field.
    """

    neg_weight: float = 1.0
    """Weight of wrong answers; 0 is RFT, which learns from correct ones alone."""
    eps: float = 1.0
    """Smallest ratio of the negative policy."""
    positive_floor: float = 0.0
    """Smallest ratio of a correct answer."""
    prompt_weight: PromptWeight = "dr_grpo"
    """Weight of a prompt whose correct rate is r: "uniform" 1, "dr_grpo" 1 - r, "grpo" sqrt((1 - r) / r)."""
    ratio: Ratio = "token"
    """Ratio of each "token", of the whole "sequence", or its geometric mean over the tokens, "sequence_mean"."""

    def __post_init__(self) -> None:
        _require_number("neg_weight", self.neg_weight)
        _require_number("eps", self.eps, positive=True)
        _require_number("positive_floor", self.positive_floor)
        _require_choice("prompt_weight", self.prompt_weight, get_args(PromptWeight))
        _require_choice("ratio", self.ratio, get_args(Ratio))


def published_settings(values: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of `NFTConfig` from the NFT repository's own keys.

    Args:
        values: flat dotted keys; those that are not in `PUBLISHED_NAMES` are left alone.

    Returns:
        The fields that were given. `neg_weight` may be negative, by which that code means DAPO and which `NFTConfig`
        refuses; `eps` is the absolute value, as there.

    Raises:
        ConfigError: a value which that code does not know either.
    """
    fields: dict[str, Any] = {}
    for key, field in PUBLISHED_NAMES.items():
        if key not in values:
            continue
        value = values[key]
        if field == "prompt_weight":
            if not isinstance(value, int) or isinstance(value, bool) or value not in PUBLISHED_PROMPT_WEIGHTS:
                raise ConfigError(key, given=value, expected="0 (uniform), 1 (1 - r) or 2 (sqrt((1 - r) / r))")
            fields[field] = PUBLISHED_PROMPT_WEIGHTS[value]
        elif field == "ratio":
            if value not in get_args(Ratio):
                raise ConfigError(key, given=value, expected=" or ".join(get_args(Ratio)))
            fields[field] = value
        else:
            if not _is_number(value):
                raise ConfigError(key, given=value, expected="a number")
            fields[field] = abs(float(value)) if field == "eps" else float(value)
    return fields


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _require_number(name: str, value: Any, *, positive: bool = False) -> None:
    if not _is_number(value) or value < 0 or (positive and value == 0):
        expected = "a positive number, because the loss takes its logarithm" if positive else "0 or more"
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


def _require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name}: got {value!r}, expected one of {choices}")
