"""From a sharded model in training to a plain Hugging Face folder that transformers and vLLM load."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig
from verl.utils.fsdp_utils import fsdp_version, get_fsdp_full_state_dict
from verl.utils.transformers_compat import drop_tied_target_keys
from verl.workers.engine import BaseEngine

ADAPTER_FOLDER = "lora_adapter"
"""Beside the merged weights: the adapter alone, as PEFT loads it."""

_PEFT_PREFIX = "base_model.model."


def export_hugging_face(engine: BaseEngine, folder: Path) -> None:
    """Write the weights that the engine holds as safetensors into `folder`, in the dtype the model came in.

    A LoRA adapter is merged into its base weights, and also written alone. Called by all ranks together; rank 0
    writes. verl puts configuration and tokenizer into the same folder when it saves a checkpoint.
    """
    module = engine.module
    weights = get_fsdp_full_state_dict(module, offload_to_cpu=True, rank0_only=True)
    if dist.get_rank() == 0:
        model = module._fsdp_wrapped_module if fsdp_version(module) == 1 else module
        lora = getattr(model, "peft_config", {}).get("default")
        if lora is not None:
            _write_adapter(model, weights, folder.parent / ADAPTER_FOLDER)
            weights = merge_lora(weights, scaling=lora.lora_alpha / lora.r)
            model = model.get_base_model()
        _write_model(model, weights, source=engine.model_config.hf_config, folder=folder)
    dist.barrier()


def merge_lora(weights: dict[str, Tensor], *, scaling: float) -> dict[str, Tensor]:
    """Fold the adapters of a PEFT state dict into its base weights: W + scaling * B A (arXiv 2106.09685).

    Args:
        weights: state dict of a `PeftModel` with one LoRA adapter named "default".
        scaling: lora_alpha / r.

    Returns:
        State dict of the base model; merged in fp32, returned in the dtype of the base weights.
    """
    merged = {}
    for name, weight in weights.items():
        if ".lora_" in name:
            continue
        if name.endswith(".base_layer.weight"):
            layer = name.removesuffix(".base_layer.weight")
            down, up = weights[f"{layer}.lora_A.default.weight"], weights[f"{layer}.lora_B.default.weight"]
            delta = scaling * (up.float() @ down.float())
            weight = (weight.float() + delta).to(weight.dtype)
        merged[name.removeprefix(_PEFT_PREFIX).replace(".base_layer.", ".")] = weight
    return merged


def _write_adapter(model: torch.nn.Module, weights: dict[str, Tensor], folder: Path) -> None:
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    adapter = {
        name: weight.contiguous() for name, weight in get_peft_model_state_dict(model, state_dict=weights).items()
    }
    save_file(adapter, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(model.peft_config["default"])
    config.inference_mode = True
    config.save_pretrained(str(folder))


def _write_model(model: torch.nn.Module, weights: dict[str, Tensor], *, source, folder: Path) -> None:
    write_model(
        model.config,
        weights,
        dtype=getattr(source, "dtype", None) or torch.float32,
        generation_config=getattr(model, "generation_config", None),
        folder=folder,
    )


def write_model(
    config: PretrainedConfig,
    weights: dict[str, Tensor],
    *,
    dtype: torch.dtype,
    generation_config: GenerationConfig | None,
    folder: Path,
) -> None:
    """Write configuration and weights as a Hugging Face folder that transformers and vLLM load.

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
