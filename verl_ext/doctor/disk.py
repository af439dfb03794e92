"""Room for checkpoints: how large one is, how many there will be, what is free."""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path

from omegaconf import DictConfig

from verl_ext.doctor.findings import Finding
from verl_ext.doctor.launch import Trainer
from verl_ext.doctor.memory import GIB
from verl_ext.doctor.model_shape import ModelShape
from verl_ext.doctor.plan import TrainingPlan

EXPORT_BYTES = 2
"""Of a parameter in the Hugging Face folder of the last checkpoint: models come in bf16."""


@dataclass(frozen=True, kw_only=True)
class DiskNeed:
    """Bytes in `trainer.default_local_dir` when it is fullest."""

    checkpoint: float
    kept: int | None
    """Checkpoints at the same time; None where the number of steps is unknown."""
    total: float
    formula: str


def disk_need(
    config: DictConfig, trainer: Trainer, shape: ModelShape, plan: TrainingPlan, steps: int | None
) -> DiskNeed:
    """Parameters and the two moments of Adam, for each checkpoint that is kept, and the last one's plain weights.

    While one is written, the one that it replaces is still there.
    """
    trained = shape.lora_parameters(plan.lora_rank) if plan.lora_rank > 0 else shape.parameters
    base = shape.parameters + (trained if plan.lora_rank > 0 else 0)
    checkpoint = plan.model_bytes * (base + 2 * trained)
    export = EXPORT_BYTES * shape.parameters
    kept = _kept(config, trainer, steps)
    total = (kept or 1) * checkpoint + export
    formula = (
        f"{kept if kept else 'n'} * {plan.model_bytes}*(P + 2*P_trained) + 2*P = "
        f"{kept or 1}*{checkpoint / GIB:,.2f} + {export / GIB:,.2f} GiB"
    )
    return DiskNeed(checkpoint=checkpoint, kept=kept, total=total, formula=formula)


def _kept(config: DictConfig, trainer: Trainer, steps: int | None) -> int | None:
    frequency = config.trainer.save_freq
    limit = config.trainer.max_actor_ckpt_to_keep if trainer == "nft" else config.trainer.max_ckpt_to_keep
    if frequency == "after_each_epoch":
        saves = config.trainer.total_epochs
    elif frequency == -1:
        saves = 1
    else:
        saves = math.ceil(steps / frequency) if steps else None
    if limit:
        return limit + 1 if saves is None else min(saves, limit + 1)
    return saves


def disk_findings(config: DictConfig, trainer: Trainer, need: DiskNeed, *, free: float | None) -> list[Finding]:
    """Whether the checkpoints fit.

    Args:
        free: bytes that the cluster has for them; None: what this machine has there, which need not be the same disk.
    """
    folder = Path(config.trainer.default_local_dir)
    keep_key = "trainer.max_actor_ckpt_to_keep" if trainer == "nft" else "trainer.max_ckpt_to_keep"
    fix = f"{keep_key}=2 keeps the newest, a larger trainer.save_freq makes fewer"
    here = free is None
    if here:
        existing = next((place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir()), None)
        if existing is None:
            return []
        free = shutil.disk_usage(existing).free
    count = "one checkpoint" if need.kept in (None, 1) else f"{need.kept} checkpoints"
    size = f"{count} of {need.checkpoint / GIB:.1f} GiB and the last one's weights take {need.total / GIB:,.0f} GiB"
    if need.total <= free:
        return []
    where = "on this machine; --disk-free says what the cluster has" if here else "given with --disk-free"
    message = f"{size}, and {free / GIB:,.0f} GiB are free for {folder} ({where})"
    return [Finding("disk-space", "warning" if here else "error", "trainer.default_local_dir", message, fix)]
