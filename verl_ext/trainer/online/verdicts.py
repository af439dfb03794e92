"""Answers that nobody could grade, taken out of their groups before anything counts or compares them.

A grader that ran out of time, a judge that is down or a gold that cannot be read says nothing about the answer. Taken
as wrong it would be pushed away from, and lower the correct rate of its group. So it leaves the replay buffer as soon
as its group is complete, and what follows (dynamic sampling, advantages, loss, token counts) is that of a step in which
it was never generated. A group that it leaves with one answer goes too: there is nothing to compare.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import transfer_queue as tq

from verl_ext.reward.metrics import GRADER_FAILURES
from verl_ext.trainer.run.exits import WorkerDiedError

MIN_LOST_GROUPS = 10
MAX_LOST_SHARE = 0.5
"""Above both, the groups lost to answers without a verdict end the run: it would wait for a grader that does not work."""


class VerdictFilter:
    """Looks once at each complete group.

    Args:
        is_on: whether answers without a verdict are taken out (`reward.reward_kwargs.on_no_verdict=drop`).
    """

    def __init__(self, *, is_on: bool) -> None:
        self.is_on = is_on
        self._looked_at: set[str] = set()
        self._dropped: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._groups = 0

    def take_out(self, partition_id: str, answers: dict[str, Any], complete: Iterable[str]) -> set[str]:
        """Remove the answers without a verdict of the groups `complete` from TransferQueue and from `answers`.

        Args:
            partition_id: of TransferQueue.
            answers: {key of an answer: its tag}; changed.
            complete: names of prompts.

        Returns:
            Names of the prompts that have lost answers and have fewer than two left.

        Raises:
            WorkerDiedError: so many groups were lost that grading itself must be at fault.
        """
        complete = set(complete)
        self._looked_at &= complete
        new = complete - self._looked_at
        if not self.is_on or not new:
            return set()
        self._looked_at |= new
        self._groups += len(new)
        keys = [key for key in answers if key.split("_")[0] in new]
        if not keys:
            return set()
        found = tq.kv_batch_get(keys=keys, partition_id=partition_id, select_fields=["extra_fields"])
        infos = {
            key: getattr(fields, "data", fields).get("reward_extra_info", {})
            for key, fields in zip(keys, found["extra_fields"], strict=True)
        }
        without = [key for key, info in infos.items() if info.get("grade_status") in GRADER_FAILURES]
        if not without:
            return set()
        tq.kv_clear(keys=without, partition_id=partition_id)
        for key in without:
            del answers[key]
        taken = {_session(key): infos[key] for key in without}  # all outputs of a session have its one verdict
        self._dropped += list(taken.values())
        left = Counter(session.split("_")[0] for session in {_session(key) for key in keys if key in answers})
        lost = {uid for uid in (key.split("_")[0] for key in without) if left[uid] < 2}
        self._counts.update(answers_without_verdict=len(taken), dropped_no_verdict=len(lost))
        self._require_some_verdicts()
        return lost

    def counts(self) -> dict[str, int]:
        """Metrics since the last call: answers taken out."""
        counts, self._counts = self._counts, Counter()
        self._groups = 0
        return {"answers_without_verdict": counts["answers_without_verdict"]} if self.is_on else {}

    def dropped(self) -> list[Mapping[str, Any]]:
        """What the reward reported of each answer taken out since the last call."""
        dropped, self._dropped = self._dropped, []
        return dropped

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
