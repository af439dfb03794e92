"""verl's FSDP engine on the processor: FSDP2 over gloo, the same code path as on a GPU."""

from __future__ import annotations

import dataclasses

from verl.workers.config import FSDPEngineConfig
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead, FSDPEngineWithValueHead

from verl_ext.engine.fsdp import ExactLogProbs, use_our_attention
from verl_ext.errors import UserError
from verl_ext.platform.cpu_memory import trim_heap


class OnCPU:
    """Mixin over `FSDPEngine`: what the processor needs differently (seen in verl 0.9.1, torch 2.13)."""

    def __init__(self, model_config, engine_config: FSDPEngineConfig, *args, **kwargs) -> None:
        # FSDP1 cannot synchronise module states between processors; torch.compile gains nothing here and costs
        # a C++ compiler and a minute.
        engine_config = dataclasses.replace(engine_config, strategy="fsdp2", use_torch_compile=False)
        super().__init__(model_config, engine_config, *args, **kwargs)

    def _build_module(self):
        use_our_attention(self.model_config)  # verl's default, flash-attn, has no CPU kernels
        return super()._build_module()

    def _build_fsdp_module(self, module):
        # For `forward_only` and `offload_policy` verl asks for pinned host memory, which needs an accelerator,
        # to move parameters to where they already are.
        engine_config = self.engine_config
        self.engine_config = dataclasses.replace(engine_config, forward_only=False, offload_policy=False)
        try:
            return super()._build_fsdp_module(module)
        finally:
            self.engine_config = engine_config

    def train_batch(self, *args, **kwargs):
        outputs = super().train_batch(*args, **kwargs)
        trim_heap()  # of activations; others on this machine may generate now
        return outputs

    def infer_batch(self, *args, **kwargs):
        outputs = super().infer_batch(*args, **kwargs)
        trim_heap()
        return outputs


class CPUFSDPEngineWithLMHead(OnCPU, ExactLogProbs, FSDPEngineWithLMHead):
    """Language model on the processor."""


class CPUFSDPEngineWithValueHead(OnCPU, FSDPEngineWithValueHead):
    """Critic on the processor: refused by name.

    verl loads a value head with flash-attn named outright (utils/model.py, `load_valuehead_model`, verl 0.9.1), which has
    no CPU kernels; the run would end by asking for the package trl.
    """

    def _build_module(self):
        raise UserError(
            f"critic: {self.model_config.path} cannot be loaded on a CPU: verl's value head needs flash-attn"
        )
