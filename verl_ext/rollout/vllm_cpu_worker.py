"""What verl's worker extension for vLLM needs on a processor; imported in vLLM's own worker processes.

vLLM 0.31 packs the weights of linear layers for its CPU kernels and throws the originals away
(`vllm/model_executor/layers/linear.py:216`, `layers/utils.py:466`). They lose their `weight_loader` with it, and the next
weight update fails; the tied output embedding keeps a packed copy of old weights. So packing is turned off, for which
vLLM has no setting: every layer computes with `torch.nn.functional.linear`, vLLM's own fallback.

It also wants a tied output embedding in the same bucket of weights as the input embedding
(`vllm/model_executor/models/utils.py:471`), while verl sends both, in the order of the model and in buckets of any size.
"""

from __future__ import annotations

import torch
import vllm.model_executor.layers.utils as layers
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

OUTPUT_EMBEDDING = "lm_head.weight"


def compute_with_the_weights_themselves(layer: torch.nn.Module, remove_weight: bool) -> None:
    """In the place of vLLM's `dispatch_cpu_unquantized_gemm`: keep the weights, pack nothing."""
    layer.cpu_linear = torch.nn.functional.linear


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension, over weights that stay where they are."""

    def __new__(cls, **kwargs):
        # Its two users import it by name at each call.
        layers.dispatch_cpu_unquantized_gemm = compute_with_the_weights_themselves
        return super().__new__(cls, **kwargs)

    def _update_weights(self, weights, peft_config, base_sync_done):
        tied = self.model_runner.vllm_config.model_config.hf_text_config.tie_word_embeddings
        if tied and not (peft_config and base_sync_done):  # not the weights of an adapter
            weights = [(name, tensor) for name, tensor in weights if name != OUTPUT_EMBEDDING]
        super()._update_weights(weights, peft_config=peft_config, base_sync_done=base_sync_done)
