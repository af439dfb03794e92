"""Importing this module registers the engine `hf` with verl (see `verl_ext.plugin`)."""

from __future__ import annotations

from verl.workers.rollout.base import _ROLLOUT_REGISTRY
from verl.workers.rollout.replica import RolloutReplica, RolloutReplicaRegistry

NAME = "hf"


def _load() -> type[RolloutReplica]:
    from verl_ext.rollout.hf_replica import HFReplica  # takes a second, in processes that may never use it

    return HFReplica


RolloutReplicaRegistry.register(NAME, _load)
# A plain dictionary: verl 0.9.1 has no function to register an adapter.
_ROLLOUT_REGISTRY[(NAME, "async")] = "verl_ext.rollout.hf_adapter.HFServerAdapter"
