"""The loop of an online run: steps, validation, checkpoints, metrics, and an end that loses nothing."""

from __future__ import annotations

import json
import math
import socket
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import ray
import transfer_queue as tq
from omegaconf import OmegaConf
from ray.exceptions import RayActorError, RayTaskError
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop import AgentLoopManager
from verl.utils.debug import marked_timer
from verl.utils.skip import SkipManager

from verl_ext.trainer.online.generations import read_answers, write_lines
from verl_ext.trainer.online.group_files import get_groups, put_groups, waiting_groups
from verl_ext.trainer.online.health import ActorWatch, wait_for
from verl_ext.trainer.online.outcomes import EmptySteps, Outcomes
from verl_ext.trainer.online.pass_rates import Journal
from verl_ext.trainer.online.sample_log import SampleLog
from verl_ext.trainer.online.step_metrics import accuracy_before_sampling, outcomes_of
from verl_ext.trainer.online.stop_request import start_stop_request
from verl_ext.trainer.online.stopping import (
    ROWS_FILE,
    UPDATE_FILE,
    OpenUpdate,
    StepInterruptedError,
)
from verl_ext.trainer.online.validation import OnlineValidation
from verl_ext.trainer.online.workers import MINI_BATCHES
from verl_ext.trainer.run import startup
from verl_ext.trainer.run.checkpoints import Progress
from verl_ext.trainer.run.exits import TrainingDivergedError, WorkerDiedError
from verl_ext.trainer.run.identity import Identity
from verl_ext.trainer.run.interruption import Interruption
from verl_ext.trainer.run.log import RunLog
from verl_ext.trainer.run.resume import Holding, Resumption, decide, look, nothing_to_do, open_run_folder

STORE_START_S = 600.0
"""The store of samples has started by then, or will not."""
SAMPLING_FILE = "sampling.json"
SURPLUS_FILE = "surplus_groups.jsonl"


