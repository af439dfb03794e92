"""Dynamic sampling in numbers: how many prompts to generate, when a step ends, and what it has done so far."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from verl_ext.trainer.online.outcomes import Outcomes

MAX_IDLE_BATCHES = 10
"""Generation batches in a row without a usable group after which a step without a bound of its own ends."""


@dataclass
class Acceptance:
    """Share of generated groups that turned out usable, over the last few thousand."""

    usable: float
    generated: float

    MEMORY = 0.9

    def add(self, usable: int, generated: int) -> None:
        self.usable = self.MEMORY * self.usable + usable
        self.generated = self.MEMORY * self.generated + generated

    def prompts_for(self, groups: int) -> int:
        """Prompts that most likely give so many usable groups: one standard deviation more than the mean needs."""
        rate = max(self.usable, 1.0) / max(self.generated, 1.0)
        rate = min(rate, 1.0)
        return math.ceil((groups + math.sqrt(groups * (1 - rate))) / rate)


@dataclass(frozen=True)
class SamplingOptions:
    """Numbers of dynamic sampling, in prompts."""

    gen_batch_size: int
    max_gen_batches: int
    """0: no bound, as long as usable groups come."""
    drop_uniform: bool
    """Whether groups without signal are dropped."""
    max_response_length: int
    """Tokens; an answer of so many was cut off."""
    drop_no_verdict: bool = False
    """Whether answers that could not be graded are dropped, and groups that this leaves with one answer."""
    exclude_truncated: bool = False
    """Whether truncated answers are dropped, and groups that this leaves with one answer."""
    keep_surplus: bool = True
    """Whether usable groups beyond those of a step open the next one, whose policy did not give them."""


@dataclass
class StepSampling:
    """What dynamic sampling has done in one step, over all its rounds."""

    step: int
    prompts: int = 0
    """Given to generation in this step; in the asynchronous modes as replacements."""
    idle_prompts: int = 0
    """Of these, those since the last usable group."""
    dropped: Outcomes = field(default_factory=Outcomes)
    reasons: Counter[str] = field(default_factory=Counter)
    """Why prompts failed -> how often."""
    counts: Counter[str] = field(default_factory=Counter)
    under_way: int = 0
    """Prompts of the round that is being generated."""
    sampling: bool = False
    """Whether its groups are not all there yet; a run that is stopped meanwhile goes on counting."""
    since: float = field(default_factory=time.monotonic)
    said: float = field(default_factory=time.monotonic)

    def room(self, options: SamplingOptions) -> float:
        """Prompts that may still be given to generation."""
        if not options.drop_uniform and not options.exclude_truncated:  # every group that does not fail is taken
            return math.inf
        if options.drop_uniform and options.max_gen_batches:
            return options.max_gen_batches * options.gen_batch_size - self.prompts
        return MAX_IDLE_BATCHES * options.gen_batch_size - self.idle_prompts

    def generate(self, prompts: int) -> None:
        self.prompts += prompts
        self.idle_prompts += prompts

    def metrics(self) -> dict[str, float]:
        """As they are logged; `dropped_cut_off` is a part of `dropped_all_wrong`."""
        dropped = asdict(self.dropped)
        del dropped["usable"]
        dropped["all_wrong"] += dropped["cut_off"]
        counts = {**self.counts, **{f"dropped_{name}": count for name, count in dropped.items()}}
        return {f"sampling/{name}": float(count) for name, count in counts.items()}

    def state(self) -> dict[str, Any]:
        """What a run that is stopped inside the step keeps; plain values."""
        kept = ("step", "prompts", "idle_prompts", "under_way", "sampling")
        return {
            **{name: getattr(self, name) for name in kept},
            "dropped": asdict(self.dropped),
            "reasons": dict(self.reasons),
            "counts": dict(self.counts),
        }

    @classmethod
    def restored(cls, state: Mapping[str, Any]) -> StepSampling:
        """From what `state` gave."""
        tables = {name: Counter(state[name]) for name in ("reasons", "counts")}
        return cls(**{**state, **tables, "dropped": Outcomes(**state["dropped"])})
