"""Groups of answers between generation and update: dynamic sampling that throws no usable group away.

A group is all answers to one prompt. One whose answers are all right or all wrong has no gradient and is replaced.
Where more usable groups come than the update takes, the surplus opens the next one.
"""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from verl_ext.trainer.run.exits import WorkerDiedError

logger = logging.getLogger(__name__)


class NoGroupsError(RuntimeError):
    """Dynamic sampling reached its bound without a single usable group."""


SAY_EVERY_S = 60.0
"""How often a long wait says what it waits for."""
MAX_FAILED_SHARE = 0.1
"""Prompts of a step that may fail in generation or grading before the run stops."""


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
    """0: no bound."""
    drop_uniform: bool
    """Whether groups without signal are dropped."""

    @property
    def max_prompts(self) -> float:
        return self.max_gen_batches * self.gen_batch_size if self.max_gen_batches else math.inf


class _Watching:
    """What both buffers share: waiting that looks after the workers and says what it waits for."""

    check_workers: Callable[[], None] = staticmethod(lambda: None)

    def state(self) -> dict[str, float]:
        """What a checkpoint keeps beside the groups themselves."""
        return {}

    def restore(self, state: dict[str, float]) -> None:
        """Take up what `state` said."""

    def _require_no_failures(self, partition_id: str, dispatched: int) -> None:
        failed = len(self.failure_keys[partition_id])
        if failed > (MAX_FAILED_SHARE * dispatched if partition_id == "train" else 0):
            self.check_workers()  # the better reason, where a worker has died
            raise WorkerDiedError(
                f"generation or grading failed for {failed} of {dispatched} prompts; the messages of the agent loop "
                "workers above say why"
            )

    def _pause(self, partition_id: str, since: float, said: float) -> float:
        """Sleep for a twentieth of the time waited so far; returns when the wait was last spoken of."""
        now = time.monotonic()
        self.check_workers()
        if now - said > SAY_EVERY_S:
            said = now
            logger.warning(
                "waiting for %d prompts in generation or grading for %.0f s (%d groups are done)",
                len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id]),
                now - since,
                len(self.finished_keys[partition_id]),
            )
        time.sleep(min(max(0.05 * (now - since), 0.02), 1.0))
        return said

    def _in_flight(self, partition_id: str) -> int:
        return len(self.pending_keys[partition_id]) + len(self.running_keys[partition_id])


