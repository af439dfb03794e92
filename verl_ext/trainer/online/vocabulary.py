"""The command line of the online trainer: the NFT repository's own keys, and where further keys may be added."""

from __future__ import annotations

from typing import Any

from verl_ext.objectives.nft_config import PUBLISHED_NAMES, published_settings
from verl_ext.trainer.run.command_line import Vocabulary

POLICY_LOSS = "actor_rollout_ref.actor.policy_loss"


def _translate_online(key: str, value: Any) -> str:
    """The argument that says today what a published key and its value said.

    Raises:
        ConfigError: a value that the published code does not know either.
    """
    ((field, setting),) = published_settings({key: value}).items()
    if field == "neg_weight" and setting < 0:
        return "objective=dapo"
    return f"{POLICY_LOSS}.{field}={setting}"


def _choose_objective(_key: str, value: Any) -> str:
    return f"objective={value}"


NFT_VOCABULARY = Vocabulary(
    old_names={
        "reward_model.reward_manager": "reward.reward_manager.name",
        "custom_reward_function.path": "reward.custom_reward_function.path",
        "custom_reward_function.name": "reward.custom_reward_function.name",
        "actor_rollout_ref.actor.optim.warmup_style": "actor_rollout_ref.actor.optim.lr_scheduler_type",
    },
    translations={**dict.fromkeys(PUBLISHED_NAMES, _translate_online), "objective.name": _choose_objective},
    open_groups=(
        "actor_rollout_ref.model.override_config.",
        "actor_rollout_ref.model.fused_kernel_options.",
        "actor_rollout_ref.rollout.engine_kwargs.",
        "actor_rollout_ref.rollout.checkpoint_engine.engine_kwargs.",
        "actor_rollout_ref.actor.optim.override_optimizer_config.",
        "data.apply_chat_template_kwargs.",
        "reward.reward_kwargs.",
        "ray_kwargs.ray_init.",
        "transfer_queue.",
        "hydra.",
    ),
    choices=("objective",),
)
