"""The command lines of the trainers on fixed data: the published repositories' own keys, and where keys may be added."""

from __future__ import annotations

from typing import Any

from verl_ext.objectives.nft_config import PUBLISHED_NAMES, published_settings
from verl_ext.trainer.run.command_line import Vocabulary

DFT_OLD_NAMES = {
    # The DFT repository's trainer (a verl of 2025) -> verl 0.9.1.
    "model.partial_pretrain": "model.path",
    "model.strategy": "engine.strategy",
    "model.fsdp_config.model_dtype": "engine.model_dtype",
    "model.fsdp_config.wrap_policy.min_num_params": "engine.wrap_policy.min_num_params",
    "model.fsdp_config.cpu_offload": "engine.offload_policy",
    "model.fsdp_config.offload_params": "engine.param_offload",
    "ulysses_sequence_parallel_size": "engine.ulysses_sequence_parallel_size",
    "use_remove_padding": "model.use_remove_padding",
    "optim.warmup_steps_ratio": "optim.lr_warmup_steps_ratio",
    "optim.lr_scheduler": "optim.lr_scheduler_type",
    "data.micro_batch_size": "data.micro_batch_size_per_gpu",
    "data.multiturn.messages_key": "data.messages_key",
    "data.multiturn.tools_key": "data.tools_key",
    "data.multiturn.enable_thinking_key": "data.enable_thinking_key",
    "data.chat_template": "model.custom_chat_template",
    "trainer.checkpoint.save_contents": "checkpoint.save_contents",
    "trainer.checkpoint.load_contents": "checkpoint.load_contents",
}
"""Old key -> today's key. The values kept their meaning."""

OPEN_GROUPS = ("model.override_config.", "model.fused_kernel_options.", "data.apply_chat_template_kwargs.", "hydra.")


def _translate_nft(key: str, value: Any) -> str:
    """The same for training on fixed generations, for which there is no DAPO."""
    ((field, setting),) = published_settings({key: value}).items()
    return f"objective.{field}={setting}"


# An objective's parameters are its own: `registry.build_objective` refuses those that it does not have.
DFT_VOCABULARY = Vocabulary(old_names=DFT_OLD_NAMES, open_groups=(*OPEN_GROUPS, "objective."))
NFT_OFFLINE_VOCABULARY = Vocabulary(
    old_names=DFT_OLD_NAMES,
    translations=dict.fromkeys(PUBLISHED_NAMES, _translate_nft),
    open_groups=OPEN_GROUPS,
)
