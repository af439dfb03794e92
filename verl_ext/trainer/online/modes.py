"""The trainer modes `nft`, `nft_colocate_async` and `nft_separate_async`: verl's trainers with what this package adds.

What verl brings: worker groups, generation servers, weight sync, log-probs, rollout correction, the update. What is
ours: prompts in an order that seed and position decide, dynamic sampling that keeps its surplus, correctness as the
source of NFT's advantages, checkpoints that are complete or absent, and an orderly end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import ray
import torch
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from ray.actor import ActorHandle
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.protocol import DataProto
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import HybridEngineMode, PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.dataset.rl_dataset import get_dataset_class

from verl_ext.data.prompt_dataset import PromptDataset
from verl_ext.errors import UserError
from verl_ext.model_folder import end_tokens
from verl_ext.objectives.nft_advantage import correctness, decode_advantage
from verl_ext.reward.metrics import grade_metrics, judge_metrics, program_metrics
from verl_ext.trainer.online import algorithm
from verl_ext.trainer.online.balance import order_with_groups_together
from verl_ext.trainer.online.dynamic_sampling import SamplingOptions
from verl_ext.trainer.online.groups import AsyncGroupBuffer, GroupBuffer, NoGroupsError
from verl_ext.trainer.online.loop import OnlineLoop
from verl_ext.trainer.online.prompts import EvaluationBatches, PromptStream
from verl_ext.trainer.online.step_metrics import (
    EntropyBand,
    entropy_of_tokens,
    share_of_tokens_computed,
    shares_at_limit,
)
from verl_ext.trainer.online.stopping import OpenUpdate, StepInterruptedError
from verl_ext.trainer.online.truncation import NOTHING_LEFT, Truncation, mask_truncated
from verl_ext.trainer.online.workers import (
    FIRST_MINI_BATCH,
    MINI_BATCHES,
    MINI_BATCHES_DONE,
    DetachedOnlineWorker,
    OnlineWorker,
)
from verl_ext.trainer.run import startup

MODES = {"nft": "sync", "nft_colocate_async": "colocate_async", "nft_separate_async": "separate_async"}
"""Our mode -> verl's, whose settings it reads."""


