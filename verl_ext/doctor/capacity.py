"""Estimates of memory and heads against the GPU and the parallelism that a launch names."""

from __future__ import annotations

from verl_ext.doctor.findings import Finding
from verl_ext.doctor.memory import GIB, MemoryEstimate, Part, kv_bytes_per_token
from verl_ext.doctor.model_shape import ModelShape
from verl_ext.doctor.plan import RolloutPlan, TrainingPlan
from verl_ext.doctor.step_time import Device

TOO_MUCH = 1.1
"""An estimate that exceeds the memory by so much is taken for certain: see docs/doctor.md for its error."""
CLOSE = 0.9
FEW_SEQUENCES = 4
ROLLOUT = "actor_rollout_ref.rollout"


def training_findings(estimate: MemoryEstimate, plan: TrainingPlan, device: Device) -> list[Finding]:
    """Whether a training step fits."""
    used = estimate.bytes / device.memory_bytes
    if used <= CLOSE:
        return []
    message = (
        f"a GPU needs about {estimate.bytes / GIB:.1f} GiB {estimate.moment}, and the {device.name} has "
        f"{device.memory_bytes / GIB:.0f} GiB"
    )
    level = "error" if used > TOO_MUCH else "warning"
    return [Finding("memory-training", level, plan.micro_key, message, _relief(estimate, plan))]


def _relief(estimate: MemoryEstimate, plan: TrainingPlan) -> str:
    """What lowers the largest part that something can be done about."""
    states = sum(p.bytes for p in estimate.parts if p.name in ("parameters", "gradients", "optimizer"))
    largest = max(estimate.parts, key=lambda part: part.bytes)
    steps = []
    if states > estimate.bytes / 2:
        steps.append("more GPUs")
        if not plan.offload_policy:
            steps.append(f"{plan.engine_key}.offload_policy=True")
    if largest.name == "logits":
        steps.append(f"{plan.model_key}.fused_kernel_options.loss_head=chunked")
    if not plan.checkpointing:
        steps.append(f"{plan.model_key}.enable_gradient_checkpointing=True")
    if plan.micro_tokens > plan.max_row // plan.sp_size:
        steps.append(f"a smaller {plan.micro_key}")
    elif states <= estimate.bytes / 2:
        steps.append(f"a larger {plan.engine_key}.ulysses_sequence_parallel_size")
    return ", or ".join(steps)


def rollout_findings(
    shape: ModelShape,
    plan: RolloutPlan,
    generating: MemoryEstimate,
    room: Part,
    training: MemoryEstimate,
    device: Device,
    gpus_per_node: int,
) -> list[Finding]:
    """Whether generation fits, beside what training leaves on the same GPU."""
    if plan.engine == "hf":
        return []
    findings = _parallelism(shape, plan, gpus_per_node)
    share = plan.gpu_memory_utilization * device.memory_bytes
    longest = plan.max_model_len or shape.context
    needed = kv_bytes_per_token(shape, plan) * longest
    if room.bytes < needed:
        what = "the weights alone" if room.bytes <= 0 else f"one sequence of {longest} tokens"
        size = (share - room.bytes if room.bytes <= 0 else needed) / GIB
        message = f"{what} need {size:.1f} GiB, and the engine's share leaves {max(room.bytes, 0) / GIB:.1f} GiB"
        fix = "a larger actor_rollout_ref.rollout.tensor_model_parallel_size"
        if room.bytes > 0 and plan.max_prompt + plan.max_response < longest:
            fix = f"{ROLLOUT}.max_model_len={plan.max_prompt + plan.max_response}, or {fix}"
        findings.append(Finding("memory-rollout", "error", f"{ROLLOUT}.gpu_memory_utilization", message, fix))
    elif room.bytes < FEW_SEQUENCES * kv_bytes_per_token(shape, plan) * (plan.max_prompt + plan.max_response):
        message = f"room for fewer than {FEW_SEQUENCES} sequences at their full length: generation will be slow"
        fix = "a larger tensor_model_parallel_size or gpu_memory_utilization"
        findings.append(Finding("memory-rollout", "warning", f"{ROLLOUT}.gpu_memory_utilization", message, fix))
    if plan.colocated:
        findings += _beside_training(plan, generating, training, device)
    return findings


def _parallelism(shape: ModelShape, plan: RolloutPlan, gpus_per_node: int) -> list[Finding]:
    key, found = f"{ROLLOUT}.tensor_model_parallel_size", []
    if shape.heads % plan.tp_size:
        message = f"{plan.tp_size} does not divide the model's {shape.heads} attention heads"
        sizes = [size for size in (1, 2, 4, 8, 16) if shape.heads % size == 0]
        found.append(Finding("rollout-parallel", "error", key, message, f"one of {sizes}"))
    if plan.tp_size > gpus_per_node:
        message = (
            f"{plan.tp_size} GPUs share a model, and a machine has {gpus_per_node}: every token crosses the network"
        )
        found.append(Finding("rollout-parallel", "warning", key, message, f"at most {gpus_per_node}"))
    return found


def _beside_training(
    plan: RolloutPlan, generating: MemoryEstimate, training: MemoryEstimate, device: Device
) -> list[Finding]:
    findings = []
    total = generating.bytes
    if total > device.memory_bytes:
        kept = [part for part in generating.parts if part.name in ("training parameters", "optimizer")]
        message = (
            f"while generating a GPU holds {total / GIB:.1f} GiB, {sum(p.bytes for p in kept) / GIB:.1f} of them what "
            f"training leaves there; the {device.name} has {device.memory_bytes / GIB:.0f} GiB"
        )
        fix = "a lower gpu_memory_utilization"
        if kept:
            engine = "actor_rollout_ref.actor.fsdp_config"
            fix = f"{engine}.param_offload=True {engine}.optimizer_offload=True, or {fix}"
        level = "error" if total > TOO_MUCH * device.memory_bytes else "warning"
        findings.append(Finding("memory-rollout", level, f"{ROLLOUT}.gpu_memory_utilization", message, fix))
    if not plan.sleeps:
        total = training.bytes + plan.gpu_memory_utilization * device.memory_bytes
        if total > device.memory_bytes:
            message = f"False: training and the engine's share together take {total / GIB:.1f} GiB"
            findings.append(
                Finding("memory-rollout", "error", f"{ROLLOUT}.free_cache_engine", message, "set it to True")
            )
    return findings
