"""verl's actor, rollout and reference workers, with what they need on every platform and for complete checkpoints."""

from __future__ import annotations

import socket
from datetime import timedelta
from pathlib import Path

import ray
import torch
import torch.distributed as dist
from omegaconf import DictConfig
from ray.actor import ActorHandle
from tensordict import TensorDict
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from verl_ext.platform.cpu_memory import keep_memory_small
from verl_ext.trainer.run.checkpoints import Checkpoints, Progress, RunState, shard_names
from verl_ext.trainer.run.quiet import quiet_libraries
from verl_ext.trainer.run.resume import Holding, look

COLLECTIVE_TIMEOUT = timedelta(minutes=60)
"""Ranks wait for the slowest one; generation, which can take longer, is not a collective."""


FIRST_MINI_BATCH = "first_mini_batch"
"""Of a batch: how many of its mini-batches an earlier update has done."""
MINI_BATCHES_DONE = "mini_batches_done"
MINI_BATCHES = "mini_batches"
"""Metrics of an update: how many are done now, and how many it has."""


class OnlineTrainingWorker(TrainingWorker):
    """A rank of the actor or of the reference model.

    An update can begin at any of its mini-batches, and ends early, between two of them, once `stop_request` says so.
    verl's loop over them (workers/engine_workers.py:275, verl 0.9.1) counts on, so that the order of the rows and the
    learning rate, which moves with the last one, are those of an update in one piece.
    """

    stop_request: ActorHandle | None = None

    def __init__(self, config: TrainingWorkerConfig) -> None:
        quiet_libraries()
        if get_device_name() == "cpu":
            keep_memory_small()
            if not dist.is_initialized():
                # verl would ask for "cpu:gloo,cpu:gloo", which torch refuses (utils/distributed.py:89, verl 0.9.1).
                dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
        super().__init__(config)
        self._first, self._next, self._done, self._stopped = 0, 0, 0, False

    def train_mini_batch(self, data: TensorDict) -> TensorDict:
        """See verl's; adds the metrics `mini_batches_done` and `mini_batches`."""
        self._first = tu.pop(data, FIRST_MINI_BATCH, default=0)
        self._next, self._done, self._stopped = 0, self._first, False
        output = super().train_mini_batch(data)
        if output is not None:
            tu.get(output, "metrics").update({MINI_BATCHES_DONE: [self._done], MINI_BATCHES: [self._next]})
        return output

    def train_batch(self, data: TensorDict) -> TensorDict | None:
        """One mini-batch; nothing where an earlier update did it, or once this one was asked to stop."""
        self._next += 1
        if self._next <= self._first or self._stopping():
            return tu.get_tensordict(tensor_dict={}, non_tensor_dict={"metrics": {}})
        self._done = self._next
        if not self._average_over_answers(data):
            return self._without_answers(data)
        return super().train_batch(data)

    def _without_answers(self, data: TensorDict) -> TensorDict:
        """A mini-batch whose answers are all masked: no update, but the learning rate moves on with the step."""
        is_last = tu.get(data, "update_lr_scheduler", default=False)
        learning_rate = {"lr": self.engine.lr_scheduler_step()} if is_last else {}
        return tu.get_tensordict(tensor_dict={}, non_tensor_dict={"metrics": learning_rate})

    def _stopping(self) -> bool:
        """Whether rank 0 has found that this update is to end here; never before a mini-batch has been done."""
        if not self._stopped and self._done > self._first and self.stop_request is not None:
            asked = dist.get_rank() == 0 and ray.get(self.stop_request.asked.remote())
            flag = torch.tensor(int(asked), device=get_device_name())
            dist.broadcast(flag, src=0)
            self._stopped = bool(flag.item())
        return self._stopped

    def _average_over_answers(self, data: TensorDict) -> int:
        """Let loss modes that average over answers count those that are there, as the one over tokens does.

        verl divides by the configured size of a mini-batch, in which rows count that only fill it up: answers that
        failed, that were dropped, that never came, that are masked because they are truncated. Returns how many there are.
        """
        answers = torch.tensor(count_answers(data["loss_mask"]), device=get_device_id())
        dist.all_reduce(answers, group=self.engine.get_data_parallel_group())
        tu.assign_non_tensor(data, global_batch_size=max(answers.item(), 1))
        return int(answers.item())


def count_answers(loss_mask: torch.Tensor) -> int:
    """Rows with at least one token to learn, of a jagged mask (rows, tokens)."""
    return sum(bool(row.any()) for row in loss_mask.unbind())


class _OnlineMethods:
    """What our driver asks of a rank, beside what verl's does."""

    actor_worker_cls = OnlineTrainingWorker
    ref_worker_cls = OnlineTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Build the model, all ranks from the same random state."""
        torch.manual_seed(self.config.actor.data_loader_seed)
        super().init_model()
        for worker in (self.actor, self.ref):
            if worker is not None:
                worker.engine.share_prompts = self.config.actor.share_prompts
        if self.actor is not None and dist.get_rank() == 0:
            print(f"loss head: {self.actor.engine.loss_head}\nprompts: {self._prompts()}", flush=True)

    def _prompts(self) -> str:
        if self.config.actor.share_prompts:
            return "once for all of their answers in a micro-batch"
        reason = self.actor.engine.why_not_shared() or "actor_rollout_ref.actor.share_prompts is off"
        return f"once an answer, because {reason}"

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def look_for_checkpoints(self, trainer: DictConfig) -> Holding:
        """What this rank holds of the checkpoints that the configuration's `trainer` group may mean."""
        rank = dist.get_rank()
        return look(trainer, f"rank {rank} on {socket.gethostname()}", shard_names(rank, dist.get_world_size()))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def heed(self, stop_request: ActorHandle) -> None:
        """Look at this between the mini-batches of an update."""
        self.actor.stop_request = stop_request

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def open_checkpoints(self, state: RunState, folder: str, max_to_keep: int | None, hdfs_dir: str | None) -> None:
        """Say where checkpoints go; call once, after `init_model`."""
        self._checkpoints = Checkpoints(self.actor.engine, state, folder, max_to_keep=max_to_keep, hdfs_dir=hdfs_dir)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def restore(self, path: str, extended: bool) -> None:
        """Load a complete checkpoint; `extended`: of a run that is to be longer now."""
        self._checkpoints.load(Path(path), extended=extended)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save(self, step: int, progress: Progress, files: list[ray.ObjectRef]) -> str:
        """Save a checkpoint; returns its folder.

        Args:
            files: one reference to the driver's own files (name -> text), which only the ranks that write them fetch.
        """
        path = self._checkpoints.save(step, progress, files=lambda: ray.get(files[0]))
        self._checkpoints.copy_to_hdfs(path)
        return str(path)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def add_weights(self, path: str) -> None:
        """Write a checkpoint's weights in Hugging Face form, unless they are there."""
        if not self._checkpoints.has_weights(Path(path)):
            self._checkpoints.add_weights(Path(path))


class OnlineWorker(_OnlineMethods, ActorRolloutRefWorker):
    """Actor, rollout and reference on one rank."""


class DetachedOnlineWorker(_OnlineMethods, DetachActorWorker):
    """The same beside generation servers of their own: keeps copies of the weights for verl's decoupled updates."""