class _OnlineTrainer(OnlineLoop, PPOTrainer):
    """What the modes share."""

    worker_class = OnlineWorker

    def __init__(self, config: DictConfig) -> None:
        # verl compares the mode with the names of its own trainers (trainer_base.py, verl 0.9.1).
        config.trainer.v1.trainer_mode = MODES[config.trainer.v1.trainer_mode]
        data = config.data
        self.sampling = SamplingOptions(
            gen_batch_size=data.gen_batch_size or data.train_batch_size,
            max_gen_batches=config.algorithm.filter_groups.max_num_gen_batches,
            drop_uniform=config.algorithm.filter_groups.enable,
            max_response_length=config.actor_rollout_ref.rollout.response_length,
            drop_no_verdict=config.reward.reward_kwargs.on_no_verdict == "drop",
            exclude_truncated=config.algorithm.overlong_filtering == "exclude",
            keep_surplus=config.algorithm.filter_groups.keep_surplus,
        )
        self.entropy_band = EntropyBand(config.trainer.entropy_band)
        super().__init__(config)

    def _build_replay_buffer(self) -> ReplayBuffer:
        sampler = self.config.trainer.v1.sampler
        arguments: dict[str, Any] = {
            "options": self.sampling,
            "train_batch_size": self.config.data.train_batch_size,
            "trainer_mode": self.trainer_mode,
            "trainer_config": self.config.trainer.v1.get(self.trainer_mode, {}),
            "max_off_policy_threshold": sampler.max_off_policy_threshold,
            "max_off_policy_strategy": sampler.max_off_policy_strategy,
            "sampler_kwargs": sampler.sampler_kwargs,
            "refill_fn": self._add_prompts_to_generate,
            "filter_groups_metric": self.config.algorithm.filter_groups.metric if self.sampling.drop_uniform else None,
        }
        return (GroupBuffer if self.trainer_mode == "sync" else AsyncGroupBuffer)(**arguments)

    def _init_tokenizer(self) -> None:
        super()._init_tokenizer()
        model = omega_conf_to_dataclass(self.config.actor_rollout_ref.model)
        self.truncation = Truncation(
            self.sampling.max_response_length, end_tokens(model.generation_config, model.tokenizer)
        )
        self.replay_buffer.tell_truncated_by(self.truncation)

    def _init_resource_pool_mgr(self) -> None:
        super()._init_resource_pool_mgr()
        for role in self.role_worker_mapping:
            self.role_worker_mapping[role] = ray.remote(self.worker_class)

    def _init_dataloader(self) -> None:
        data, trainer = self.config.data, self.config.trainer
        train = self._read_dataset(data.train_files, is_train=True)
        if len(train) < data.train_batch_size:
            raise UserError(
                f"data.train_batch_size: {data.train_batch_size}, but data.train_files has {len(train)} prompts of at "
                f"most {data.max_prompt_length} tokens"
            )
        self.prompts = PromptStream(train, seed=data.seed or 0, shuffle=data.shuffle)
        self.num_train_prompts = len(train)
        validation = self._read_dataset(data.val_files, is_train=False) if data.val_files else []
        self.val_dataloader = EvaluationBatches(validation, data.val_batch_size)
        self.has_validation = len(validation) > 0
        self.steps_per_epoch = len(train) // data.train_batch_size
        self.total_training_steps = trainer.total_training_steps or self.steps_per_epoch * trainer.total_epochs
        with open_dict(self.config):
            optim = self.config.actor_rollout_ref.actor.optim
            optim.total_training_steps = self.total_training_steps * self.parameter_sync_step
        self._decide()  # before a worker is built: how long the run is to be is known from here on
        startup.reached("data")

    def _read_dataset(self, files: Any, *, is_train: bool) -> torch.utils.data.Dataset:
        data = self.config.data
        make = PromptDataset if data.custom_cls.path is None else get_dataset_class(data)
        return make(
            data_files=files,
            tokenizer=self.tokenizer,
            processor=self.processor,
            config=data,
            max_samples=data.train_max_samples if is_train else data.val_max_samples,
        )

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        return self._with_step(self.prompts.take(num_prompts or self.config.data.train_batch_size))

    def _with_step(self, batch: TensorDict) -> TensorDict:
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        return batch

    def _balance_batch(self, batch: KVBatchMeta, metrics: dict[str, Any], *arguments: Any, **named: Any) -> KVBatchMeta:
        batch = super()._balance_batch(batch, metrics, *arguments, **named)  # pads it
        actor = self.config.actor_rollout_ref.actor
        if actor.share_prompts:
            order = order_with_groups_together(
                batch.keys,
                batch.tags,
                ranks=max(self.actor_rollout_wg._dispatch_info["actor"]) + 1,
                rows_per_update=actor.ppo_mini_batch_size * self.config.actor_rollout_ref.rollout.n,
            )
            if order is not None:
                batch.reorder(order)
        return batch

    def _step_once(self, metrics: dict[str, Any], timing_raw: dict[str, float], sample_batch_size: int) -> KVBatchMeta:
        """verl's, but for an update without a usable group: then the batch is empty, and generation ends all the same."""
        try:
            return super()._step_once(metrics, timing_raw, sample_batch_size)
        except NoGroupsError:
            self.on_sample_end()
            return KVBatchMeta(partition_id="train")

    def _compute_old_log_prob(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._compute_old_log_prob(batch, metrics)
        if not self.config.algorithm.rollout_correction.bypass_mode:  # which takes log-probs of the servers, alone
            metrics["rollout/entropy"] = entropy_of_tokens(batch)
            said = self.entropy_band.add(metrics["rollout/entropy"])
            if said is not None:
                self.log.note(f"step {self.global_steps}: {said}")
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        metrics.update(self._grading_metrics(batch))
        if self.config.algorithm.adv_estimator == algorithm.NAME:
            with self._correctness_as_reward(batch):
                batch = super()._compute_advantage(batch, metrics)
            metrics.update(self._group_metrics(batch))
        else:
            batch = super()._compute_advantage(batch, metrics)
        if self.config.algorithm.overlong_filtering == "mask":
            truncated = self.truncation.of(batch.partition_id, dict(zip(batch.keys, batch.tags, strict=True)))
            mask_truncated(batch, truncated)
            metrics["sampling/truncated_masked"] = float(len(truncated))
        return batch

    @contextmanager
    def _correctness_as_reward(self, batch: KVBatchMeta) -> Iterator[None]:
        """Let verl hand correctness to the estimator, to which it gives rewards alone.

        The reward may be shaped (length penalty, format bonus); correctness is what the grader said.
        """
        data = tq.kv_batch_get(
            keys=batch.keys, partition_id=batch.partition_id, select_fields=["rm_scores", "extra_fields"]
        )
        rewards = data["rm_scores"]
        correct = torch.tensor(correctness_of_rows(batch.tags, data["extra_fields"]))
        outcome = torch.zeros(sum(len(row) for row in rewards.unbind()))
        lengths = rewards.offsets().diff()
        outcome[lengths.cumsum(0) - 1] = correct
        data["rm_scores"] = torch.nested.nested_tensor_from_jagged(outcome, offsets=rewards.offsets())
        tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data.select("rm_scores"))
        try:
            yield
        finally:
            data["rm_scores"] = rewards
            tq.kv_batch_put(keys=batch.keys, partition_id=batch.partition_id, fields=data.select("rm_scores"))

    def _grading_metrics(self, batch: KVBatchMeta) -> dict[str, float]:
        """Accuracy of the step's answers, and how grading went over these and those taken out for lack of a verdict."""
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["extra_fields"])
        infos = [
            getattr(fields, "data", fields)["reward_extra_info"]
            for tag, fields in zip(batch.tags, data["extra_fields"], strict=True)
            if not tag.get("is_padding", False)
        ]
        metrics = {}
        if infos and "acc" in infos[0]:
            metrics["reward/acc"] = float(np.mean([info["acc"] == 1 for info in infos]))
        if infos and "grade_status" in infos[0]:
            infos += self.replay_buffer.verdicts.dropped()
            seconds = [i["grade_seconds"] for i in infos]
            metrics |= grade_metrics([i["grade_status"] for i in infos], seconds)
            metrics |= program_metrics([i.get("grade_program", "") for i in infos], seconds)
            judged, requests = (
                [i.get(name, none) for i in infos] for name, none in (("grade_judge", ""), ("grade_requests", 0))
            )
            metrics |= judge_metrics(judged, requests, seconds)
        return metrics

    def _group_metrics(self, batch: KVBatchMeta) -> dict[str, float]:
        """Correct rates r_q of the groups of an NFT step, as quantiles, and the share of correct answers."""
        data = tq.kv_batch_get(keys=batch.keys, partition_id=batch.partition_id, select_fields=["uid", "advantages"])
        uids = np.array(data.pop("uid").tolist(), dtype=object)
        advantages = DataProto(batch=data.to_padded_tensor()).batch["advantages"]
        real = np.array([not tag.get("is_padding", False) for tag in batch.tags])
        correct, rates = decode_advantage(advantages.float())
        first = {uid: row for row, uid in reversed(list(enumerate(uids))) if real[row]}
        of_groups = rates[list(first.values())].double()
        quantiles = torch.quantile(of_groups, torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)).tolist()
        return {
            "nft/positive_share": correct[torch.from_numpy(real)].double().mean().item(),
            **{f"nft/correct_rate_p{p}": value for p, value in zip((10, 50, 90), quantiles, strict=True)},
        }

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any], *, first_mini_batch: int = 0) -> KVBatchMeta:
        if batch.extra_info.get(NOTHING_LEFT):
            self.log.note(
                f"step {self.global_steps}: all answers are truncated (algorithm.overlong_filtering=mask): no update"
            )
            return batch
        stoppable = self.parameter_sync_step == 1
        if stoppable and self.interruption.received is not None:
            raise StepInterruptedError(self._open_update_of(batch, first_mini_batch, metrics))
        batch.extra_info[FIRST_MINI_BATCH] = first_mini_batch
        batch = super()._update_actor(batch, metrics)
        metrics.update(algorithm.read_statistics(metrics))
        metrics.update(share_of_tokens_computed(metrics))
        done = int(metrics.pop(f"actor/{MINI_BATCHES_DONE}"))
        if done < metrics[f"actor/{MINI_BATCHES}"]:
            del metrics[f"actor/{MINI_BATCHES}"]
            raise StepInterruptedError(self._open_update_of(batch, done, metrics))
        return batch

    def _open_update_of(self, batch: KVBatchMeta, mini_batches_done: int, metrics: dict[str, Any]) -> OpenUpdate:
        return OpenUpdate.of(batch, mini_batches_done, metrics | self.replay_buffer.step_metrics())

    def _add_batch_to_generate(self) -> None:
        if not self._prompts_added:  # by a run that was stopped inside this step
            super()._add_batch_to_generate()
            self._prompts_added = True

    def end_generation(self) -> None:
        """End requests and give the devices to training, for a save that no step follows."""
        self.checkpoint_manager.abort_replicas()
        self.checkpoint_manager.sleep_replicas()

    def _compute_metrics(self, batch: KVBatchMeta, metrics: dict[str, Any], *arguments: Any, **named: Any) -> None:
        super()._compute_metrics(batch, metrics, *arguments, **named)
        rollout = self.config.actor_rollout_ref.rollout
        metrics.update(shares_at_limit(batch.tags, rollout.prompt_length, rollout.response_length))

    def watched_actors(self) -> dict[str, ActorHandle]:
        """The processes without which a step would never end, by the name a user knows them by."""
        servers = [handle for manager in self._rollout_server_managers() for handle in manager.server_handles]
        groups = {
            "rollout server": servers,
            "reward worker": self.reward_loop_manager.reward_loop_workers,
            "agent loop worker": self.agent_loop_manager.agent_loop_workers,
            "training worker": self.actor_rollout_wg.workers,
        }
        return {f"{name} {i}": handle for name, handles in groups.items() for i, handle in enumerate(handles)}


