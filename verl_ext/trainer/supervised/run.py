"""From a checked configuration and its data to an exit code."""

from __future__ import annotations

import sys
from typing import Any

from omegaconf import DictConfig

from verl_ext.run_folder import only_run_in
from verl_ext.trainer.run import startup
from verl_ext.trainer.run.checkpoints import RunState, find_checkpoint
from verl_ext.trainer.run.exits import DIVERGED_EXIT_CODE, INTERRUPTED_EXIT_CODE, TrainingDivergedError
from verl_ext.trainer.run.interruption import Interruption
from verl_ext.trainer.run.launch import join_ranks
from verl_ext.trainer.supervised.trainer import SupervisedTrainer


def train(
    trainer_class: type[SupervisedTrainer],
    config: DictConfig,
    train_dataset: Any,
    val_dataset: Any | None,
    *,
    device: str,
    world_size: int,
    data_fingerprint: str | None = None,
) -> int:
    """Train from the newest checkpoint, or from the start, to the end or until a signal; returns the exit code.

    Args:
        trainer_class, config, train_dataset, val_dataset: see `SupervisedTrainer`.
        device: what `choose_device` returned.
        world_size: ranks of the run.
        data_fingerprint: of the training data, where a run is only to continue with the very same.

    Raises:
        UserError: the checkpoint belongs to another run, or the folder to a running one.
    """
    state = RunState(
        {
            "usable rows of training data": len(train_dataset),
            "data.train_batch_size": config.data.train_batch_size,
            "trainer.seed": config.trainer.seed,
            "data.shuffle": config.data.shuffle,
            "number of ranks": world_size,
            "trainer.device": device,
            "fingerprint of the training data": data_fingerprint,
        }
    )
    checkpoint = find_checkpoint(config.trainer, state)
    with only_run_in(config.trainer.default_local_dir, key="trainer.default_local_dir"), join_ranks(device):
        startup.reached("ranks")
        trainer = trainer_class(config, train_dataset, val_dataset, state, checkpoint, Interruption())
        startup.reached("model")
        try:
            complete = trainer.fit()
        except TrainingDivergedError as error:
            if trainer.rank == 0:
                print(f"error: {error}", file=sys.stderr, flush=True)
            return DIVERGED_EXIT_CODE
    return 0 if complete else INTERRUPTED_EXIT_CODE
