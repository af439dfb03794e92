"""Run by torchrun: an update in one piece, and the same stopped between two of its mini-batches and continued.

Usage: stopped_update_worker.py WORKSPACE; rank 0 writes WORKSPACE/stopped_update.json.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from pathlib import Path

import torch
import torch.distributed as dist
from verl.trainer import sft_trainer
from verl.utils import tensordict_utils as tu

from tests.integration.nft_gradient_worker import compose, full, nft_advantages, trainer_of
from tests.support.actor_batch import actor_batch, nft_loss
from tests.support.local_ray import local_ray
from verl_ext.trainer.online.stop_request import start_stop_request
from verl_ext.trainer.online.workers import FIRST_MINI_BATCH, MINI_BATCHES, MINI_BATCHES_DONE, OnlineTrainingWorker
from verl_ext.trainer.run.launch import choose_device, join_ranks

OPTIONS = {
    "data.train_batch_size": 2,
    "data.micro_batch_size_per_gpu": 2,
    "optim.lr": 1e-2,
    "optim.lr_warmup_steps": 0,
    "optim.lr_warmup_steps_ratio": 0.0,
    "optim.clip_grad": 1.0,
}


class Actor:
    """A rank of the actor with a batch of 16 answers, in 4 mini-batches, twice."""

    def __init__(self, workspace: Path, world_size: int, device: str) -> None:
        update, dataset = trainer_of(compose(workspace, "even.jsonl", {}), world_size, device, OPTIONS)
        self.worker: OnlineTrainingWorker = update.client
        self.worker.set_loss_fn(nft_loss())
        groups = [[dataset.correct_of(row) for row in dataset.rows_of(group)] for group in range(2)]
        share = slice(16 // world_size * dist.get_rank(), 16 // world_size * (dist.get_rank() + 1))
        self._rows = [dataset.row(row) for row in range(16)][share]
        self._advantages = nft_advantages(groups)[share]

    def update(self, first_mini_batch: int = 0) -> tuple[int, int]:
        """(mini-batches done, mini-batches of the update)."""
        data = actor_batch(
            self._rows,
            self._advantages,
            mini_batch_size=4,
            global_batch_size=4,
            epochs=2,
            seed=3,
            dataloader_kwargs={"shuffle": True},
            temperature=1.0,
            use_dynamic_bsz=False,
            micro_batch_size_per_gpu=2,
        )
        tu.assign_non_tensor(data, **{FIRST_MINI_BATCH: first_mini_batch})
        metrics = tu.get(self.worker.train_mini_batch(data), "metrics")
        (done,), (all_of_them,) = metrics[MINI_BATCHES_DONE], metrics[MINI_BATCHES]
        return done, all_of_them

    def state(self) -> dict[str, torch.Tensor]:
        """Weights and the position of the learning rate."""
        weights = {name: full(p).detach().clone() for name, p in self.worker.engine.module.named_parameters()}
        return {**weights, "schedule": torch.tensor(self.worker.engine.lr_scheduler.last_epoch)}


def main(workspace: Path) -> None:
    world_size = int(os.environ["WORLD_SIZE"])
    device = choose_device(compose(workspace, "even.jsonl", {}))
    sft_trainer.TrainingWorker = OnlineTrainingWorker
    with join_ranks(device), local_ray() if dist.get_rank() == 0 else nullcontext():
        whole = Actor(workspace, world_size, device)
        start = whole.state()
        result = {"whole": whole.update()}

        stopped = Actor(workspace, world_size, device)
        if dist.get_rank() == 0:
            request = start_stop_request()
            request.ask.remote()
            stopped.worker.stop_request = request
        else:
            stopped.worker.stop_request = object()  # rank 0 alone asks
        result["stopped"] = stopped.update()
        half_way = stopped.state()
        result["stopped_again"] = stopped.update(first_mini_batch=1)
        stopped.worker.stop_request = None
        result["continued"] = stopped.update(first_mini_batch=2)

        of_whole, of_stopped = whole.state(), stopped.state()
        result["same"] = all(torch.equal(of_whole[name], of_stopped[name]) for name in of_whole)
        result["moved"] = [
            max((a[name] - b[name]).abs().max().item() for name in a if name != "schedule")
            for a, b in ((start, half_way), (half_way, of_stopped))
        ]
        result["schedule"] = [int(state["schedule"]) for state in (start, half_way, of_stopped)]
        if dist.get_rank() == 0:
            (workspace / "stopped_update.json").write_text(json.dumps(result))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