def correctness_of_rows(tags: Sequence[Mapping[str, Any]], extra_fields: Any) -> list[float]:
    """1 for a correct answer, 0 for a wrong one and for a row that only fills up the batch.

    Args:
        tags: of the rows; `is_padding` marks a filler.
        extra_fields: of the rows, each with what the reward said as `reward_extra_info`.

    Raises:
        UserError: the reward gives no `acc`, or one that is not right or wrong.
    """
    infos = {
        row: getattr(fields, "data", fields)["reward_extra_info"]
        for row, (tag, fields) in enumerate(zip(tags, extra_fields, strict=True))
        if not tag.get("is_padding", False)
    }
    if any("acc" not in info for info in infos.values()):
        raise UserError(
            "reward.reward_manager.name: the reward gives no `acc`, from which NFT takes whether an answer is "
            "correct; use math_verify_pool, or return acc from the custom reward function"
        )
    try:
        correct = correctness(torch.tensor([float(info["acc"]) for info in infos.values()]))
    except ValueError as error:
        raise UserError(f"acc: NFT needs answers that are right or wrong: {error}") from None
    found = dict(zip(infos, correct.tolist(), strict=True))
    return [float(found.get(row, False)) for row in range(len(tags))]


class NFTTrainer(_OnlineTrainer, PPOTrainerSync):
    """Generation and training take turns on the same devices."""

    def prepare_step(self) -> dict[str, Any]:
        return {}  # the buffer knows how many prompts a step needs


class NFTTrainerColocateAsync(_OnlineTrainer, PPOTrainerColocateAsync):
    """Generation is interrupted for an update and goes on with the new weights."""


class NFTTrainerSeparateAsync(_OnlineTrainer, PPOTrainerSeparateAsync):
    """Generation on devices of its own, beside training."""

    worker_class = DetachedOnlineWorker

    def end_generation(self) -> None:
        if self.current_mode is HybridEngineMode.ROLLOUT:
            self.switch_to_trainer()


TRAINERS = {
    "nft": NFTTrainer,
    "nft_colocate_async": NFTTrainerColocateAsync,
    "nft_separate_async": NFTTrainerSeparateAsync,
}
"""Trainer mode -> trainer (see `registration.register_trainers`)."""
