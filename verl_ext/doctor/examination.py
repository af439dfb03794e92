"""What the user says about the cluster, and what the doctor says about a launch."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from verl_ext.doctor.data_checks import DataFacts
from verl_ext.doctor.findings import Finding
from verl_ext.doctor.launch import Launch
from verl_ext.doctor.memory import MemoryEstimate
from verl_ext.doctor.model_shape import FoundModel
from verl_ext.doctor.plan import TrainingPlan
from verl_ext.doctor.step_time import DEVICES, Device, TimePart


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the user says about the cluster."""

    device: Device = DEVICES["h100"]
    mfu: float = 0.4
    """Share of the peak that a step reaches; an assumption."""
    disk_free: float | None = None
    """Bytes for checkpoints on the cluster; None: what this machine has."""
    ask_hub: bool = False
    """Whether the hub may be asked for configurations and tokenizers that are not on this machine."""


@dataclass
class LaunchReport:
    """Everything that was found about one launch."""

    launch: Launch
    findings: list[Finding] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    """(what, value), for reading."""
    memory: list[MemoryEstimate] = field(default_factory=list)
    times: list[TimePart] = field(default_factory=list)
    model: FoundModel | None = None
    training: TrainingPlan | None = None


def batch_facts(plan: TrainingPlan) -> list[tuple[str, str]]:
    """How a step is shared out over ranks and micro-batches."""
    return [
        ("data-parallel ranks", f"{plan.dp_size} = {plan.ranks} ranks / {plan.sp_size} sequence-parallel"),
        ("sequences of an update", f"{plan.rows_per_step}, {plan.rows_per_step / plan.dp_size:g} a data-parallel rank"),
        ("micro-batch", f"at most {plan.micro_tokens} tokens a GPU ({plan.micro_key}), {plan.micro_batches} an update"),
    ]


def data_facts(facts: DataFacts) -> list[tuple[str, str]]:
    """Rows, lengths and tokens with loss."""
    unit = "tokens" if facts.counted else "tokens, guessed from characters"
    quantiles = np.quantile(facts.lengths, [0.5, 0.9, 0.99, 1.0]).astype(int)
    rows = [
        ("training rows", f"{facts.rows}, of the first {facts.sampled} {facts.usable_share:.1%} usable"),
        ("length p50, p90, p99, max", f"{', '.join(map(str, quantiles))} {unit}"),
    ]
    if len(facts.learned):
        learned = np.quantile(facts.learned, [0.1, 0.5, 0.9]).astype(int)
        rows.append(("tokens with loss p10, p50, p90", f"{', '.join(map(str, learned))} a sequence"))
    return rows
