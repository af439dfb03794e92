"""What the configuration leaves to the machine and the model: `null` becomes a value, once the device is known."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, open_dict

from verl_ext.model_folder import read_hf_config, require_sequence_parallel_heads

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def complete_config(config: DictConfig, device: str) -> None:
    """Fill in what is null.

    Raises:
        UserError: the model's configuration cannot be read, or sequence parallelism does not fit its heads.
    """
    on_gpu = device != "cpu"
    group = config.actor_rollout_ref
    rollout, model = group.rollout, group.model
    hf_config = read_hf_config(model.path, trust_remote_code=model.trust_remote_code, group="actor_rollout_ref.model")
    sp_size = sequence_parallel_size(config)
    if sp_size > 1:
        key = "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size"
        require_sequence_parallel_heads(hf_config, sp_size, key)
    with open_dict(config):
        config.trainer.device = device
        rollout.name = rollout.name or ("vllm" if on_gpu else "hf")
        rollout.dtype = rollout.dtype or DTYPES[group.actor.fsdp_config.mixed_precision.param_dtype]
        workers = 8 if on_gpu else 1
        rollout.agent.num_workers = rollout.agent.num_workers or workers
        config.reward.num_workers = config.reward.num_workers or workers
        storage = config.transfer_queue.backend.SimpleStorage
        storage.num_data_storage_units = storage.num_data_storage_units or workers
        if not on_gpu:
            rollout.enforce_eager = True  # no CUDA graph to capture
        overlong = config.reward.reward_kwargs.get("overlong_buffer_cfg")
        if overlong is not None and overlong.get("enable") and overlong.get("len") is None:
            overlong.len = max(1, config.data.max_response_length // 4)
        if config.data.chat_template_file:
            model.custom_chat_template = Path(config.data.chat_template_file).read_text()


def sequence_parallel_size(config: DictConfig) -> int:
    """Ulysses ranks per sequence; verl knows two keys for it."""
    actor = config.actor_rollout_ref.actor
    return max(actor.ulysses_sequence_parallel_size, actor.fsdp_config.ulysses_sequence_parallel_size)
