"""The Ray cluster of a run: joined or started, with enough in it, or said within half a minute what is missing."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from omegaconf import DictConfig, OmegaConf
from verl.plugin.platform import get_platform
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env

from verl_ext.engine import ENGINE_VENDOR
from verl_ext.errors import UserError
from verl_ext.reward.judge.config import JudgeConfig
from verl_ext.trainer.online.worker_keys import WorkerKeys

WAIT_FOR_NODES_S = 20.0
"""How long machines may take to join a running cluster."""
LOGICAL_CPUS = 32
"""What Ray is told on a machine without GPUs, where actors that mostly wait would else fill two real cores."""
TURNS_SPINCOUNT = "10000"
"""How often a thread looks for more work before it sleeps (GNU OpenMP): some 0.1 ms, which spans the gaps between the
operations of a step (a fifth of its time otherwise) and nothing longer."""
CPUS_PER_RANK = 3
"""verl reserves so many for each training process (ResourcePoolManager.max_colocate_count, verl 0.9.1)."""


def cluster_address(config: DictConfig) -> str | None:
    """The running cluster that a run joins, or None for one of its own."""
    return config.ray_kwargs.ray_init.address or os.environ.get("RAY_ADDRESS")


@contextmanager
def ray_cluster(config: DictConfig, device: str) -> Iterator[None]:
    """Connect to Ray; a cluster that was started here ends with the run.

    Raises:
        UserError: no such cluster, or it has too little for the run; says what and where.
    """
    address = cluster_address(config)
    arguments = {
        name: value
        for name, value in OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True).items()
        if value is not None
    }
    given = arguments.get("runtime_env") or {}
    # Workers of a cluster of our own have the environment of this process.
    keys = WorkerKeys(_key_names(config) if address else [])
    arguments["runtime_env"] = keys.with_hook(_runtime_env(config, device, given))
    if address is None:
        arguments["address"] = "local"
        if device == "cpu":
            arguments.setdefault("num_cpus", max(LOGICAL_CPUS, os.cpu_count() or 1))
            arguments.setdefault("num_gpus", sum(_processes_per_node(config)))
    else:
        arguments["address"] = address
        for name in ("num_cpus", "num_gpus", "include_dashboard", "_temp_dir"):  # decided when it was started
            arguments.pop(name, None)
    try:
        ray.init(**arguments)
    except ConnectionError as error:
        raise UserError(f"ray_kwargs.ray_init.address: no Ray cluster answers at {address} ({error})") from error
    try:
        _require_resources(config, wait_s=WAIT_FOR_NODES_S if address else 0.0)
        if address and device != "cpu":
            _require_accelerators()
        with keys.stored():
            yield
        if config.ray_kwargs.timeline_json_file:
            ray.timeline(filename=config.ray_kwargs.timeline_json_file)
    finally:
        ray.shutdown()


def _key_names(config: DictConfig) -> list[str]:
    judge = config.reward.reward_kwargs.get("judge") or {}
    return [*config.trainer.worker_keys, judge.get("api_key_env") or JudgeConfig.api_key_env]


def _runtime_env(config: DictConfig, device: str, given: dict[str, Any]) -> dict[str, Any]:
    """verl's environment of every Ray process, ours, and the user's on top."""
    runtime_env = get_ppo_ray_runtime_env(config)
    variables = runtime_env["env_vars"]
    variables |= {
        "TRANSFER_QUEUE_ENABLE": "1",
        "VERL_ENGINE_VENDOR": ENGINE_VENDOR,
        "VERL_LOGGING_LEVEL": os.environ.get("VERL_LOGGING_LEVEL", "WARN"),
        "TQ_LOGGING_LEVEL": os.environ.get("TQ_LOGGING_LEVEL", "ERROR"),
        # verl probes for engines nobody asked for
        "PYTHONWARNINGS": os.environ.get("PYTHONWARNINGS", "ignore::UserWarning:verl.workers.engine"),
    }
    if device == "cpu":
        threads = os.environ.get("OMP_NUM_THREADS") or str(_threads_per_rank(config))
        variables |= {
            "VERL_PLATFORM": "cpu",
            "OMP_NUM_THREADS": threads,
            # Generation and training take turns: whoever waits for a message must leave the cores to the other.
            "OMP_WAIT_POLICY": "passive",
            "GOMP_SPINCOUNT": "0" if _trains_and_generates_at_once(config) else TURNS_SPINCOUNT,
        }
    for name in ("PYTHONPATH", "VERL_EXT_LOG_LEVEL", "HF_HOME", "HF_HUB_OFFLINE"):
        if os.environ.get(name):
            variables.setdefault(name, os.environ[name])
    variables |= given.get("env_vars") or {}
    return {**runtime_env, **{k: v for k, v in given.items() if v is not None}, "env_vars": variables}


def _trains_and_generates_at_once(config: DictConfig) -> bool:
    return config.trainer.v1.trainer_mode == "nft_separate_async"


def _threads_per_rank(config: DictConfig) -> int:
    return max(1, (os.cpu_count() or 1) // config.trainer.n_gpus_per_node)


def _processes_per_node(config: DictConfig) -> list[int]:
    """GPUs (without one: processes) that the run needs, for each machine that must have them together."""
    needed = [config.trainer.n_gpus_per_node] * config.trainer.nnodes
    if _trains_and_generates_at_once(config):
        rollout = config.actor_rollout_ref.rollout
        needed += [rollout.n_gpus_per_node] * rollout.nnodes
    return needed


def _require_resources(config: DictConfig, wait_s: float) -> None:
    """Wait for machines that are joining; then say what is missing, which Ray itself would wait for in silence."""
    deadline = time.monotonic() + wait_s
    while problem := _missing(config):
        if time.monotonic() >= deadline:
            raise UserError(problem)
        time.sleep(0.5)


def _require_accelerators() -> None:
    """On machines without a GPU, GPUs of a Ray cluster are only a number that somebody gave it.

    Ray names the type of those that it finds. Where neither it nor this machine knows of one, training would fail at
    its first collective, in each worker.
    """
    if get_platform().is_available():
        return
    types = {name for node in ray.nodes() for name in node["Resources"] if name.startswith("accelerator_type:")}
    if not types:
        raise UserError(
            "trainer.device: no machine of the Ray cluster has an accelerator (its GPUs are training processes on "
            "CPUs); set trainer.device=cpu"
        )


def _missing(config: DictConfig) -> str | None:
    needed = sorted(_processes_per_node(config), reverse=True)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    resources = [node["Resources"] for node in nodes]
    gpus = sorted((int(found.get("GPU", 0)) for found in resources), reverse=True)
    free = list(gpus)
    for want in needed:
        free.sort(reverse=True)
        if not free or free[0] < want:
            have = ", ".join(f"{node['NodeManagerHostname']}: {int(node['Resources'].get('GPU', 0))}" for node in nodes)
            return (
                f"trainer.nnodes, trainer.n_gpus_per_node: the run needs {' + '.join(map(str, needed))} GPUs, each "
                f"number on one machine, and the Ray cluster has {have or 'no machine'}; start more workers, or ask "
                "for less"
            )
        free[0] -= want
    available = ray.available_resources()
    if available.get("GPU", 0) < sum(needed):
        return (
            f"trainer.n_gpus_per_node: the run needs {sum(needed)} GPUs, and only {available.get('GPU', 0):g} of the "
            f"cluster's {sum(gpus)} are free; another run holds the others"
        )
    units = config.transfer_queue.backend.SimpleStorage.num_data_storage_units
    cpus = CPUS_PER_RANK * sum(needed) + units
    if available.get("CPU", 0) < cpus:
        return (
            f"ray_kwargs.ray_init.num_cpus: the run needs {cpus} CPUs ({CPUS_PER_RANK} for each of {sum(needed)} "
            f"training processes, {units} storage units), and {available.get('CPU', 0):g} are free in the Ray cluster"
        )
    return None
