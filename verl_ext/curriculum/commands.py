"""What a stage starts: the command of its trainer or evaluation, in a folder of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_ext.curriculum.plan import EVALUATION, OFFLINE, ONLINE, Stage


def folder_of(run_dir: Path, number: int, stage: Stage) -> Path:
    """`RUN/01-NAME`."""
    return run_dir / f"{number:02d}-{stage.name}"


def arguments_of(stage: Stage, model: str, train: Sequence[str], folder: Path) -> list[str]:
    """`key=value` of a stage's program.

    Args:
        stage: whose.
        model: a folder or hub id with the weights that it begins with.
        train: its training files.
        folder: its own.
    """
    settings = {name: _spelt(value) for name, value in stage.settings.items()}
    if stage.trainer == EVALUATION:
        own = {"model": model, "output_dir": str(folder)}
    else:
        online = stage.trainer == ONLINE
        own = {
            ("actor_rollout_ref.model.path" if online else "model.path"): model,
            ("data.rollouts" if stage.trainer == OFFLINE else "data.train_files"): _spelt(list(train)),
            "trainer.default_local_dir": str(folder),
            "trainer.resume_mode": "auto",
        }
        if stage.until.steps is not None:
            own["trainer.total_training_steps"] = str(stage.until.steps)
        if stage.trainer in ("dft", "sft"):
            own["objective.name"] = stage.trainer
    return [f"{name}={value}" for name, value in {**settings, **own}.items()]


def command_of(stage: Stage, arguments: Sequence[str]) -> list[str]:
    """The whole command."""
    if stage.trainer == EVALUATION:
        return [sys.executable, "-m", "verl_ext.evaluation", "run", *arguments]
    if stage.trainer == ONLINE:
        return [sys.executable, "-m", "verl_ext.trainer.fsdp_nft_trainer", *arguments]
    module = "verl_ext.trainer.fsdp_nft_trainer" if stage.trainer == OFFLINE else "verl_ext.trainer.fsdp_dft_trainer"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={stage.processes}"]
    return [*launcher, "-m", module, *arguments]


def doctor_of(stage: Stage, arguments: Sequence[str]) -> list[str]:
    """The command that examines the same launch; empty for an evaluation, which checks itself in a second."""
    if stage.trainer == EVALUATION:
        return []
    trainer = "nft" if stage.trainer in (ONLINE, OFFLINE) else "dft"
    processes = [] if stage.trainer == ONLINE else ["--nproc_per_node", str(stage.processes)]
    return [sys.executable, "-m", "verl_ext.doctor", trainer, *processes, *arguments]


def _spelt(value: Any) -> str:
    """As Hydra's command line reads it."""
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(_spelt, value)) + "]"
    return json.dumps(value)
