"""Groups of answers between generation and update: dynamic sampling that throws no usable group away.

A group is all answers to one prompt. One whose answers are all right or all wrong has no gradient and is replaced; so is
one that failed. Where more usable groups come than the update takes, the surplus opens the next one.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync
from verl.utils.skip import SkipManager

from verl_ext.trainer.online.dynamic_sampling import Acceptance, SamplingOptions, StepSampling
from verl_ext.trainer.online.health import SAY_EVERY_S
from verl_ext.trainer.online.outcomes import REASON, Outcomes, in_words, too_many_failed
from verl_ext.trainer.online.pass_rates import Journal
from verl_ext.trainer.online.truncation import Truncation
from verl_ext.trainer.online.verdicts import VerdictFilter
from verl_ext.trainer.run.exits import WorkerDiedError

logger = logging.getLogger(__name__)


class NoGroupsError(RuntimeError):
    """Dynamic sampling reached its bound without a single usable group."""


class _Sampling:
    """What both buffers share: what becomes of groups, and waiting that looks after the workers and says for what."""

    options: SamplingOptions
    train_batch_size: int
    check_workers: Callable[[], None] = staticmethod(lambda: None)
    journal: Journal | None = None
    """Of the pass rates of groups that are decided."""
    this_step: StepSampling | None = None

    def __init__(self, *, options: SamplingOptions, **verl_arguments: Any) -> None:
        super().__init__(**verl_arguments)
        self.options = options
        self.verdicts = VerdictFilter(is_on=options.drop_no_verdict, exclude_truncated=options.exclude_truncated)
        self._lost: Counter[str] = Counter()
        """Groups lost to answers without a verdict and to truncated ones, which nobody has replaced yet."""

    def tell_truncated_by(self, truncation: Truncation) -> None:
        """Before the first group comes: how to tell which answers are truncated."""
        self.verdicts.truncation = truncation

    def _sync_metadata_from_transfer_queue(self) -> None:
        """What there is, without the answers that could not be graded."""
        super()._sync_metadata_from_transfer_queue()
        lost = self.verdicts.take_out("train", self.partitions["train"], self.finished_keys["train"])
        gone = {*lost.no_verdict, *lost.truncated}
        self._record(gone, used=False)
        self._clear_groups("train", gone)
        self._lost.update(no_verdict=len(lost.no_verdict), truncated=len(lost.truncated))

    def _take_lost(self) -> Counter[str]:
        """Groups lost since the last call, by why."""
        lost, self._lost = self._lost, Counter()
        return lost

    def _record(self, uids: Iterable[str], *, used: bool) -> None:
        """Note what became of these groups, before they are gone."""
        if self.journal is not None:
            tallies = {uid: self.verdicts.tallies[uid] for uid in sorted(uids) if uid in self.verdicts.tallies}
            self.journal.add(self.this_step.step if self.this_step else 0, tallies, used=used)

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps beside the groups themselves."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Take up what `state` said."""

    def validated(self) -> tuple[KVBatchMeta, Counter[str]]:
        """Wait for the validation prompts that are under way.

        Returns:
            The answers of those that did not fail, and why the others did, as often as it happened.
        """
        self._wait_until_done("val")
        reasons = self._reasons("val")
        self._clear_groups("val", set(self.failure_keys["val"]))
        return self._take("val", self.finished_keys["val"], len(self.finished_keys["val"])), reasons

    def step_metrics(self) -> dict[str, float]:
        """What was done for the groups of this step; nothing where an earlier run took them."""
        return {} if self.this_step is None else self.this_step.metrics()

    def _of_step(self, global_steps: int) -> StepSampling:
        """The record of a step, which may sample several times."""
        if self.this_step is None or self.this_step.step != global_steps:
            self.this_step = StepSampling(global_steps)
        return self.this_step

    def _require_few_failures(self) -> None:
        """End the run where more than a share of this step's prompts failed.

        Raises:
            WorkerDiedError: with the reasons of the failures.
        """
        step = self.this_step
        failed = step.dropped.failed + len(self.failure_keys["train"])
        prompts = max(step.prompts, self.train_batch_size)
        if not too_many_failed(failed, prompts):
            return
        self.check_workers()  # the better reason, where a worker has died
        raise WorkerDiedError(
            f"step {step.step}: generation or grading failed for {failed} of {prompts} prompts, each of them twice: "
            f"{in_words(step.reasons + self._reasons('train'))}"
        )

    def _reasons(self, partition_id: str) -> Counter[str]:
        """Why the prompts that have failed and are still there did."""
        failed = self.failure_keys[partition_id]
        tags = (tq.kv_list(partition_id) or {}).get(partition_id, {}) if failed else {}
        return Counter(tags[uid].get(REASON, "no reason given") for uid in failed)

    def _drop(self, *, stale: set[str], uniform: set[str], failed: set[str]) -> int:
        """Drop groups and record what they were; returns how many, those without a verdict among them."""
        step, lost = self.this_step, self._take_lost()
        step.reasons.update(self._reasons("train"))
        wrong = {uid for uid in uniform - stale if self._dapo_classification_cache["train"][uid] <= 0}
        cut_off = self._cut_off(wrong)
        step.dropped.add(
            Outcomes(
                all_right=len(uniform - stale - wrong),
                all_wrong=len(wrong - cut_off),
                cut_off=len(cut_off),
                failed=len(failed),
                stale=len(stale),
                **lost,
            )
        )
        dropped = stale | uniform | failed
        self._record(stale | uniform, used=False)
        self._clear_groups("train", dropped)
        return len(dropped) + lost.total()

    def _cut_off(self, uids: set[str]) -> set[str]:
        """Those of which most answers are as long as they may be."""
        if not uids:
            return set()
        answers: Counter[str] = Counter()
        at_limit: Counter[str] = Counter()
        for key, tag in self.partitions["train"].items():
            uid = key.split("_")[0]
            if uid in uids:
                answers[uid] += 1
                at_limit[uid] += tag["response_len"] >= self.options.max_response_length
        return {uid for uid in answers if 2 * at_limit[uid] > answers[uid]}

    def _wait_until_done(self, partition_id: str) -> None:
        since = said = time.monotonic()
        while True:
            self._sync_metadata_from_transfer_queue()
            if partition_id == "train":
                self._require_few_failures()
            if not self._in_flight(partition_id):
                return
            said = self._pause(partition_id, since, said)

    def _pause(self, partition_id: str, since: float, said: float) -> float:
        """Sleep for a twentieth of the time waited so far; returns when the wait was last spoken of."""
        now = time.monotonic()
        self.check_workers()
        if now - said > SAY_EVERY_S:
            said = now
            logger.warning(
                "waiting for %d prompts in generation or grading for %.0f s (%d groups are done)",
                self._in_flight(partition_id),
                now - since,
                len(self.finished_keys[partition_id]),
            )
        time.sleep(min(max(0.05 * (now - since), 0.02), 1.0))
        return said

    def _in_flight(self, partition_id: str) -> int:
        return len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id])

    def _take(self, partition_id: str, uids: Iterable[str], count: int) -> KVBatchMeta:
        """The oldest of these groups, each with all its answers, in the order in which their prompts were taken."""
        chosen = sorted(uids)[:count]
        if not chosen:
            return KVBatchMeta(partition_id=partition_id)
        if partition_id == "train":
            self._record(chosen, used=True)
        snapshot = dict(sorted(self.partitions[partition_id].items()))
        self.finished_keys[partition_id] -= set(chosen)
        return self._materialize_batch(partition_id, chosen, snapshot)

    def _say_short(self, usable: int, wanted: int) -> None:
        """The step ends with fewer groups than it should have."""
        step, options = self.this_step, self.options
        bound = (
            f"algorithm.filter_groups.max_num_gen_batches={options.max_gen_batches}"
            if options.max_gen_batches
            else f"none usable among the last {step.idle_prompts}"
        )
        logger.warning(
            "dynamic sampling: %d prompts (%s) gave %d of %d groups with both right and wrong answers%s",
            step.prompts,
            bound,
            usable,
            wanted,
            "; this step trains on these" if usable else "",
        )