class GroupBuffer(_Watching, ReplayBuffer):
    """Dynamic sampling where generation and training take turns.

    Prompts are generated in rounds, each sized so that most likely no other is needed. All of a round's answers are
    there before the next decision, so which prompts a step takes does not depend on the timing of requests.
    """

    def __init__(self, *, options: SamplingOptions, train_batch_size: int, **verl_arguments: Any) -> None:
        super().__init__(train_batch_size=train_batch_size, gen_batch_size=1, **verl_arguments)
        self.options = options
        self.acceptance = Acceptance(usable=float(train_batch_size), generated=float(options.gen_batch_size))

    def state(self) -> dict[str, float]:
        return asdict(self.acceptance)

    def restore(self, state: dict[str, float]) -> None:
        self.acceptance = Acceptance(**state)

    def sample(self, global_steps: int, partition_id: str, batch_size: int) -> tuple[KVBatchMeta, dict[str, float]]:
        """The groups of a step, generated as needed; or of a validation, whose prompts are under way already.

        Raises:
            NoGroupsError: the bound was reached without a usable group.
            WorkerDiedError: a worker has died, or too many prompts failed.
        """
        if partition_id == "val":
            self._wait_until_done(partition_id, batch_size)
            return self._take(partition_id, batch_size), {}
        metrics: Counter = Counter()
        self._sync_metadata_from_transfer_queue()
        metrics["kept_from_before"] = len(self.finished_keys[partition_id])
        while (missing := batch_size - len(self.finished_keys[partition_id])) > 0:
            generated = metrics["generated_groups"]
            room = self.options.max_prompts - generated
            if room <= 0:
                self._say_bound_reached(generated, batch_size - missing, batch_size)
                break
            prompts = self._prompts_for(missing, room)
            self.refill_fn(prompts)
            metrics["generated_groups"] += prompts
            metrics["generation_batches"] += 1
            self._wait_until_done(partition_id, prompts)
            metrics.update(self._drop_unusable(partition_id, prompts))
        batch = self._take(partition_id, min(batch_size, len(self.finished_keys[partition_id])))
        metrics["surplus_groups"] = len(self.finished_keys[partition_id])
        return batch, {f"sampling/{name}": float(value) for name, value in metrics.items()}

    def _prompts_for(self, missing: int, room: float) -> int:
        if not self.options.drop_uniform:
            return missing
        return int(min(self.acceptance.prompts_for(missing), self.options.gen_batch_size, room))

    def _wait_until_done(self, partition_id: str, dispatched: int) -> None:
        since = said = time.monotonic()
        while True:
            self._sync_metadata_from_transfer_queue()
            self._require_no_failures(partition_id, dispatched)
            if not self._in_flight(partition_id):
                return
            said = self._pause(partition_id, since, said)

    def _drop_unusable(self, partition_id: str, generated: int) -> Counter:
        """Drop failed groups and, with dynamic sampling, those without signal; count them."""
        failed = set(self.failure_keys[partition_id])
        uniform, values = self._dapo_filtered_keys(partition_id)
        self._clear_groups(partition_id, failed | uniform)
        if self.options.drop_uniform:
            self.acceptance.add(generated - len(failed) - len(uniform), generated)
        all_right = sum(count for value, count in values.items() if value > 0)
        return Counter(
            dropped_failed=len(failed), dropped_all_right=all_right, dropped_all_wrong=len(uniform) - all_right
        )

    def _take(self, partition_id: str, count: int) -> KVBatchMeta:
        """The oldest groups, in the order in which their prompts were taken."""
        done = sorted(self.finished_keys[partition_id])
        if not done:
            raise NoGroupsError("no usable group")
        chosen = done[:count]
        snapshot = dict(sorted(self.partitions[partition_id].items()))
        self.finished_keys[partition_id] -= set(chosen)
        return self._materialize_batch(partition_id, chosen, snapshot)

    def _say_bound_reached(self, generated: int, usable: int, wanted: int) -> None:
        logger.warning(
            "dynamic sampling: %d prompts (algorithm.filter_groups.max_num_gen_batches=%d) gave %d of %d groups with "
            "both right and wrong answers; this step trains on these",
            generated,
            self.options.max_gen_batches,
            usable,
            wanted,
        )


class AsyncGroupBuffer(_Watching, ReplayBufferAsync):
    """Dynamic sampling where generation goes on during training: verl's, with a bound and an eye on the workers."""

    def __init__(self, *, options: SamplingOptions, **verl_arguments: Any) -> None:
        super().__init__(**verl_arguments)
        self.options = options

    def wait_for_sampleable(
        self, global_steps: int, partition_id: str, target_count: int
    ) -> tuple[set[str], dict[str, Any]]:
        """Wait for `target_count` usable groups, replacing those that are stale, failed or without signal.

        At the bound it replaces no more and returns what has come when nothing is under way.

        Raises:
            NoGroupsError: the bound was reached without a usable group.
            WorkerDiedError: a worker has died, or too many prompts failed.
        """
        metrics: Counter = Counter()
        refilled = 0
        since = said = time.monotonic()
        while True:
            self._sync_metadata_from_transfer_queue()
            self._require_no_failures(partition_id, max(target_count, self.options.gen_batch_size))
            reasons = self._terminal_eviction_reasons(global_steps, partition_id)
            stale, uniform, failed, values = reasons
            evicted = stale | uniform | failed
            self._clear_groups(partition_id, evicted)
            all_right = sum(count for value, count in values.items() if value > 0)
            metrics.update(
                dropped_stale=len(stale),
                dropped_failed=len(failed),
                dropped_all_right=all_right,
                dropped_all_wrong=len(uniform) - all_right,
            )
            refill = min(len(evicted), int(min(self.options.max_prompts, 2**31)) - refilled)
            if refill > 0:
                self.refill_fn(refill)
                refilled += refill
                continue
            usable = self._sampleable_terminal_keys(partition_id, reasons)
            enough = self._has_enough_samples(global_steps, partition_id, target_count, usable)
            bound_reached = partition_id == "train" and refilled >= self.options.max_prompts
            if not enough and bound_reached and not self._in_flight(partition_id):
                logger.warning(
                    "dynamic sampling: after %d replacements %d of %d groups have both right and wrong answers; this "
                    "step trains on these",
                    refilled,
                    len(usable),
                    target_count,
                )
                if not usable:
                    raise NoGroupsError("no usable group")
                enough = True
            if enough:
                return usable, {f"sampling/{name}": float(value) for name, value in metrics.items()}
            said = self._pause(partition_id, since, said)
