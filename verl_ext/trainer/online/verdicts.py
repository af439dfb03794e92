"""A complete group is looked at once: what its answers were, and which of them leave it before anything counts them.

Answers that nobody could grade leave. A grader that ran out of time, a judge that is down or a gold that cannot be
read says nothing about the answer. Taken as wrong it would be pushed away from, and lower the correct rate of its
group. So it leaves the replay buffer as soon as its group is complete, and what follows (dynamic sampling, advantages,
loss, token counts) is that of a step in which it was never generated. So do truncated answers with
`algorithm.overlong_filtering=exclude`. A group that this leaves with one answer goes too: there is nothing to compare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import transfer_queue as tq

from verl_ext.reward.metrics import GRADER_FAILURES
from verl_ext.trainer.online.truncation import Truncation
from verl_ext.trainer.run.exits import WorkerDiedError

MIN_LOST_GROUPS = 10
MAX_LOST_SHARE = 0.5
"""Above both, the groups lost to answers without a verdict end the run: it would wait for a grader that does not work."""


@dataclass(frozen=True)
class Tally:
    """What the answers of a group were."""

    right: int | None
    """None where the reward does not say which answers are right (`acc`)."""
    of: int
    """Answers with a verdict, those that are excluded because they are truncated included."""
    truncated: int


@dataclass(frozen=True)
class Lost:
    """Groups that what left them has left with fewer than two answers."""

    no_verdict: frozenset[str] = frozenset()
    truncated: frozenset[str] = frozenset()


class VerdictFilter:
    """Looks once at each complete group.

    Args:
        is_on: whether answers without a verdict are taken out (`reward.reward_kwargs.on_no_verdict=drop`).
        truncation: tells which answers are truncated; None where nobody wants to know.
        exclude_truncated: whether these are taken out as well.
    """

    def __init__(self, *, is_on: bool, truncation: Truncation | None = None, exclude_truncated: bool = False) -> None:
        self.is_on = is_on
        self.truncation = truncation
        self.exclude_truncated = exclude_truncated
        self.tallies: dict[str, Tally] = {}
        """Of the complete groups, by the name of their prompt."""
        self._dropped: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._groups = 0

    def take_out(self, partition_id: str, answers: dict[str, Any], complete: Iterable[str]) -> Lost:
        """Look at the groups `complete` that are new, and remove the answers that leave them.

        Args:
            partition_id: of TransferQueue.
            answers: {key of an answer: its tag}; changed.
            complete: names of prompts.

        Returns:
            The groups that have lost answers and have fewer than two left.

        Raises:
            WorkerDiedError: so many groups were lost for lack of a verdict that grading itself must be at fault.
        """
        complete = set(complete)
        self.tallies = {uid: tally for uid, tally in self.tallies.items() if uid in complete}
        new = complete - self.tallies.keys()
        keys = [key for key in answers if key.split("_")[0] in new]
        self._groups += len(new)
        self.tallies |= {uid: Tally(None, 0, 0) for uid in new}
        if not keys:
            return Lost()
        found = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields"])
        infos = {
            key: getattr(fields, "data", fields).get("reward_extra_info", {})
            for key, fields in zip(keys, found["extra_fields"], strict=True)
        }
        truncated = set()
        if self.truncation is not None:
            truncated = self.truncation.of(partition_id, {key: answers[key] for key in keys})
        without = {key for key, info in infos.items() if self.is_on and info.get("grade_status") in GRADER_FAILURES}
        self._count(infos, without, truncated)
        excluded = set()
        if self.exclude_truncated:  # all outputs of a session have one reward and one verdict: they leave together
            sessions = {_session(key) for key in truncated}
            excluded = {key for key in keys if _session(key) in sessions} - without
        gone = without | excluded
        if not gone:
            return Lost()
        tq.kv_clear(keys=sorted(gone), partition_id=partition_id)
        for key in gone:
            del answers[key]
        taken = {_session(key): infos[key] for key in keys if key in without}
        self._dropped += list(taken.values())
        left = Counter(session.split("_")[0] for session in {_session(key) for key in keys if key in answers})
        lost = {uid for uid in (key.split("_")[0] for key in gone) if left[uid] < 2}
        ungraded = frozenset(lost & {key.split("_")[0] for key in without})
        self._counts.update(
            answers_without_verdict=len(taken),
            dropped_no_verdict=len(ungraded),
            truncated_excluded=len({_session(key) for key in excluded}),
        )
        self._require_some_verdicts()
        return Lost(ungraded, frozenset(lost - ungraded))

    def counts(self) -> dict[str, int]:
        """Metrics since the last call: answers taken out."""
        counts, self._counts = self._counts, Counter()
        self._groups = 0
        wanted = {"answers_without_verdict": self.is_on, "truncated_excluded": self.exclude_truncated}
        return {name: counts[name] for name, is_wanted in wanted.items() if is_wanted}

    def dropped(self) -> list[Mapping[str, Any]]:
        """What the reward reported of each answer without a verdict taken out since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

    def _count(self, infos: Mapping[str, Mapping[str, Any]], without: set[str], truncated: set[str]) -> None:
        sessions = {_session(key): info for key, info in infos.items() if key not in without}
        cut = {_session(key) for key in truncated}
        of_group: dict[str, list[str]] = {key.split("_")[0]: [] for key in infos}
        for session in sessions:
            of_group[session.split("_")[0]].append(session)
        for uid, names in of_group.items():
            knows = all("acc" in sessions[name] for name in names)
            self.tallies[uid] = Tally(
                right=sum(sessions[name]["acc"] == 1 for name in names) if knows else None,
                of=len(names),
                truncated=sum(name in cut for name in names),
            )

    def _require_some_verdicts(self) -> None:
        lost = self._counts["dropped_no_verdict"]
        if lost < MIN_LOST_GROUPS or lost <= MAX_LOST_SHARE * self._groups:
            return
        statuses = Counter(str(info["grade_status"]) for info in self._dropped)
        said = ", ".join(f"{status} {count}" for status, count in sorted(statuses.items()))
        raise WorkerDiedError(
            f"grading gave no verdict on the answers to {lost} of {self._groups} prompts ({said}): the judge is down, "
            "the golds cannot be read, or reward.reward_kwargs.timeout_s is too short"
        )


def _session(key: str) -> str:
    """The answer that an output belongs to: keys are PROMPT_SESSION_OUTPUT."""
    return key.rpartition("_")[0]