class GroupBuffer(_Sampling, ReplayBuffer):
    """Dynamic sampling where generation and training take turns.

    Prompts are generated in rounds, each sized so that most likely no other is needed. All of a round's answers are
    there before the next decision, so which prompts a step takes does not depend on the timing of requests.
    """

    def __init__(self, *, options: SamplingOptions, train_batch_size: int, **verl_arguments: Any) -> None:
        super().__init__(options=options, train_batch_size=train_batch_size, gen_batch_size=1, **verl_arguments)
        self.acceptance = Acceptance(usable=float(train_batch_size), generated=float(options.gen_batch_size))

    def state(self) -> dict[str, Any]:
        step = self.this_step
        under_way = {"step": step.state(), "lost": dict(self._lost)} if step is not None and step.sampling else {}
        return {**asdict(self.acceptance), **under_way}

    def restore(self, state: dict[str, Any]) -> None:
        step = state.get("step")
        self.this_step = None if step is None else StepSampling.restored(step)
        lost = state.get("lost", {})
        self._lost = Counter(
            lost if isinstance(lost, dict) else {"no_verdict": lost}
        )  # a number, in checkpoints of before
        self.acceptance = Acceptance(usable=state["usable"], generated=state["generated"])

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, float]]:
        """The training groups of a step, generated as needed; `this_step` says what was done for them.

        Raises:
            NoGroupsError: the bound was reached without a usable group.
            WorkerDiedError: a worker has died, or too many prompts failed.
        """
        step = self._of_step(global_steps)
        self._sync_metadata_from_transfer_queue()
        if not step.under_way:
            self._take_lost()  # of an earlier step or of a checkpoint: no round of this one has to answer for them
        step.sampling = True
        step.counts.setdefault("kept_from_before", len(self.finished_keys[partition_id]))
        while True:
            if step.under_way:
                self._wait_until_done(partition_id)
                self._drop_unusable(step.under_way)
                step.under_way = 0
                self._say_progress(batch_size)
            missing = batch_size - len(self.finished_keys[partition_id])
            if missing <= 0:
                break
            room = step.room(self.options)
            if room <= 0:
                self._say_short(batch_size - missing, batch_size)
                break
            prompts = self._prompts_for(missing, room)
            self.refill_fn(prompts)
            step.generate(prompts)
            step.counts.update(generated_groups=prompts, generation_batches=1)
            step.under_way = prompts
        step.sampling = False
        batch = self._take(partition_id, self.finished_keys[partition_id], batch_size)
        step.counts.update(self.verdicts.counts())
        step.counts["surplus_groups"] = len(self.finished_keys[partition_id])
        if not self.options.keep_surplus:
            surplus = set(self.finished_keys[partition_id])
            self._record(surplus, used=False)
            self._clear_groups(partition_id, surplus)
        if not batch.keys:
            raise NoGroupsError("no usable group")
        return batch, {}

    def _prompts_for(self, missing: int, room: float) -> int:
        if not self.options.drop_uniform:
            return missing
        return int(min(self.acceptance.prompts_for(missing), self.options.gen_batch_size, room))

    def _drop_unusable(self, generated: int) -> None:
        """Drop failed groups and, with dynamic sampling, those without signal."""
        failed = set(self.failure_keys["train"])
        uniform, _ = self._dapo_filtered_keys("train")
        usable = generated - self._drop(stale=set(), uniform=uniform, failed=failed)
        if self.options.drop_uniform:
            self.acceptance.add(usable, generated)
        if usable:
            self.this_step.idle_prompts = 0

    def _say_progress(self, wanted: int) -> None:
        step, now = self.this_step, time.monotonic()
        if now - step.said > SAY_EVERY_S:
            step.said = now
            logger.warning(
                "step %d: %d of %d usable groups after %d prompts and %.0f s",
                step.step,
                len(self.finished_keys["train"]),
                wanted,
                step.prompts,
                now - step.since,
            )


