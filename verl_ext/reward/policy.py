"""What counts as equal where the field disagrees: named choices, strict unless asked otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from verl_ext.errors import ConfigError

PUBLISHED_RELATIVE_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class GradingPolicy:
    """The choices of one comparison; the defaults are those for training.

    A lenient reward teaches the leniency: a model that is paid for 0.333 learns to round. So the
    defaults accept only what is equal, and the other behaviours exist to compare with published numbers.
    """

    relative_tolerance: float = 0.0
    """How far a number may be from a gold decimal, as a share of the gold; 0 means exactly equal (0.333 is not 1/3)."""

    absolute_tolerance: float = 0.0
    """How far a number may be from the gold number, in its own unit (OlympiadBench states one for some problems)."""

    tolerance_for: Literal["decimals", "all"] = "decimals"
    """Whether the relative tolerance holds only where gold or answer is written as a decimal, or for every number."""

    percent: Literal["value", "any"] = "value"
    """`value`: 50% is 0.5, and the sign may be left out of a number above 1. `any`: x, x/100 and 100x are the same."""

    units: Literal["optional", "required"] = "optional"
    """Whether an answer without the gold's unit (or with one where the gold has none) is accepted. Two different
    units are never equal."""

    unboxed: Literal["phrase", "last_number"] = "phrase"
    """What counts without a box: `The final answer is ...` only, or failing that the last number of the response."""

    rules: Literal["own", "qwen"] = "own"
    """`qwen`: find, spell and compare as the published harness does, oddities included (`qwen_answer`, `qwen_equal`);
    none of the choices above applies then."""

    def __post_init__(self) -> None:
        for name in ("relative_tolerance", "absolute_tolerance"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"reward.{name}", given=getattr(self, name), expected="a finite number, 0 or more")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ConfigError(f"reward.{name}", given=getattr(self, name), expected=f"one of {', '.join(allowed)}")


_CHOICES = {
    "tolerance_for": ("decimals", "all"),
    "percent": ("value", "any"),
    "units": ("optional", "required"),
    "unboxed": ("phrase", "last_number"),
    "rules": ("own", "qwen"),
}

STRICT = GradingPolicy()
PUBLISHED = GradingPolicy(
    relative_tolerance=PUBLISHED_RELATIVE_TOLERANCE, tolerance_for="all", percent="any", unboxed="last_number"
)
QWEN = GradingPolicy(rules="qwen")
POLICIES = {"strict": STRICT, "published": PUBLISHED, "qwen": QWEN}
