"""What verl's worker extension for vLLM needs on a processor; imported in vLLM's own worker processes.

vLLM 0.31 packs the weights of linear layers for its CPU kernels and throws the originals away
(`vllm/model_executor/layers/linear.py:216`, `layers/utils.py:466`). They lose their `weight_loader` with it, and the next
weight update fails; the tied output embedding keeps a packed copy of old weights. So packing is turned off, for which
vLLM has no setting: every layer computes with `torch.nn.functional.linear`, vLLM's own fallback.
"""

from __future__ import annotations

import torch
import vllm.model_executor.layers.utils as layers
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


def compute_with_the_weights_themselves(layer: torch.nn.Module, remove_weight: bool) -> None:
    """In the place of vLLM's `dispatch_cpu_unquantized_gemm`: keep the weights, pack nothing."""
    layer.cpu_linear = torch.nn.functional.linear


class CPUWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension, over weights that stay where they are."""

    def __new__(cls, **kwargs):
        # Its two users import it by name at each call.
        layers.dispatch_cpu_unquantized_gemm = compute_with_the_weights_themselves
        return super().__new__(cls, **kwargs)
