"""What a composed configuration means for memory and work, in the same words for the three trainers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from omegaconf import DictConfig

from verl_ext.doctor.launch import Trainer

BYTES = {"fp32": 4, "float32": 4, "bf16": 2, "bfloat16": 2, "fp16": 2, "float16": 2, "half": 2}


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """One rank's part of a step."""

    ranks: int
    sp_size: int
    shard_ranks: int
    """Ranks that share the parameters out (`fsdp_size`)."""
    rows_per_step: int
    """Sequences of an optimizer step, on all ranks together."""
    max_row: int
    """Tokens of a sequence at most."""
    micro_tokens: int
    """Tokens of a micro-batch that one GPU holds at most, after sequence parallelism."""
    micro_batches: int
    """Of an optimizer step on one rank, at full length."""
    model_bytes: int
    """Of a stored parameter."""
    compute_bytes: int
    """Of a number in forward and backward."""
    checkpointing: bool
    head: Literal["chunked", "plain", "fused"]
    """chunked: `verl_ext.engine.loss_head`; plain: all logits at once; fused: verl's own."""
    liger: bool
    reshard: bool
    offload_policy: bool
    lora_rank: int
    on_gpu: bool
    model_key: str
    """Group of the model's keys."""
    engine_key: str
    """Group of the engine's keys."""
    micro_key: str
    """The key that decides how many tokens a micro-batch has."""

    @property
    def dp_size(self) -> int:
        return self.ranks // self.sp_size


@dataclass(frozen=True, kw_only=True)
class RolloutPlan:
    """Generation in online training."""

    engine: str
    gpus: int
    tp_size: int
    weight_bytes: int
    gpu_memory_utilization: float
    max_num_seqs: int
    max_model_len: int | None
    """None: what the model was made for."""
    prompts: int
    """Of a step."""
    samples: int
    """For each prompt."""
    max_prompt: int
    max_response: int
    colocated: bool
    """On the GPUs that train."""
    sleeps: bool
    """Whether it gives its memory back while the GPUs train (free_cache_engine)."""
    trainer_leaves: bool
    """Whether parameters and optimizer are moved to host memory while it generates."""
    optimizer_leaves: bool


def world_size(config: DictConfig, trainer: Trainer, ranks: int) -> int:
    """Ranks that train: those of torchrun, or what the configuration asks Ray for."""
    return config.trainer.nnodes * config.trainer.n_gpus_per_node if trainer == "nft" else ranks


def training_plan(config: DictConfig, trainer: Trainer, *, ranks: int, rows: int | None, on_gpu: bool) -> TrainingPlan:
    """The training part of a configuration that has passed the trainer's own checks.

    Args:
        ranks: of torchrun; what online training uses is in the configuration.
        rows: sequences of an optimizer step, where the data decides (offline NFT); None for the configuration's.
    """
    ranks = world_size(config, trainer, ranks)
    if trainer == "nft":
        return _online(config, ranks, on_gpu)
    data, engine = config.data, config.engine
    sp_size = engine.ulysses_sequence_parallel_size
    rows = data.train_batch_size if rows is None else rows
    micro_rows = min(data.micro_batch_size_per_gpu, max(1, rows // (ranks // sp_size)))
    return _plan(
        config.model,
        engine,
        ranks=ranks,
        sp_size=sp_size,
        rows=rows,
        max_row=data.max_length,
        token_budget=data.max_token_len_per_gpu if data.use_dynamic_bsz else None,
        micro_rows=micro_rows,
        on_gpu=on_gpu,
        keys=(
            "model",
            "engine",
            f"data.{'max_token_len_per_gpu' if data.use_dynamic_bsz else 'micro_batch_size_per_gpu'}",
        ),
    )


def _online(config: DictConfig, ranks: int, on_gpu: bool) -> TrainingPlan:
    from verl_ext.trainer.online.defaults import sequence_parallel_size

    group, data = config.actor_rollout_ref, config.data
    actor = group.actor
    sp_size = sequence_parallel_size(config)
    dynamic = actor.use_dynamic_bsz
    name = "ppo_max_token_len_per_gpu" if dynamic else "ppo_micro_batch_size_per_gpu"
    return _plan(
        group.model,
        actor.fsdp_config,
        ranks=ranks,
        sp_size=sp_size,
        rows=actor.ppo_mini_batch_size * group.rollout.n,
        max_row=data.max_prompt_length + data.max_response_length,
        token_budget=actor.ppo_max_token_len_per_gpu if dynamic else None,
        micro_rows=actor.ppo_micro_batch_size_per_gpu,
        on_gpu=on_gpu,
        keys=(
            "actor_rollout_ref.model",
            "actor_rollout_ref.actor.fsdp_config",
            f"actor_rollout_ref.actor.{name}",
        ),
    )


def _plan(
    model: Any,
    engine: Any,
    *,
    ranks: int,
    sp_size: int,
    rows: int,
    max_row: int,
    token_budget: int | None,
    micro_rows: int,
    on_gpu: bool,
    keys: tuple[str, str, str],
) -> TrainingPlan:
    rank_tokens = -(-rows * max_row // ranks)
    # A micro-batch is shared out over the sequence-parallel ranks; a token budget is each GPU's own share.
    micro_tokens = micro_rows * max_row // sp_size if token_budget is None else token_budget
    micro_tokens = max(1, min(micro_tokens, rank_tokens))
    precision = engine.mixed_precision
    size = engine.fsdp_size
    return TrainingPlan(
        ranks=ranks,
        sp_size=sp_size,
        shard_ranks=ranks if size <= 0 else min(size, ranks),
        rows_per_step=rows,
        max_row=max_row,
        micro_tokens=micro_tokens,
        micro_batches=-(-rank_tokens // micro_tokens),
        model_bytes=BYTES[engine.model_dtype],
        compute_bytes=BYTES[precision.param_dtype] if precision else 2,
        checkpointing=model.enable_gradient_checkpointing,
        head="fused" if model.use_fused_kernels else model.fused_kernel_options.get("loss_head", "chunked"),
        liger=model.use_liger,
        reshard=engine.reshard_after_forward,
        offload_policy=engine.offload_policy,
        lora_rank=model.lora_rank,
        on_gpu=on_gpu,
        model_key=keys[0],
        engine_key=keys[1],
        micro_key=keys[2],
    )


def rollout_plan(config: DictConfig, *, on_gpu: bool) -> RolloutPlan:
    """The generation part of an online configuration."""
    group, data, trainer = config.actor_rollout_ref, config.data, config.trainer
    rollout, fsdp = group.rollout, group.actor.fsdp_config
    separate = trainer.v1.trainer_mode == "nft_separate_async"
    where = rollout if separate else trainer
    precision = fsdp.mixed_precision
    dtype = rollout.dtype or (precision.param_dtype if precision else "bf16")
    return RolloutPlan(
        engine=rollout.name or ("vllm" if on_gpu else "hf"),
        gpus=where.nnodes * where.n_gpus_per_node,
        tp_size=rollout.tensor_model_parallel_size,
        weight_bytes=BYTES.get(dtype, 2),
        gpu_memory_utilization=rollout.gpu_memory_utilization,
        max_num_seqs=rollout.max_num_seqs,
        max_model_len=rollout.max_model_len,
        prompts=data.train_batch_size,
        samples=rollout.n,
        max_prompt=data.max_prompt_length,
        max_response=data.max_response_length,
        colocated=not separate,
        sleeps=rollout.free_cache_engine,
        trainer_leaves=fsdp.param_offload or fsdp.offload_policy,
        optimizer_leaves=fsdp.optimizer_offload or fsdp.offload_policy,
    )
