"""From base and adapter to one set of weights: PEFT's own merge, on modules that hold nothing but what was trained.

What an adapter adds to a weight is PEFT's to say: scaling (rsLoRA), magnitudes (DoRA), ranks and alphas by pattern,
adapters on embeddings and parameters, modules and tokens that were trained whole. So the modules are built anew with
the adapter's configuration, without memory, given the trained tensors, and merged by PEFT.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PretrainedConfig

from verl_ext.errors import UserError, first_line

CONFIG_FOLDER = "lora_config"
"""Of a checkpoint: the adapter's configuration in PEFT's form, without which its shards cannot be merged."""


@dataclass(frozen=True)
class Merged:
    """A model without its adapter.

    Args:
        weights: by the base model's own names, in the dtypes they came in.
        untied: an input and an output embedding that were one weight are two, because the adapter changed them apart.
    """

    weights: dict[str, Tensor]
    untied: bool


class CannotMergeError(ValueError):
    """An adapter that no base model can take up; `str(error)` is a phrase."""


def merge_adapter(config: PretrainedConfig, adapter: PeftConfig, weights: dict[str, Tensor]) -> Merged:
    """Merge an adapter into its base weights, layer by layer, in fp32.

    Args:
        config: of the base model.
        adapter: its configuration, as PEFT trained with it.
        weights: whole state dict of the `PeftModel`, whose one adapter is "default"; none of its tensors is changed.
            Beside them there is memory for the merged weights only.

    Raises:
        CannotMergeError: PEFT has no merge for such an adapter.
        RuntimeError: the weights are not those of such a model.
    """
    model = _skeleton(config, adapter)
    model.load_state_dict(weights, assign=True)
    merged = _merge_layers(model)
    untied = bool(config.tie_word_embeddings) and _embeddings_differ(merged)
    return Merged(weights=merged.state_dict(), untied=untied)


def why_not_mergeable(config: PretrainedConfig, adapter: PeftConfig) -> str | None:
    """What keeps an adapter from being merged, as a phrase; None if nothing does. Takes no memory for weights."""
    try:
        _merge_layers(_skeleton(config, adapter))
    except CannotMergeError as error:
        return str(error)
    return None


def read_adapter_config(folder: Path) -> PeftConfig:
    """The configuration in a folder that PEFT wrote.

    Raises:
        UserError: there is none, or none that this PEFT reads.
    """
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UserError(f"{path} not found")
    try:
        return PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}") from error


def adapter_of(module: nn.Module) -> PeftConfig | None:
    """The configuration of the adapter that a model trains, wrapped by FSDP or not; None if it has none."""
    module = getattr(module, "_fsdp_wrapped_module", module)
    return getattr(module, "peft_config", {}).get("default")


def write_adapter_config(adapter: PeftConfig, folder: Path) -> None:
    """Write a configuration as PEFT reads it: for use, not for training on."""
    adapter = copy.deepcopy(adapter)
    adapter.inference_mode = True
    folder.mkdir(parents=True, exist_ok=True)
    adapter.save_pretrained(str(folder))


def changes_embeddings(config: PretrainedConfig, adapter: PeftConfig) -> bool:
    """Whether the adapter changes the input or the output embedding of a model."""
    model = _skeleton(config, adapter)
    kinds = (BaseTunerLayer, AuxiliaryTrainingWrapper)
    return isinstance(model.get_input_embeddings(), kinds) or isinstance(model.get_output_embeddings(), kinds)


def _skeleton(config: PretrainedConfig, adapter: PeftConfig) -> PeftModel:
    """The modules of base and adapter without weights.

    Raises:
        CannotMergeError: PEFT makes no such adapter for this model.
    """
    adapter = copy.deepcopy(adapter)
    if not isinstance(adapter, LoraConfig):
        raise CannotMergeError(f"it is of the kind {adapter.peft_type}, expected LORA")
    if adapter.layer_replication:
        raise CannotMergeError("layer_replication makes several layers of one, each with an adapter of its own")
    adapter.init_lora_weights = True  # other beginnings need weights or data; what was trained takes its place
    try:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation="sdpa")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tied embeddings, which `Merged.untied` is about
            return get_peft_model(base, adapter, low_cpu_mem_usage=True)
    except (ValueError, TypeError, NotImplementedError) as error:  # in PEFT's words: which module, which parameter
        raise CannotMergeError(first_line(error)) from error


def _merge_layers(model: PeftModel) -> nn.Module:
    """The base model with every adapter merged into its layer.

    Raises:
        CannotMergeError: PEFT has no merge for a layer.
    """
    for layer in [module for module in model.modules() if isinstance(module, BaseTunerLayer)]:
        base = layer.get_base_layer()
        dtypes = {name: weight.dtype for name, weight in base.named_parameters(recurse=False)}
        # PEFT adds to what is there: in bf16 that rounds twice, and the tensors are still the trainer's.
        for name, weight in list(base.named_parameters(recurse=False)):
            setattr(base, name, nn.Parameter(weight.detach().to(torch.float32, copy=True), requires_grad=False))
        layer.float()
        try:
            layer.merge()
        except (NotImplementedError, RuntimeError, ValueError) as error:
            raise CannotMergeError(first_line(error)) from error
        for name, dtype in dtypes.items():
            getattr(base, name).data = getattr(base, name).data.to(dtype)
    return model.unload()


def _embeddings_differ(model: nn.Module) -> bool:
    first, last = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return not torch.equal(first, last)
