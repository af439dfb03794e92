"""From a sharded model in training to a plain Hugging Face folder that transformers and vLLM load."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.distributed as dist
from peft import PeftConfig, PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig
from verl.utils.fsdp_utils import fsdp_version, get_fsdp_full_state_dict
from verl.utils.transformers_compat import drop_tied_target_keys
from verl.workers.engine import BaseEngine

from verl_ext.engine.adapters import adapter_of, merge_adapter, write_adapter_config
from verl_ext.model_rope import add_old_spelling

ADAPTER_FOLDER = "lora_adapter"
"""Beside the merged weights: the adapter alone, as PEFT loads it."""


def export_hugging_face(engine: BaseEngine, folder: Path) -> None:
    """Write the weights that the engine holds as safetensors into `folder`, in the dtype the model came in.

    A LoRA adapter is merged into its base weights, and also written alone. Called by all ranks together; rank 0
    writes. verl puts configuration and tokenizer into the same folder when it saves a checkpoint.
    """
    module = engine.module
    weights = get_fsdp_full_state_dict(module, offload_to_cpu=True, rank0_only=True)
    if dist.get_rank() == 0:
        model = module._fsdp_wrapped_module if fsdp_version(module) == 1 else module
        config, adapter = model.config, adapter_of(model)
        if adapter is not None:
            _write_adapter(model, weights, folder.parent / ADAPTER_FOLDER)
            model = model.get_base_model()
            config, weights = merge_into_base(config, adapter, weights)
        write_model(
            config,
            weights,
            dtype=getattr(engine.model_config.hf_config, "dtype", None) or torch.float32,
            generation_config=getattr(model, "generation_config", None),
            folder=folder,
        )
    dist.barrier()


def merge_into_base(
    config: PretrainedConfig, adapter: PeftConfig, weights: dict[str, Tensor]
) -> tuple[PretrainedConfig, dict[str, Tensor]]:
    """Configuration and weights of the base model with the adapter in them; see `merge_adapter`.

    Tied embeddings that the adapter has made two are two in the configuration as well.
    """
    merged = merge_adapter(config, adapter, weights)
    if merged.untied:
        config = copy.deepcopy(config)
        config.tie_word_embeddings = False
    return config, merged.weights


def _write_adapter(model: PeftModel, weights: dict[str, Tensor], folder: Path) -> None:
    """Adapter and configuration as PEFT loads them; the embeddings of the base are the base's to keep."""
    write_adapter_config(model.peft_config["default"], folder)
    own = get_peft_model_state_dict(model, state_dict=weights, save_embedding_layers=False)
    # The same tensor under two names (embeddings that are tied) would be refused.
    own = {name: weight.clone(memory_format=torch.contiguous_format) for name, weight in own.items()}
    save_file(own, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def write_model(
    config: PretrainedConfig,
    weights: dict[str, Tensor],
    *,
    dtype: torch.dtype,
    generation_config: GenerationConfig | None,
    folder: Path,
) -> None:
    """Write configuration and weights as a Hugging Face folder that transformers (5, and 4 from 4.57) and vLLM load.

    Args:
        config: of the model; not changed.
        weights: by the model's own names; floating point ones are written in `dtype`.
        generation_config: what the model ends and samples with; None for what its configuration says.
        folder: made if need be.
    """
    config = copy.deepcopy(config)
    config.dtype = dtype
    config.use_cache = True
    config.__dict__.pop("attn_implementation", None)  # of the training, set through model.override_config
    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    weights = {name: weight.to(dtype) if weight.is_floating_point() else weight for name, weight in weights.items()}
    drop_tied_target_keys(weights, skeleton, config)
    if generation_config is not None:
        skeleton.generation_config = copy.deepcopy(generation_config)
    skeleton.save_pretrained(folder, state_dict=weights)
    add_old_spelling(folder)
