"""What verl's profilers need so that a run that is asked for traces writes some."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.errors import ConfigError, UserError

TOOLS = (None, "torch", "nsys", "torch_memory")
GPU_TOOLS = ("nsys", "torch_memory")
ROLES = ("actor", "ref", "rollout")


def check_supervised_profiler(config: DictConfig) -> None:
    """Check `trainer.profile_interval` and `profiler`.

    Raises:
        UserError: a value that cannot work, or nothing would be written.
    """
    interval = list(config.trainer.profile_interval)
    _require_tool("profiler.tool", config.profiler.tool)
    is_pair = len(interval) == 2 and all(_is_step(step) for step in interval) and interval[0] <= interval[1]
    if interval != [-1, -1] and not is_pair:
        raise ConfigError(
            "trainer.profile_interval", given=interval, expected="first and last step, counted from 1, or [-1, -1]"
        )
    if is_pair and not (config.profiler.enable and config.profiler.tool):
        raise UserError(
            "trainer.profile_interval: nothing would be written; set profiler.enable=True profiler.tool=torch"
        )
    if config.profiler.enable and not is_pair:
        raise UserError("profiler.enable: no step is profiled; name them: trainer.profile_interval=[FIRST,LAST]")


def check_online_profiler(config: DictConfig) -> None:
    """Check `global_profiler` and the profilers of actor, reference and rollout.

    Raises:
        UserError: a value that cannot work, or nothing would be written.
    """
    group = config.actor_rollout_ref
    steps = config.global_profiler.steps
    for key in ("global_profiler.tool", *(f"actor_rollout_ref.{role}.profiler.tool" for role in ROLES)):
        _require_tool(key, OmegaConf.select(config, key))
    if steps is not None and (not OmegaConf.is_list(steps) or not all(_is_step(step) for step in steps)):
        raise ConfigError("global_profiler.steps", given=_plain(steps), expected="a list of steps, counted from 1")
    enabled = [role for role in ROLES if group[role].profiler.enable]
    if steps and not any(group[role].profiler.tool for role in enabled):
        raise UserError(
            "global_profiler.steps: nothing would be written; set global_profiler.tool=torch and "
            "actor_rollout_ref.actor.profiler.enable=True (or that of ref or rollout)"
        )
    if enabled and not steps:
        raise UserError(
            f"actor_rollout_ref.{enabled[0]}.profiler.enable: no step is profiled; name them: "
            "global_profiler.steps=[1,2]"
        )
    if "ref" in enabled and not (group.actor.use_kl_loss or config.algorithm.use_kl_in_reward):
        raise UserError("actor_rollout_ref.ref.profiler.enable: this run has no reference (actor.use_kl_loss=False)")
    if "rollout" in enabled and group.rollout.name == "hf":
        raise UserError("actor_rollout_ref.rollout.profiler.enable: the engine hf has no profiler of its own")


def check_profiler_device(config: DictConfig, device: str) -> None:
    """Refuse tools that need a GPU, on a machine without one.

    Raises:
        ConfigError: names the key to change.
    """
    for key in (
        "profiler.tool",
        "global_profiler.tool",
        *(f"actor_rollout_ref.{role}.profiler.tool" for role in ROLES),
    ):
        tool = OmegaConf.select(config, key)
        if device == "cpu" and tool in GPU_TOOLS:
            raise ConfigError(key, given=tool, expected="torch: that tool needs a GPU (this run is on the CPU)")


def _require_tool(key: str, tool: Any) -> None:
    if tool not in TOOLS:
        raise ConfigError(key, given=tool, expected="torch, nsys, torch_memory or null")


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _plain(value: Any) -> Any:
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
