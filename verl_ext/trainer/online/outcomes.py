"""What became of the groups of a run, and what that says: when too many fail, and when there is nothing to learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from verl_ext.trainer.run.exits import NothingToLearnError

MAX_FAILED_SHARE = 0.1
"""Of a step's prompts, those that may fail in generation or grading before the run stops."""
MIN_FAILED_PROMPTS = 4
"""So many must have failed in any case: a share of a few prompts says nothing."""
REASONS_SAID = 3
REASON = "reason"
"""Tag of a failed prompt in TransferQueue: why, in one line (see `RetryingAgentLoopWorker`)."""

WORDS = {
    "usable": "with right and wrong answers",
    "all_right": "all right",
    "all_wrong": "all wrong",
    "cut_off": "all wrong and cut off at the length limit",
    "failed": "failed in generation or grading",
    "stale": "too old (trainer.v1.sampler.max_off_policy_threshold)",
    "no_verdict": "without a verdict on two answers",
    "truncated": "without two answers that ended (algorithm.overlong_filtering)",
}
ADVICE = {
    "all_wrong": "try easier prompts (data.train_files), a larger actor_rollout_ref.rollout.n, a longer "
    "data.max_response_length, or a better start (actor_rollout_ref.model.path)",
    "all_right": "the model solves these prompts: try harder ones (data.train_files)",
    "cut_off": "try a longer data.max_response_length, or a start (actor_rollout_ref.model.path) that ends its answers",
    "failed": "the messages of the agent loop workers above say why they failed",
    "stale": "allow older groups, or keep fewer prompts in generation ahead of training",
    "no_verdict": "see that the judge answers, that golds can be read, and reward.reward_kwargs.timeout_s",
    "truncated": "try a longer data.max_response_length, or a start (actor_rollout_ref.model.path) that ends its answers",
}


def too_many_failed(failed: int, prompts: int) -> bool:
    """Whether so many of a step's prompts failed that going on would only hide a fault."""
    return failed >= MIN_FAILED_PROMPTS and failed > MAX_FAILED_SHARE * prompts


def in_words(reasons: Counter[str]) -> str:
    """The most frequent reasons of failures, each with how often it came up."""
    said = [f"{count} x {reason}" for reason, count in reasons.most_common(REASONS_SAID)]
    others = len(reasons) - len(said)
    return "; ".join(said) + (f"; and {others} other reasons" if others > 0 else "")


@dataclass
class Outcomes:
    """Numbers of groups, by what their answers were."""

    usable: int = 0
    all_right: int = 0
    all_wrong: int = 0
    """Other than those that were cut off."""
    cut_off: int = 0
    """All wrong, and most answers as long as they may be."""
    failed: int = 0
    """Generation or grading failed twice."""
    stale: int = 0
    """Older than the off-policy threshold of an asynchronous mode allows."""
    no_verdict: int = 0
    """Fewer than two answers that could be graded."""
    truncated: int = 0
    """Fewer than two answers that were not truncated, or a trained group whose answers all were."""

    def add(self, other: Outcomes) -> None:
        for name, count in asdict(other).items():
            setattr(self, name, getattr(self, name) + count)

    @property
    def total(self) -> int:
        return sum(asdict(self).values())

    def shares(self) -> str:
        """In words, the largest first; what there was none of is left out."""
        counts = {name: count for name, count in asdict(self).items() if count}
        ordered = sorted(counts, key=lambda name: -counts[name])
        return ", ".join(f"{100 * counts[name] / self.total:.3g} % {WORDS[name]}" for name in ordered)

    def advice(self) -> str:
        """What to change, after the largest part of the groups that could not be used."""
        counts = {name: getattr(self, name) for name in ADVICE}
        return ADVICE[max(counts, key=lambda name: counts[name])]


@dataclass
class EmptySteps:
    """Steps in a row without a group to learn from; a checkpoint keeps them, so that a continued run counts on."""

    count: int = 0
    outcomes: Outcomes = field(default_factory=Outcomes)
    """Of the groups of these steps."""

    def add(self, outcomes: Outcomes) -> None:
        """Another step; one with something to learn ends the row."""
        if outcomes.usable:
            self.count, self.outcomes = 0, Outcomes()
        else:
            self.count += 1
            self.outcomes.add(outcomes)

    def require_something_to_learn(self, max_empty_steps: int) -> None:
        """End the run after so many.

        Raises:
            NothingToLearnError: says what the groups were and what may help.
        """
        if self.count < max_empty_steps:
            return
        raise NothingToLearnError(
            f"nothing to learn: {self.count} steps in a row (trainer.max_empty_steps={max_empty_steps}) without a group "
            f"that has both right and wrong answers; of {self.outcomes.total} groups: {self.outcomes.shares()}; "
            f"{self.outcomes.advice()}"
        )

    def state(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def restored(cls, state: Mapping[str, Any] | None) -> EmptySteps:
        """What `state` said; None: a checkpoint from before it was kept."""
        return cls(state["count"], Outcomes(**state["outcomes"])) if state else cls()
