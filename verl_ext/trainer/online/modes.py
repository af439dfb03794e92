"""The trainer modes `nft`, `nft_colocate_async` and `nft_separate_async`: verl's trainers with what this package adds.

What verl brings: worker groups, generation servers, weight sync, log-probs, rollout correction, the update. What is
ours: prompts in an order that seed and position decide, dynamic sampling that keeps its surplus, correctness as the
source of NFT's advantages, checkpoints that are complete or absent, and an orderly end.
"""

from __future__ import annotations

from collections.abc import Iterator
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
from verl.trainer.ppo.utils import create_rl_dataset
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer
from verl.trainer.ppo.v1.trainer_base import PPOTrainer, register_trainer
from verl.trainer.ppo.v1.trainer_colocate_async import PPOTrainerColocateAsync
from verl.trainer.ppo.v1.trainer_separate_async import PPOTrainerSeparateAsync
from verl.trainer.ppo.v1.trainer_sync import PPOTrainerSync
from verl.utils import tensordict_utils as tu

from verl_ext.errors import UserError
from verl_ext.objectives.nft_advantage import correctness, decode_advantage
from verl_ext.reward.metrics import grade_metrics
from verl_ext.trainer.online import algorithm
from verl_ext.trainer.online.groups import AsyncGroupBuffer, GroupBuffer, SamplingOptions
from verl_ext.trainer.online.loop import OnlineLoop
from verl_ext.trainer.online.prompts import EvaluationBatches, PromptStream
from verl_ext.trainer.online.step_metrics import accuracy_before_sampling, shares_at_limit
from verl_ext.trainer.online.workers import DetachedOnlineWorker, OnlineWorker
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
        )
        super().__init__(config)

    def _build_replay_buffer(self) -> ReplayBuffer:
        sampler = self.config.trainer.v1.sampler
        arguments: dict[str, Any] = {
            "options": self.sampling,
            "trainer_mode": self.trainer_mode,
            "trainer_config": self.config.trainer.v1.get(self.trainer_mode, {}),
            "max_off_policy_threshold": sampler.max_off_policy_threshold,
            "max_off_policy_strategy": sampler.max_off_policy_strategy,
            "sampler_kwargs": sampler.sampler_kwargs,
            "refill_fn": self._add_prompts_to_generate,
            "filter_groups_metric": self.config.algorithm.filter_groups.metric if self.sampling.drop_uniform else None,
        }
        if self.trainer_mode == "sync":
            return GroupBuffer(train_batch_size=self.config.data.train_batch_size, **arguments)
        return AsyncGroupBuffer(**arguments)

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
        startup.reached("data")

    def _read_dataset(self, files: Any, *, is_train: bool) -> torch.utils.data.Dataset:
        return create_rl_dataset(
            files,
            self.config.data,
            self.tokenizer,
            self.processor,
            is_train=is_train,
            max_samples=self.config.data.train_max_samples if is_train else self.config.data.val_max_samples,
        )

    def _next_train_batch(self, num_prompts: int | None = None) -> TensorDict:
        return self._with_step(self.prompts.take(num_prompts or self.config.data.train_batch_size))

    def _with_step(self, batch: TensorDict) -> TensorDict:
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        return batch

    def _compute_advantage(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        metrics.update(self._grading_metrics(batch))
        metrics.update(accuracy_before_sampling(metrics))
        if self.config.algorithm.adv_estimator != algorithm.NAME:
            return super()._compute_advantage(batch, metrics)
        with self._correctness_as_reward(batch):
            batch = super()._compute_advantage(batch, metrics)
        metrics.update(self._group_metrics(batch))
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
        correct = torch.tensor(self._correct(batch, data["extra_fields"]))
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

    def _correct(self, batch: KVBatchMeta, extra_fields: Any) -> list[float]:
        """1 for a correct answer, 0 for a wrong one and for a row that only fills up the batch."""
        infos = {
            row: getattr(fields, "data", fields)["reward_extra_info"]
            for row, (tag, fields) in enumerate(zip(batch.tags, extra_fields, strict=True))
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
        return [float(found.get(row, False)) for row in range(len(batch.tags))]

    def _grading_metrics(self, batch: KVBatchMeta) -> dict[str, float]:
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
            metrics |= grade_metrics([i["grade_status"] for i in infos], [i["grade_seconds"] for i in infos])
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

    def _update_actor(self, batch: KVBatchMeta, metrics: dict[str, Any]) -> KVBatchMeta:
        batch = super()._update_actor(batch, metrics)
        metrics.update(algorithm.read_statistics(metrics))
        return batch

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


@register_trainer("nft")
class NFTTrainer(_OnlineTrainer, PPOTrainerSync):
    """Generation and training take turns on the same devices."""

    def prepare_step(self) -> dict[str, Any]:
        return {}  # the buffer knows how many prompts a step needs


@register_trainer("nft_colocate_async")
class NFTTrainerColocateAsync(_OnlineTrainer, PPOTrainerColocateAsync):
    """Generation is interrupted for an update and goes on with the new weights."""


@register_trainer("nft_separate_async")
class NFTTrainerSeparateAsync(_OnlineTrainer, PPOTrainerSeparateAsync):
    """Generation on devices of its own, beside training."""

    worker_class = DetachedOnlineWorker
