"""The loop of an online run: steps, validation, checkpoints, metrics, and an end that loses nothing."""

from __future__ import annotations

import json
import math
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import transfer_queue as tq
from omegaconf import OmegaConf
from ray.exceptions import RayActorError, RayTaskError
from transfer_queue import KVBatchMeta
from verl.experimental.agent_loop import AgentLoopManager
from verl.utils.debug import marked_timer
from verl.utils.skip import SkipManager

from verl_ext.trainer.online.generations import read_answers, write_lines
from verl_ext.trainer.online.group_files import get_groups, put_groups, waiting_groups
from verl_ext.trainer.online.groups import NoGroupsError
from verl_ext.trainer.online.health import ActorWatch
from verl_ext.trainer.online.validation import validation_metrics
from verl_ext.trainer.run import startup
from verl_ext.trainer.run.checkpoints import Progress, RunState, find_checkpoint
from verl_ext.trainer.run.exits import TrainingDivergedError, WorkerDiedError
from verl_ext.trainer.run.interruption import Interruption
from verl_ext.trainer.run.log import RunLog

SAMPLING_FILE = "sampling.json"
SURPLUS_FILE = "surplus_groups.jsonl"


class OnlineLoop:
    """Mixin of verl's trainers: replaces their loop, their checkpoints and their validation metrics."""

    interruption: Interruption
    transfer_queue: Future
    """Done when verl's store of samples can be used."""

    def fit(self, agent_loop_manager: AgentLoopManager) -> bool:
        """Train to the end, or until a signal.

        Returns:
            Whether the run is complete; False when a signal ended it early (it was saved then).

        Raises:
            WorkerDiedError: a process that the run depends on has died.
            TrainingDivergedError: `trainer.max_skipped_updates` updates in a row were skipped.
        """
        self.agent_loop_manager = agent_loop_manager
        watch = ActorWatch(self.watched_actors())
        self.replay_buffer.check_workers = watch.check
        SkipManager.init(self.config)
        self.prev_step_profile = self.curr_step_profile = self.next_step_profile = False
        first_step = self.global_steps
        self.log = RunLog(
            OmegaConf.to_container(self.config, resolve=True),
            total_steps=self.total_training_steps,
            first_step=first_step,
            active=True,
            headline=_headline,
        )
        startup.reached("agent loops")
        if first_step:
            self.log.note(f"continuing after step {first_step} of {self.total_training_steps}")
        try:
            if first_step >= self.total_training_steps:
                self._add_weights(self.checkpoint.path)
                return True
            if first_step == 0 and self.has_validation and self.config.trainer.val_before_train:
                self.log.validation(0, self._timed_validation())
                startup.reached("validation")
            if self.config.trainer.val_only:
                return True
            self._reissue_inflight_prompts()
            self.on_train_begin()
            startup.reached("first weights")
            self.log.note(startup.line())
            return self._run_steps(first_step)
        except RayActorError as error:  # while weights are handed over, a dead server breaks the call of a trainer
            watch.explain(error)
        finally:
            self._shutdown_dump_executor()
            self.log.close()

    def _run_steps(self, first_step: int) -> bool:
        for step in range(first_step + 1, self.total_training_steps + 1):
            self.global_steps = step
            SkipManager.set_step(step)
            metrics = self._one_step()
            self.log.step(step, metrics | startup.metrics() if step == first_step + 1 else metrics)
            is_last = step == self.total_training_steps
            if self.interruption.received is not None and not is_last:
                self.checkpoint_manager.sleep_replicas()  # whoever asked may not wait for a validation
                self._save_checkpoint(with_weights=True)
                self.log.note(
                    f"stopped after step {step} by {self.interruption.received}; the same command continues from here"
                )
                return False
            if self.has_validation and (is_last or self._is_due(self.config.trainer.test_freq)):
                self.log.validation(step, self._timed_validation())
        return True

    def _one_step(self) -> dict[str, float]:
        """Generate, update, save, and give the new weights to the rollout servers."""
        metrics: dict[str, Any] = {}
        self.timing_raw = {}
        is_last = self.global_steps == self.total_training_steps
        with marked_timer("step", self.timing_raw):
            self.on_step_begin()
            try:
                batch = self.step(metrics, self.timing_raw)
            except NoGroupsError:
                self.log.note(f"step {self.global_steps}: no group with both right and wrong answers, nothing updated")
                batch = None
            if batch is not None:
                self.progress.total_tokens += sum(
                    tag["seq_len"] for tag in batch.tags if not tag.get("is_padding", False)
                )
            self._count_skipped(metrics)
            if is_last or self._is_due(self.config.trainer.save_freq):
                with marked_timer("save_checkpoint", self.timing_raw):
                    self._save_checkpoint(with_weights=is_last)
            self.on_step_end()
            metrics.update(self._consume_sync_metrics())
        if batch is None:
            return {**metrics, "perf/time_per_step": self.timing_raw["step"]}
        self._compute_metrics(
            batch, metrics, self.timing_raw, self.global_steps, self.prompts.position / self.num_train_prompts
        )
        if self.config.trainer.rollout_data_dir:
            self._log_rollout_data(batch, self.timing_raw, self.config.trainer.rollout_data_dir)
        tq.kv_clear(keys=batch.keys, partition_id=batch.partition_id)
        return {name: float(value) for name, value in metrics.items() if np.isscalar(value)}

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
        self.transfer_queue.result()
        state = self._run_state()
        trainer = self.config.trainer
        self.actor_rollout_wg.open_checkpoints(
            state, trainer.default_local_dir, trainer.max_actor_ckpt_to_keep, trainer.default_hdfs_dir
        )
        self.checkpoint = find_checkpoint(trainer, state)
        self.global_steps = 0
        self.progress = Progress()
        self._in_flight: list[int] = []
        if self.checkpoint is None:
            return
        self.actor_rollout_wg.restore(str(self.checkpoint.path))
        self.global_steps = self.checkpoint.step
        self.progress = self.checkpoint.progress
        sampling = json.loads((self.checkpoint.path / SAMPLING_FILE).read_text())
        self.prompts.position = sampling["position"]
        self._in_flight = sampling["in_flight"]
        self.replay_buffer.restore(sampling["buffer"])
        groups = put_groups((self.checkpoint.path / SURPLUS_FILE).read_text().splitlines())
        self._restored_tq_prompt_count = groups + len(self._in_flight)

    def _reissue_inflight_prompts(self, partition_id: str = "train") -> int:
        if self._in_flight:
            self._submit_batch_to_rollout(self._with_step(self.prompts.at(self._in_flight)))
        return len(self._in_flight)

    def _save_checkpoint(self, *, with_weights: bool = False) -> None:
        done, in_flight = waiting_groups()
        sampling = {
            "position": self.prompts.position,
            "in_flight": sorted(int(uid) for uid in in_flight),
            "buffer": self.replay_buffer.state(),
        }
        files = {SAMPLING_FILE: json.dumps(sampling, indent=2), SURPLUS_FILE: "".join(get_groups(done))}
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

    def _add_weights(self, path: Path | str) -> None:
        self.actor_rollout_wg.add_weights(str(path))
        self.log.note(f"Hugging Face model in {Path(path) / 'huggingface'}")

    def _run_state(self) -> RunState:
        config = self.config
        return RunState(
            {
                "rows of data.train_files": self.num_train_prompts,
                "data.train_batch_size": config.data.train_batch_size,
                "data.seed": config.data.seed,
                "data.shuffle": config.data.shuffle,
                "actor_rollout_ref.rollout.n": config.actor_rollout_ref.rollout.n,
                "number of ranks": config.trainer.nnodes * config.trainer.n_gpus_per_node,
                "trainer.device": config.trainer.device,
            }
        )

    def _log_rollout_data(self, batch: KVBatchMeta, timing_raw: dict[str, float], rollout_data_dir: str) -> None:
        keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
        rows = read_answers(sorted(keys), batch.partition_id, self.tokenizer)
        self._dump_futures.append(
            self._dump_executor.submit(write_lines, Path(rollout_data_dir) / f"{self.global_steps}.jsonl", rows)
        )

    @staticmethod
    def _write_generations(
        inputs: list[str],
        outputs: list[str],
        gts: list[Any],
        scores: list[float],
        reward_extra_infos_dict: dict[str, list],
        dump_path: str,
        global_steps: int,
    ) -> None:
        columns = {"prompt": inputs, "response": outputs, "ground_truth": gts, "score": scores}
        columns |= {name: values for name, values in reward_extra_infos_dict.items() if len(values) == len(inputs)}
        rows = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        write_lines(Path(dump_path) / f"{global_steps}.jsonl", rows)

    def _val_metrics_update(
        self,
        data_sources: list[str],
        sample_uids: list[str],
        reward_extra_infos_dict: dict[str, list],
        *_: Any,
        **__: Any,
    ) -> dict[str, float]:
        return validation_metrics(data_sources, sample_uids, reward_extra_infos_dict)

    def _count_skipped(self, metrics: dict[str, Any]) -> None:
        progress = self.progress
        gradient_norm = metrics.get("actor/grad_norm", 0.0)
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
