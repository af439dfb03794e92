"""How long a step takes at least, from the floating-point operations and the bytes that it needs.

A matrix multiplied with a token costs 2 operations a parameter forward and 4 backward; causal attention over a
sequence of s tokens costs 2*L*Q*s^2 forward (Q the width of the queries: scores and weighted sum, half of each
masked), and twice that backward. Checkpointing runs the layers' forward once more. (Arithmetic as in PaLM, arXiv
2204.02311, Appendix B, with the causal half.)
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_ext.doctor.memory import GIB, kv_bytes_per_token
from verl_ext.doctor.model_shape import ModelShape
from verl_ext.doctor.plan import RolloutPlan, TrainingPlan


@dataclass(frozen=True, kw_only=True)
class Device:
    """A GPU as its maker describes it."""

    name: str
    memory_bytes: float
    flops: float
    """Dense bf16 operations a second."""
    bandwidth: float
    """Bytes a second of its memory."""


# Rates as NVIDIA's data sheets give them (dense bf16, without sparsity); memory as torch sees it, rounded down.
DEVICES = {
    "h100": Device(name="H100 80 GB", memory_bytes=79 * GIB, flops=989e12, bandwidth=3.35e12),
    "h200": Device(name="H200 141 GB", memory_bytes=139 * GIB, flops=989e12, bandwidth=4.8e12),
    "a100": Device(name="A100 80 GB", memory_bytes=79 * GIB, flops=312e12, bandwidth=2.039e12),
    "a100-40": Device(name="A100 40 GB", memory_bytes=39 * GIB, flops=312e12, bandwidth=1.555e12),
}


@dataclass(frozen=True)
class TimePart:
    """A piece of a step's time."""

    name: str
    seconds: float
    formula: str


def forward_flops(shape: ModelShape, tokens: float, mean_square_length: float, rows: float) -> float:
    """Operations of a forward pass over `rows` sequences of `tokens` tokens together."""
    return 2 * shape.multiplied * tokens + 2 * shape.layers * shape.query_width * mean_square_length * rows


def training_time(
    shape: ModelShape, plan: TrainingPlan, device: Device, *, rows: float, mean_length: float, mfu: float
) -> TimePart:
    """Forward, backward and recomputation of `rows` sequences on all GPUs.

    Args:
        mean_length: tokens of a sequence.
        mfu: share of the device's peak that a run reaches.
    """
    forward = forward_flops(shape, rows * mean_length, mean_length**2, rows)
    passes = 4 if plan.checkpointing else 3
    total = passes * forward
    formula = (
        f"{passes}*(2*P*tokens + 2*L*Q*s^2*rows)/(GPUs*peak*MFU) = {total:.3g}/({plan.ranks}*{device.flops:.3g}*{mfu:g}); "
        f"tokens={rows * mean_length:.4g}, s={mean_length:.0f}"
    )
    return TimePart("training", total / (plan.ranks * device.flops * mfu), formula)


def log_prob_time(
    shape: ModelShape, plan: TrainingPlan, device: Device, *, rows: float, mean_length: float, mfu: float, passes: int
) -> TimePart:
    """Forward passes for the log-probabilities of the old policy, and of a reference model where there is one."""
    total = passes * forward_flops(shape, rows * mean_length, mean_length**2, rows)
    formula = f"{passes}*forward/(GPUs*peak*MFU) = {total:.3g}/({plan.ranks}*{device.flops:.3g}*{mfu:g})"
    return TimePart("log-probabilities", total / (plan.ranks * device.flops * mfu), formula)


def generation_time(
    shape: ModelShape, plan: RolloutPlan, device: Device, *, room_bytes: float, response: float, prompt: float
) -> TimePart:
    """Decoding at the speed of memory: each token of a batch reads the weights once, and each sequence its cache.

    Args:
        room_bytes: for keys and values on one GPU.
        response: tokens of a response.
        prompt: tokens of a prompt.
    """
    replicas = max(1, plan.gpus // plan.tp_size)
    sequences = plan.prompts * plan.samples / replicas
    per_token = kv_bytes_per_token(shape, plan)
    fits = max(1.0, room_bytes / (per_token * (prompt + response)))
    batch = max(1.0, min(plan.max_num_seqs, fits, sequences))
    weights = plan.weight_bytes * shape.parameters / plan.tp_size
    step = (weights + batch * per_token * (prompt + response / 2)) / device.bandwidth
    waves = sequences / batch
    formula = (
        f"waves*response*(weights + batch*KV)/bandwidth = {waves:.3g}*{response:.0f}*({weights / GIB:.3g} + "
        f"{batch:.0f}*{per_token * (prompt + response / 2) / GIB:.2g} GiB)/{device.bandwidth:.3g}"
    )
    return TimePart("generation", max(1.0, waves) * response * step, formula)
