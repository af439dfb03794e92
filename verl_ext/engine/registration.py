"""Our engines and our attention, by the names under which verl and transformers look for them."""

from __future__ import annotations

from functools import cache

from verl.workers.engine import EngineRegistry

from verl_ext.engine import ENGINE_VENDOR
from verl_ext.engine.attention import register_attention
from verl_ext.engine.fsdp import ExactFSDPEngineWithLMHead
from verl_ext.engine.fsdp_cpu import CPUFSDPEngineWithLMHead, CPUFSDPEngineWithValueHead

BACKENDS = ["fsdp", "fsdp2"]


@cache
def register_engines() -> None:
    """Language models on GPUs (for `verl_ext.trainer` alone) and on the processor, and the critic on the processor."""
    register_attention()
    on_gpu = EngineRegistry.register("language_model", BACKENDS, device="cuda", vendor=ENGINE_VENDOR)
    on_gpu(ExactFSDPEngineWithLMHead)
    EngineRegistry.register("language_model", BACKENDS, device="cpu")(CPUFSDPEngineWithLMHead)
    EngineRegistry.register("value_model", BACKENDS, device="cpu")(CPUFSDPEngineWithValueHead)