class OnlineLoop(OnlineValidation):
    """Mixin of verl's trainers: replaces their loop, their checkpoints and their validation."""

    interruption: Interruption
    transfer_queue: Future
    """Done when verl's store of samples can be used."""
    identity: Identity
    default_values: Mapping[str, Any]
    """Dotted key -> value, of the configuration without the user's overrides."""

    def fit(self, agent_loop_manager: AgentLoopManager) -> bool:
        """Train to the end, or until a signal.

        Returns:
            Whether the run is complete; False when a signal ended it early (it was saved then).

        Raises:
            WorkerDiedError: a process that the run depends on has died.
            TrainingDivergedError: `trainer.max_skipped_updates` updates in a row were skipped.
            NothingToLearnError: `trainer.max_empty_steps` steps in a row had no usable group.
        """
        self.agent_loop_manager = agent_loop_manager
        watch = ActorWatch(self.watched_actors())
        self.replay_buffer.check_workers = lambda: self._check(watch)
        SkipManager.init(self.config)
        first_step = self.global_steps
        self.prev_step_profile = self.next_step_profile = False
        self.curr_step_profile = first_step + 1 in (self.config.global_profiler.steps or ())
        self.log = RunLog(
            OmegaConf.to_container(self.config, resolve=True),
            total_steps=self.total_training_steps,
            first_step=first_step,
            active=True,
            headline=_headline,
            run_id=self.resumption.state.run_id,
        )
        for note in self.resumption.notes:
            self.log.note(note)
        self.validation_generations_logger = SampleLog(
            self.config.trainer.project_name, self.config.trainer.experiment_name, self.log.note
        )
        startup.reached("agent loops")
        try:
            return self._run(first_step)
        except RayActorError as error:  # while weights are handed over, a dead server breaks the call of a trainer
            watch.explain(error)
        finally:
            self._shutdown_dump_executor()
            self.log.close()

    def _run(self, first_step: int) -> bool:
        if first_step:
            self.log.note(f"continuing after step {first_step} of {self.total_training_steps}")
        if self.empty_steps.count:
            self.log.note(f"the last {self.empty_steps.count} steps had nothing to learn from; they are counted on")
        if first_step >= self.total_training_steps:
            if not self.resumption.finished:  # killed after the last save, before its weights were written
                self._add_weights(self.checkpoint.path)
            self.log.note(nothing_to_do(first_step, self.total_training_steps))
            return True
        if self.interruption.received is not None:
            self.log.note(f"stopped before step {first_step + 1} by {self.interruption.received}: nothing to save")
            return False
        self._listen_inside_updates()
        try:
            if self._validation_due:
                self.log.validation(first_step, self._timed_validation())
                startup.reached("validation")
            if self.config.trainer.val_only:
                return True
            self.global_steps = first_step + 1  # of which the prompts are that are generated from here on
            self._reissue_inflight_prompts()
            self.on_train_begin()
            startup.reached("first weights")
            self.log.note(startup.line())
            return self._run_steps(first_step)
        except StepInterruptedError as interrupted:
            return self._stop(interrupted.update)

    def _run_steps(self, first_step: int) -> bool:
        for step in range(first_step + 1, self.total_training_steps + 1):
            self.global_steps = step
            SkipManager.set_step(step)
            metrics = self._one_step()
            self._steps_done, self._prompts_added, self.local_trigger_step = step, False, 0
            self.log.step(step, metrics | startup.metrics() if step == first_step + 1 else metrics)
            is_last = step == self.total_training_steps
            self._validation_due = self.has_validation and (is_last or self._is_due(self.config.trainer.test_freq))
            if self.interruption.received is not None and not is_last:
                return self._stop()
            if self._validation_due:
                self._saved_all = is_last
                self.log.validation(step, self._timed_validation())
            self._require_something_to_learn(is_saved=is_last)
        return True

    def _require_something_to_learn(self, *, is_saved: bool) -> None:
        """End a run that learns nothing any more, with what it has learned saved."""
        max_empty_steps = self.config.trainer.max_empty_steps
        if self.empty_steps.count >= max_empty_steps and self.progress.total_tokens and not is_saved:
            self.end_generation()
            self._save_checkpoint(with_weights=True)
        self.empty_steps.require_something_to_learn(max_empty_steps)

    def _check(self, watch: ActorWatch) -> None:
        """Called while the driver waits for groups.

        Raises:
            StepInterruptedError: a signal has come, and this is a place to stop at.
            WorkerDiedError: a process that the run depends on has died.
        """
        watch.check()
        if self.interruption.received is not None and self.local_trigger_step == 0 and not self._saved_all:
            raise StepInterruptedError

    def _listen_inside_updates(self) -> None:
        """Let the ranks know of a signal while this process waits for their update."""
        if self.parameter_sync_step > 1:  # one mini-batch an update: the step is made of them
            return
        request = start_stop_request()
        self.actor_rollout_wg.heed(request)

        def tell() -> None:
            ray.get(request.ask.remote())
            print(f"{self.interruption.received}: stopping inside this step", flush=True)

        self.interruption.on_signal = tell

    def _stop(self, update: OpenUpdate | None = None) -> bool:
        """Save where the run stands, which is inside a step or behind one; always False."""
        files = self._files() | (update.files() if update else {})  # first: ending requests completes their groups
        step, inside = self._steps_done, self.global_steps > self._steps_done
        self.global_steps = step
        if update is None:
            self.end_generation()
        self._save_checkpoint(files=files)  # whoever asked waits neither for a validation nor for an export
        where = f"inside step {step + 1}" if inside else f"after step {step}"
        self.log.note(f"stopped {where} by {self.interruption.received}; the same command continues from here")
        return False

    def _one_step(self) -> dict[str, float]:
        """Generate, update, save, and give the new weights to the rollout servers."""
        metrics: dict[str, Any] = {}
        self.timing_raw = {}
        is_last = self.global_steps == self.total_training_steps
        with marked_timer("step", self.timing_raw):
            self.on_step_begin()
            self._start_profiling()
            batch = (self._finish_update if self._open_update else self.step)(metrics, self.timing_raw)
            self._stop_profiling()
            metrics.update(self.replay_buffer.step_metrics())
            metrics.update(accuracy_before_sampling(metrics))
            self.replay_buffer.journal.write()
            self.progress.total_tokens += sum(tag["seq_len"] for tag in batch.tags if not tag.get("is_padding", False))
            self._count_empty(batch)
            self._count_skipped(metrics)
            if is_last or self._is_due(self.config.trainer.save_freq):
                with marked_timer("save_checkpoint", self.timing_raw):
                    self._save_checkpoint(with_weights=is_last)
            self.on_step_end()
            metrics.update(self._consume_sync_metrics())
        if not batch.keys:
            return {**metrics, "perf/time_per_step": self.timing_raw["step"]}
        self._compute_metrics(
            batch, metrics, self.timing_raw, self.global_steps, self.prompts.position / self.num_train_prompts
        )
        if self.config.trainer.rollout_data_dir:
            self._log_rollout_data(batch, self.timing_raw, self.config.trainer.rollout_data_dir)
        tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
        return {name: float(value) for name, value in metrics.items() if np.isscalar(value)}

    def _finish_update(self, metrics: dict[str, Any], timing_raw: dict[str, float]) -> KVBatchMeta:
        """The rest of a step that an earlier run began: what remains of its update."""
        update, self._open_update = self._open_update, None
        self.on_sample_begin()
        self.on_sample_end()
        measured: dict[str, Any] = {}
        try:
            with marked_timer("update_actor", timing_raw):
                batch = self._update_actor(update.batch(), measured, first_mini_batch=update.mini_batches_done)
        except StepInterruptedError as again:
            again.update.metrics = update.metrics_with(again.update.metrics, again.update.mini_batches_done)
            raise
        metrics.update(update.metrics_with(measured, int(measured[f"actor/{MINI_BATCHES}"])))
        return batch

    def _is_due(self, frequency: int) -> bool:
        return frequency > 0 and self.global_steps % frequency == 0

    def _timed_validation(self) -> dict[str, float]:
        started = time.perf_counter()
        self.on_validate_begin()
        metrics = self._validate()
        self.on_validate_end()
        return {**metrics, "perf/validation_seconds": time.perf_counter() - started}

    def _load_checkpoint(self) -> None:
        startup.reached("workers and servers")
        wait_for(self.transfer_queue, "the store of samples (transfer_queue)", limit_s=STORE_START_S)
        trainer = self.config.trainer
        self.resumption = self._decide(self.actor_rollout_wg.look_for_checkpoints(trainer))
        open_run_folder(trainer, self.resumption.state)
        self.actor_rollout_wg.open_checkpoints(
            *(self.resumption.state, trainer.default_local_dir),
            *(trainer.max_actor_ckpt_to_keep, trainer.default_hdfs_dir),
        )
        self.checkpoint = self.resumption.checkpoint(trainer)
        self.global_steps = self._steps_done = self.local_trigger_step = 0
        self.progress = Progress()
        self.empty_steps = EmptySteps()
        self._in_flight: list[int] = []
        self._open_update: OpenUpdate | None = None
        self._prompts_added = self._saved_all = False
        self._validation_due = self.has_validation and trainer.val_before_train
        if self.checkpoint is None:
            self._open_journal(0)
            return
        self.actor_rollout_wg.restore(str(self.checkpoint.path), self.checkpoint.extended)
        self.global_steps = self._steps_done = self.checkpoint.step
        self.progress = self.checkpoint.progress
        sampling = json.loads((self.checkpoint.path / SAMPLING_FILE).read_text())
        self.prompts.position = sampling["position"]
        self._in_flight = sampling["in_flight"]
        self._open_journal(sampling.get("pass_rates_bytes", 0))
        self.replay_buffer.restore(sampling["buffer"])
        self.empty_steps = EmptySteps.restored(sampling.get("empty_steps"))
        self._prompts_added = sampling.get("prompts_added", False)
        self._validation_due = sampling.get("validation_due", False)
        if (self.checkpoint.path / UPDATE_FILE).exists():
            texts = [(self.checkpoint.path / name).read_text() for name in (UPDATE_FILE, ROWS_FILE)]
            self._open_update = OpenUpdate.restore(*texts)
        groups = put_groups((self.checkpoint.path / SURPLUS_FILE).read_text().splitlines())
        self._restored_tq_prompt_count = groups + len(self._in_flight)

    def _open_journal(self, kept: int) -> None:
        self.replay_buffer.journal = Journal(Path(self.config.trainer.default_local_dir), kept, self.prompts.problems)

    def _decide(self, of_workers: Sequence[Holding] = ()) -> Resumption:
        """What to continue from, of what this process holds; the workers' own, once there are any, must agree.

        Raises:
            UserError: it belongs to another run, or is not on every machine.
        """
        own = look(self.config.trainer, f"the driver on {socket.gethostname()}")
        return decide(
            *(self.config.trainer, self.identity, self.total_training_steps),
            *([own, *of_workers], self.default_values),
        )

    def _reissue_inflight_prompts(self, partition_id: str = "train") -> int:
        if self._in_flight:
            self._submit_batch_to_rollout(self._with_step(self.prompts.at(self._in_flight)))
        return len(self._in_flight)

    def _files(self) -> dict[str, str]:
        """What this process adds to a checkpoint: name -> text."""
        done, under_way = waiting_groups()
        sampling = {
            "pass_rates_bytes": self.replay_buffer.journal.write(),
            "position": self.prompts.position,
            "in_flight": sorted(int(uid) for uid in under_way),
            "prompts_added": self._prompts_added and self.global_steps > self._steps_done,
            "validation_due": self._validation_due and self.global_steps == self._steps_done,
            "buffer": self.replay_buffer.state(),
            "empty_steps": self.empty_steps.state(),
        }
        return {SAMPLING_FILE: json.dumps(sampling, indent=2), SURPLUS_FILE: "".join(get_groups(done))}

    def _save_checkpoint(self, *, with_weights: bool = False, files: dict[str, str] | None = None) -> None:
        files = [ray.put(self._files() if files is None else files)]
        try:
            path = self.actor_rollout_wg.save(self.global_steps, self.progress, files)[0]
        except RayTaskError as error:
            if isinstance(error.cause, RayActorError):  # not the disk: another process died meanwhile
                raise error.cause from error
            raise WorkerDiedError(
                f"cannot save step {self.global_steps} in {self.config.trainer.default_local_dir}: "
                f"{' '.join(str(error.cause).split())[:300]}"
            ) from error
        self.log.note(f"saved {path}")
        if with_weights:
            self._add_weights(path)
        self.checkpoint_callback.on_save(
            trainer=self, global_step=self.global_steps, checkpoint_dir=path, async_save=False
        )

    def _add_weights(self, path: Path | str) -> None:
        self.actor_rollout_wg.add_weights(str(path))
        self.log.note(f"Hugging Face model in {Path(path) / 'huggingface'}")

    def _log_rollout_data(self, batch: KVBatchMeta, timing_raw: dict[str, float], rollout_data_dir: str) -> None:
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        rows = read_answers(sorted(keys), batch.partition_id, self.tokenizer)
        self._dump_futures.append(
            self._dump_executor.submit(write_lines, Path(rollout_data_dir) / f"{self.global_steps}.jsonl", rows)
        )

    def _count_empty(self, batch: KVBatchMeta) -> None:
        """Count a step without a group to learn from, and say what its groups were."""
        outcomes = Outcomes()
        if self.replay_buffer.this_step is not None:  # None where an earlier run took the groups
            outcomes.add(self.replay_buffer.this_step.dropped)
        outcomes.add(outcomes_of(batch, self.config.actor_rollout_ref.rollout.response_length))
        self.empty_steps.add(outcomes)
        if self.empty_steps.count:
            self.log.note(
                f"step {self.global_steps}: nothing to learn from {outcomes.total} groups: {outcomes.shares()} "
                f"({self.empty_steps.count} such steps in a row; at trainer.max_empty_steps="
                f"{self.config.trainer.max_empty_steps} the run stops)"
            )

    def _count_skipped(self, metrics: dict[str, Any]) -> None:
        progress = self.progress
        gradient_norm = metrics.get("actor/grad_norm")
        if gradient_norm is not None:  # a step without an update neither is one nor ends a row of them
            skipped = not math.isfinite(gradient_norm)
            progress.skipped_updates += skipped
            progress.skipped_in_a_row = progress.skipped_in_a_row + 1 if skipped else 0
        metrics |= {
            "training/skipped_updates": progress.skipped_updates,
            "training/total_tokens": progress.total_tokens,
        }
        if progress.skipped_in_a_row >= self.config.trainer.max_skipped_updates:
            raise TrainingDivergedError(
                f"step {self.global_steps}: the gradient was not finite in {progress.skipped_in_a_row} steps in a row "
                "(trainer.max_skipped_updates)"
            )


def _headline(metrics: dict[str, float]) -> str:
    """Accuracy of the answers, gradient norm, length and seconds, of those that a step has."""
    names = {
        "reward/acc": "acc",
        "actor/grad_norm": "gradient",
        "response_length/mean": "tokens",
        "perf/time_per_step": "s",
    }
    return ", ".join(f"{short} {metrics[name]:.3g}" for name, short in names.items() if name in metrics)
