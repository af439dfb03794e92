"""verl's FSDP engine with log-probabilities in fp32, registered under the vendor name `verl_ext`.

verl picks an engine by (device, vendor) and lets `VERL_ENGINE_VENDOR` override the vendor. Our trainers set it to
`verl_ext`; every other verl run on the same machine keeps verl's own engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from tensordict import TensorDict
from torch import Tensor
from verl.utils import tensordict_utils as tu
from verl.workers.config import HFModelConfig
from verl.workers.engine import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from verl_ext.engine import ENGINE_VENDOR
from verl_ext.engine.attention import ATTENTION_NAME
from verl_ext.engine.checkpoint_loading import only_known_types


def token_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """log softmax(logits)[labels] in fp32 or wider, whatever the precision of the logits.

    Args:
        logits: (..., vocab_size), any float dtype.
        labels: (...), token ids.

    Returns:
        (...), fp32 (fp64 for fp64 logits).
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    losses = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), reduction="none")
    return -losses.view(labels.shape)


def use_our_attention(model_config: HFModelConfig) -> None:
    """Replace verl's default, flash-attn alone, unless the user named an attention.

    Set here and not as `override_config.attn_implementation`: that one ends up in the config.json of every
    checkpoint, and then nobody without this package can load it.
    """
    if "attn_implementation" not in model_config.override_config:
        model_config.hf_config._attn_implementation = ATTENTION_NAME


class _LogProbsOutput:
    """What verl reads of a model whose head already returned log-probabilities."""

    def __init__(self, log_probs: Tensor) -> None:
        self.log_probs = log_probs
        self.entropy = None


class ExactLogProbs:
    """Mixin over `FSDPEngineWithLMHead`: our attention, fp32 log-probs, and a fused head that FSDP2 can run."""

    def _build_module(self):
        use_our_attention(self.model_config)
        return super()._build_module()

    def prepare_model_outputs(self, output, output_args, micro_batch: TensorDict, logits_processor_func):
        """See `FSDPEngineWithLMHead`; the plain head's log-probs are fp32 instead of the model's precision.

        verl computes them in the dtype of the logits, and `sft_loss` then sums thousands of bf16 numbers.
        """

        def flag(key: str) -> bool:
            return bool(tu.get_non_tensor_data(data=micro_batch, key=key, default=False))

        needs_logits = ("calculate_entropy", "calculate_sum_pi_squared", "distillation_use_topk", "distillation_only")
        if not flag("use_fused_kernels"):
            if output_args["temperature_is_one"] and not any(flag(key) for key in needs_logits):
                labels = self._labels(micro_batch, output_args, output.logits.shape[:2])
                output = _LogProbsOutput(token_log_probs(output.logits, labels))
                tu.assign_non_tensor(micro_batch, use_fused_kernels=True)
            else:
                output.logits = output.logits.float()
        return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)

    def _labels(self, micro_batch: TensorDict, output_args: dict, shape: torch.Size) -> Tensor:
        """Next token of each position, laid out like the logits: (1, tokens of this rank) or (batch, tokens)."""
        rolled = output_args["input_ids_rmpad_rolled"]
        if tu.get_non_tensor_data(data=micro_batch, key="use_remove_padding", default=True):
            return rolled.unsqueeze(0)
        offsets = micro_batch["input_ids"].offsets()
        labels = rolled.new_zeros(shape)
        is_token = torch.arange(shape[1], device=rolled.device) < offsets.diff().unsqueeze(1)
        labels[is_token] = rolled
        return labels

    def _build_fsdp_module(self, module):
        with self._head_outside_its_own_unit(module):
            return super()._build_fsdp_module(module)

    @contextmanager
    def _head_outside_its_own_unit(self, module) -> Iterator[None]:
        """Keep lm_head in the root FSDP2 unit while a fused head reads its weight outside its forward.

        verl wraps an untied lm_head on its own (utils/fsdp_utils.py, `_select_fsdp2_wrap_targets`), and FSDP2
        then hands the fused forward a sharded weight. Tied embeddings are left in the root unit, so the model
        counts as tied while it is wrapped (seen in verl 0.9.1).
        """
        config = module.config
        tied = config.tie_word_embeddings
        if self.model_config.use_fused_kernels and self.engine_config.strategy == "fsdp2":
            config.tie_word_embeddings = True
        try:
            yield
        finally:
            config.tie_word_embeddings = tied

    def load_checkpoint(self, *args, **kwargs) -> None:
        with only_known_types():
            super().load_checkpoint(*args, **kwargs)


@EngineRegistry.register(model_type="language_model", backend=["fsdp", "fsdp2"], device="cuda", vendor=ENGINE_VENDOR)
class ExactFSDPEngineWithLMHead(ExactLogProbs, FSDPEngineWithLMHead):
    """FSDP on GPUs for `verl_ext.trainer`."""
