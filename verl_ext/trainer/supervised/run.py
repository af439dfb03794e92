"""From a checked configuration and its data to an exit code."""

from __future__ import annotations

import sys
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig

from verl_ext.data.batching import GlobalBatches
from verl_ext.run_folder import only_run_in
from verl_ext.trainer.run import startup
from verl_ext.trainer.run.exits import DIVERGED_EXIT_CODE, INTERRUPTED_EXIT_CODE, TrainingDivergedError
from verl_ext.trainer.run.identity import flat, identity_of
from verl_ext.trainer.run.interruption import Interruption
from verl_ext.trainer.run.launch import join_ranks
from verl_ext.trainer.run.resume import agree, nothing_to_do, open_run_folder
from verl_ext.trainer.supervised.trainer import SupervisedTrainer


def train(
    trainer_class: type[SupervisedTrainer],
    config: DictConfig,
    train_dataset: Any,
    val_dataset: Any | None,
    *,
    defaults: DictConfig,
    device: str,
    world_size: int,
) -> int:
    """Train from the newest checkpoint, or from the start, to the end or until a signal; returns the exit code.

    Args:
        trainer_class, config, train_dataset, val_dataset: see `SupervisedTrainer`.
        defaults: the configuration without the user's overrides.
        device: what `choose_device` returned.
        world_size: ranks of the run.

    Raises:
        UserError: the checkpoint belongs to another run, or the folder to a running one.
    """
    identity = identity_of(config, ranks=world_size, device=device)
    steps_per_epoch = len(GlobalBatches(len(train_dataset), config.data.train_batch_size, seed=config.trainer.seed))
    total_steps = config.trainer.total_training_steps or steps_per_epoch * config.trainer.total_epochs
    with only_run_in(config.trainer.default_local_dir, key="trainer.default_local_dir"), join_ranks(device):
        startup.reached("ranks")
        resumption = agree(config.trainer, identity, total_steps, flat(defaults))
        rank = dist.get_rank()
        if rank == 0:
            print(*resumption.notes, sep="\n", end="\n" if resumption.notes else "", flush=True)
        if resumption.finished:
            if rank == 0:
                print(nothing_to_do(resumption.step, total_steps), flush=True)
            return 0
        if rank == 0:
            open_run_folder(config.trainer, resumption.state)
        trainer = trainer_class(
            *(config, train_dataset, val_dataset, resumption.state),
            *(resumption.checkpoint(config.trainer), Interruption()),
        )
        startup.reached("model")
        try:
            complete = trainer.fit()
        except TrainingDivergedError as error:
            if rank == 0:
                print(f"error: {error}", file=sys.stderr, flush=True)
            return DIVERGED_EXIT_CODE
    return 0 if complete else INTERRUPTED_EXIT_CODE
