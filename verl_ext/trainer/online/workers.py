"""verl's actor, rollout and reference workers, with what they need on every platform and for complete checkpoints."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from verl.experimental.separation.engine_workers import DetachActorWorker
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils.device import get_device_name
from verl.workers.config import TrainingWorkerConfig
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from verl_ext.platform.cpu_memory import keep_memory_small
from verl_ext.trainer.run.checkpoints import Checkpoints, Progress, RunState
from verl_ext.trainer.run.quiet import quiet_libraries

COLLECTIVE_TIMEOUT = timedelta(minutes=60)
"""Ranks wait for the slowest one; generation, which can take longer, is not a collective."""


class OnlineTrainingWorker(TrainingWorker):
    """A rank of the actor or of the reference model."""

    def __init__(self, config: TrainingWorkerConfig) -> None:
        quiet_libraries()
        if get_device_name() == "cpu":
            keep_memory_small()
            if not dist.is_initialized():
                # verl would ask for "cpu:gloo,cpu:gloo", which torch refuses (utils/distributed.py:89, verl 0.9.1).
                dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
        super().__init__(config)


class _OnlineMethods:
    """What our driver asks of a rank, beside what verl's does."""

    actor_worker_cls = OnlineTrainingWorker
    ref_worker_cls = OnlineTrainingWorker

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """Build the model, all ranks from the same random state."""
        torch.manual_seed(self.config.actor.data_loader_seed)
        super().init_model()
        if self.actor is not None and dist.get_rank() == 0:
            print(f"loss head: {self.actor.engine.loss_head}", flush=True)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def open_checkpoints(self, state: RunState, folder: str, max_to_keep: int | None, hdfs_dir: str | None) -> None:
        """Say where checkpoints go; call once, after `init_model`."""
        self._checkpoints = Checkpoints(self.actor.engine, state, folder, max_to_keep=max_to_keep, hdfs_dir=hdfs_dir)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def restore(self, path: str) -> None:
        """Load a complete checkpoint."""
        self._checkpoints.load(Path(path))

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save(self, step: int, progress: Progress, files: dict[str, str]) -> str:
        """Save a checkpoint with the driver's own files in it; returns its folder."""
        path = self._checkpoints.save(step, progress, files=files)
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
