"""A small Ray cluster with verl's own clients, and ranks that have weights to send: what a trainer does to a rollout."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ray
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from ray.cluster_utils import Cluster
from ray.util import get_placement_group, placement_group_table, remove_placement_group
from transformers import AutoModelForCausalLM
from verl.checkpoint_engine.base import CheckpointEngineRegistry
from verl.single_controller.base import Worker
from verl.single_controller.base.decorator import Dispatch, register
from verl.single_controller.ray import RayClassWithInitArgs, RayResourcePool, RayWorkerGroup
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.config import HFModelConfig
from verl.workers.rollout.base import get_rollout_class
from verl.workers.rollout.llm_server import LLMServerClient, LLMServerManager
from verl.workers.rollout.replica import TokenOutput

from tests.support.launch import python_path

GREEDY = {"temperature": 0, "top_p": 1.0, "top_k": -1, "logprobs": True, "ignore_eos": True}
PROMPTS = [[5 + index, 40, 60 + index, 7] for index in range(8)]
REPOSITORY = Path(__file__).resolve().parents[2]


@contextmanager
def ray_nodes(*processes: int) -> Iterator[tuple[str, Path]]:
    """Ray on this machine: for each number a node with so many logical GPUs. Yields its address and its folder."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # a socket's path may have 107 characters
    Path(tempfile.gettempdir(), "ray").mkdir(exist_ok=True)  # where Ray notes the address, whatever its folder
    node = {"num_cpus": 16, "object_store_memory": 200 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_gpus": processes[0], "temp_dir": folder})
    try:
        for number in processes[1:]:
            cluster.add_node(**node, num_gpus=number)
        yield cluster.address, Path(folder)
    finally:
        ray.shutdown()
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def ray_with(*processes: int) -> Iterator[None]:
    """Nodes for ranks and servers, joined by this process."""
    variables = {"PYTHONPATH": python_path(REPOSITORY), "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    with ray_nodes(*processes) as (address, _):
        ray.init(address=address, runtime_env={"env_vars": variables})
        yield


def rollout_config(model: Path, *overrides: str) -> DictConfig:
    """verl's own configuration, for a small model in fp32."""
    with initialize_config_module("verl.trainer.config", version_base=None):
        return compose(
            "ppo_trainer",
            [
                f"actor_rollout_ref.model.path={model}",
                "+actor_rollout_ref.model.override_config.attn_implementation=sdpa",
                "actor_rollout_ref.rollout.name=hf",
                "actor_rollout_ref.rollout.dtype=float32",
                "actor_rollout_ref.rollout.tensor_model_parallel_size=1",
                "actor_rollout_ref.rollout.prompt_length=32",
                "actor_rollout_ref.rollout.response_length=24",
                "actor_rollout_ref.rollout.max_num_seqs=16",
                "actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=1",
                "trainer.device=cpu",
                *overrides,
            ],
        )


class WeightSender(Worker):
    """A rank of a trainer, as far as the rollout sees it; its weights are those of a model folder."""

    def __init__(self, config: DictConfig) -> None:
        super().__init__()
        self.rollout_config = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
        model_config: HFModelConfig = omega_conf_to_dataclass(config.actor_rollout_ref.model)
        rollout_class = get_rollout_class(self.rollout_config.name, "async")
        self.rollout = rollout_class(self.rollout_config, model_config, None)
        checkpoint = self.rollout_config.checkpoint_engine
        self.checkpoint_engine = CheckpointEngineRegistry.new(
            checkpoint.backend,
            is_master=self.rank == 0,
            bucket_size=checkpoint.update_weights_bucket_megabytes << 20,
        )
        self.walked: list[str] = []
        self.weights_from = config.actor_rollout_ref.model.path
        self.stop_after: int | None = None

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def use_weights(self, folder: str, stop_after: int | None = None) -> None:
        """Send these from now on; with `stop_after`, the next update fails after so many tensors."""
        self.weights_from, self.stop_after = folder, stop_after

    def _weights(self) -> Iterator[tuple[str, torch.Tensor]]:
        self.walked = []
        model = AutoModelForCausalLM.from_pretrained(self.weights_from, dtype=torch.float32)
        for name, tensor in model.state_dict().items():
            if len(self.walked) == self.stop_after:
                raise OSError("the disk with the weights is gone")
            self.walked.append(name)
            yield name, tensor

    @register(dispatch_mode=Dispatch.ONE_TO_ALL, blocking=False)
    async def update_weights(self, global_steps: int | None = None, mode: str = "naive") -> None:
        if mode == "naive":
            await self.rollout.resume(tags=["weights"])
            await self.rollout.update_weights(self._weights(), global_steps=global_steps)
            await self.rollout.resume(tags=["kv_cache"])
        else:
            await self.checkpoint_engine.send_weights(self._weights(), global_steps=global_steps)

    @register(dispatch_mode=Dispatch.DP_COMPUTE, blocking=False)
    def execute_checkpoint_engine(self, method: str, *args, **kwargs):
        return getattr(self.checkpoint_engine, method)(*args, **kwargs)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def walked_weights(self) -> list[str]:
        return self.walked


def senders(config: DictConfig, ranks: int) -> RayWorkerGroup:
    """Ranks 0 to `ranks` - 1."""
    actor = RayClassWithInitArgs(ray.remote(WeightSender), config=config)
    return RayWorkerGroup(
        resource_pool=RayResourcePool([ranks], use_gpu=True, max_colocate_count=2),
        ray_cls_with_init=actor,
        device_name="cpu",
    )


def generate(client: LLMServerClient, prompts: list[list[int]] = PROMPTS, **params) -> list[TokenOutput]:
    """Ask for all prompts at once, greedily."""

    async def all_of_them() -> list[TokenOutput]:
        return await asyncio.gather(
            *[
                client.generate(str(index), prompt_ids=prompt, sampling_params={**GREEDY, **params})
                for index, prompt in enumerate(prompts)
            ]
        )

    return asyncio.run(all_of_them())


def kill_all(*managers: LLMServerManager, workers: RayWorkerGroup) -> None:
    """Free names, logical GPUs and memory for the next test."""
    for manager in managers:
        for replica in manager.get_replicas():
            for actor in [*replica.servers, *replica.workers]:
                ray.kill(actor)
    for worker in workers.workers:
        ray.kill(worker)
    for group in placement_group_table().values():
        if group["state"] != "REMOVED":
            remove_placement_group(get_placement_group(group["name"]))
