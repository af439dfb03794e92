"""Replicas of the engine `hf` (`actor_rollout_ref.rollout.name=hf`): where its servers run, and with what."""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from verl.workers.rollout.replica import RolloutReplica

from verl_ext.errors import ConfigError
from verl_ext.rollout.hf_server import HFServer
from verl_ext.rollout.settings import HFSettings


def server_name(replica_rank: int) -> str:
    """Of the Ray actor; the ranks that send weights look it up."""
    return f"hf_server_{replica_rank}"


class HFReplica(RolloutReplica):
    """One server, on the machine of the first of the ranks that it serves."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        for key, asked in (("reward.reward_model", self.is_reward_model), ("distillation", self.is_teacher_model)):
            if asked:
                raise ConfigError(f"{key}.rollout.name", given="hf", expected="vllm or sglang")
        self.settings = HFSettings(self.config, self.model_config)

    async def launch_servers(self) -> None:
        """Start the server and wait until its model is there."""
        if len(self.workers) != self.world_size:
            raise ConfigError(
                "actor_rollout_ref.rollout.tensor_model_parallel_size",
                given=self.world_size,
                expected="a divisor of the number of ranks",
            )
        node_id, threads_of_a_rank, spins = await self.workers[0].__ray_call__.remote(_place, self.gpus_per_node)
        threads = self.settings.options.num_threads or threads_of_a_rank * self.world_size
        server = (
            ray.remote(HFServer)
            .options(
                name=server_name(self.replica_rank) + self.name_suffix,
                num_cpus=0,  # shares the cores with the ranks, which wait while it works
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node_id, soft=False),
                runtime_env={"env_vars": _thread_variables(threads, spins)},
                max_concurrency=self.max_concurrency,
            )
            .remote(self.config, self.model_config, self.rollout_mode, self.replica_rank, threads)
        )
        self._server_address = await server.launch.remote()
        self._server_handle = server
        self.servers = [server]


def _place(_worker: Any, ranks_per_node: int) -> tuple[str, int, str]:
    """Run by a rank: its machine, the threads that it may use there, and how long they spin for more work."""
    threads = os.environ.get("OMP_NUM_THREADS", "")
    share = max(1, len(os.sched_getaffinity(0)) // max(1, ranks_per_node))
    spins = os.environ.get("GOMP_SPINCOUNT", "0")
    return ray.get_runtime_context().get_node_id(), int(threads) if threads.isdigit() else share, spins


def _thread_variables(threads: int, spins: str) -> dict[str, str]:
    # A server that waits must leave the cores to the ranks: OpenMP's default, spinning, slows both tenfold.
    return {"OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": spins}
