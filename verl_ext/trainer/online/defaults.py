"""What the configuration leaves to the machine and the model: `null` becomes a value, once the device is known."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf, open_dict

from verl_ext.engine.shared_prompts import shares_prompts
from verl_ext.model_folder import read_hf_config, require_sequence_parallel_heads
from verl_ext.reward.options import read_options
from verl_ext.trainer.online.checks import REWARD_MANAGER
from verl_ext.trainer.run.adapters import check_adapter
from verl_ext.trainer.run.model_checks import check_model

DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}


def complete_config(config: DictConfig, device: str) -> None:
    """Fill in what is null.

    Raises:
        UserError: the model's configuration cannot be read, or is of a model that cannot be trained here, its adapter
            cannot be merged, sequence parallelism does not fit its heads, or an option of the reward manager cannot work.
    """
    on_gpu = device != "cpu"
    group = config.actor_rollout_ref
    rollout, model = group.rollout, group.model
    hf_config = read_hf_config(model.path, trust_remote_code=model.trust_remote_code, group="actor_rollout_ref.model")
    check_model(model, hf_config, "actor_rollout_ref.model")
    check_adapter(model, hf_config, "actor_rollout_ref.model", generates=True)
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
        group.actor.share_prompts = shares_prompts(
            group.actor.share_prompts,
            hf_config,
            model,
            on_gpu=on_gpu,
            key="actor_rollout_ref.actor.share_prompts",
        )
        storage = config.transfer_queue.backend.SimpleStorage
        storage.num_data_storage_units = storage.num_data_storage_units or workers
        if not on_gpu:
            rollout.enforce_eager = True  # no CUDA graph to capture
        overlong = config.reward.reward_kwargs.get("overlong_buffer_cfg")
        if overlong is not None and overlong.get("enable") and overlong.get("len") is None:
            overlong.len = max(1, config.data.max_response_length // 4)
        if config.data.chat_template_file:
            model.custom_chat_template = Path(config.data.chat_template_file).read_text()
    if config.reward.reward_manager.name == REWARD_MANAGER:
        read_options(OmegaConf.to_container(config.reward.reward_kwargs, resolve=True))


def sequence_parallel_size(config: DictConfig) -> int:
    """Ulysses ranks per sequence; verl knows two keys for it."""
    actor = config.actor_rollout_ref.actor
    return max(actor.ulysses_sequence_parallel_size, actor.fsdp_config.ulysses_sequence_parallel_size)