class AsyncGroupBuffer(_Sampling, ReplayBufferAsync):
    """Dynamic sampling where generation goes on during training: verl's, with a bound and an eye on the workers."""

    def __init__(self, *, options: SamplingOptions, train_batch_size: int, **verl_arguments: Any) -> None:
        super().__init__(options=options, train_batch_size=train_batch_size, **verl_arguments)
        self._known: set[str] = set()
        """Usable groups that were there at the last look."""

    @SkipManager.annotate_tq(role="rollout_tq", phase="sample")
    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, Any]]:
        """The oldest usable training groups; see `GroupBuffer.sample`."""
        usable, _ = self.wait_for_sampleable(global_steps, partition_id, batch_size)
        self.this_step.counts.update(self.verdicts.counts())
        if not usable:
            raise NoGroupsError("no usable group")
        return self._take(partition_id, usable, batch_size), {}

    def wait_for_sampleable(
        self, global_steps: int, partition_id: str, target_count: int
    ) -> tuple[set[str], dict[str, Any]]:
        """Wait for `target_count` usable groups, replacing those that are stale, failed or without signal.

        At the bound it replaces no more, and returns what has come, maybe nothing, when nothing is under way.

        Raises:
            WorkerDiedError: a worker has died, or too many prompts failed.
        """
        step = self._of_step(global_steps)
        since = said = time.monotonic()
        while True:
            self._sync_metadata_from_transfer_queue()
            self._require_few_failures()
            stale, uniform, failed, values = self._terminal_eviction_reasons(global_steps, partition_id)
            dropped = self._drop(stale=stale, uniform=uniform, failed=failed)
            usable = self._sampleable_terminal_keys(partition_id, (stale, uniform, failed, values))
            if usable - self._known:
                step.idle_prompts = 0
            self._known = set(usable)
            refill = int(min(dropped, max(step.room(self.options), 0)))
            if refill:
                self.refill_fn(refill)
                step.generate(refill)
                continue
            if self._has_enough_samples(global_steps, partition_id, target_count, usable):
                return usable, {}
            if not self._in_flight(partition_id):  # nothing more can come
                self._say_short(len(usable), target_count)
                return usable, {}
            said = self._pause(partition_id, since, said)
