"""What the folders of checkpoints are called, for checks that come before torch is loaded."""

from __future__ import annotations

import re
from pathlib import Path

from omegaconf import DictConfig

from verl_ext.errors import UserError


def step_of(path: Path) -> int | None:
    """The step that a checkpoint's folder is named after; None for any other name."""
    found = re.fullmatch(r"global_step_(\d+)", path.name)
    return int(found[1]) if found else None


def check_path(trainer: DictConfig) -> None:
    """Refuse a checkpoint that the configuration's `trainer` group asks for and that its name alone rules out.

    Raises:
        UserError: `trainer.resume_from_path` cannot be what is meant.
    """
    named = trainer.resume_from_path
    if trainer.resume_mode == "disable":
        return
    if named is None and trainer.resume_mode == "resume_path":
        raise UserError("trainer.resume_from_path: not set, and trainer.resume_mode is resume_path")
    if named is not None and step_of(Path(named)) is None:
        raise UserError(f"trainer.resume_from_path: {named} is not a checkpoint folder global_step_N")
