"""Whether the adapter that a configuration asks for can be trained and, at the end, merged into its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from verl_ext.errors import ConfigError, UserError

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def check_adapter_keys(model: DictConfig, group: str) -> None:
    """Check what the configuration and the adapter's own say, without loading torch.

    Args:
        model: verl's group of that name.
        group: its full name, for messages.

    Raises:
        UserError: names the key.
    """
    rank, path = model.lora_rank, model.lora_adapter_path
    if isinstance(rank, bool) or not isinstance(rank, int) or rank < 0:
        raise ConfigError(f"{group}.lora_rank", given=rank, expected="a whole number, 0 for no adapter")
    if path is None:
        return
    described = {}
    if Path(path).expanduser().exists():
        described = _adapter_config(Path(path).expanduser(), f"{group}.lora_adapter_path")
    if rank != described.get("r", rank) or rank == 0:  # at 0 verl leaves the adapter where it is and trains the model
        number = f"{described['r']}, " if "r" in described else ""
        raise ConfigError(f"{group}.lora_rank", given=rank, expected=f"{number}the rank of the adapter in {path}")


def check_adapter(model: DictConfig, hf_config: PretrainedConfig, group: str, *, generates: bool = False) -> None:
    """Refuse an adapter that PEFT could not merge after training, or that generation would not see.

    Args:
        model: verl's group of that name, in which `check_adapter_keys` found nothing.
        hf_config: of the model.
        group: its full name, for messages.
        generates: whether merged weights go to a rollout engine as well, by verl's names for them.

    Raises:
        UserError: names the key.
    """
    if model.lora_rank == 0:
        return
    from peft import LoraConfig, PeftConfig

    from verl_ext.engine.adapters import changes_embeddings, why_not_mergeable

    if model.lora_adapter_path is not None:
        key = f"{group}.lora_adapter_path"
        try:
            adapter = PeftConfig.from_pretrained(model.lora_adapter_path)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{key}: {model.lora_adapter_path}: {' '.join(str(error).split())[:200]}") from error
    else:
        key = f"{group}.target_modules"
        names = ("target_modules", "target_parameters", "exclude_modules")
        targets = {name: OmegaConf.to_container(OmegaConf.create({name: model.get(name)}))[name] for name in names}
        adapter = LoraConfig(task_type="CAUSAL_LM", r=model.lora_rank, lora_alpha=model.lora_alpha, **targets)
    reason = why_not_mergeable(hf_config, adapter)
    if reason is not None:
        raise UserError(f"{key}: this adapter could not be merged into the model after training: {reason}")
    if not generates:
        return
    whole = [name for name in ("modules_to_save", "trainable_token_indices") if getattr(adapter, name)]
    if whole:
        raise UserError(f"{key}: {whole[0]} is not supported here: generation would go on with the untrained weights")
    if hf_config.tie_word_embeddings and changes_embeddings(hf_config, adapter):
        raise UserError(
            f"{key}: the model's input and output embeddings are one weight, so that generation could not take an "
            "adapter on either; leave out embed_tokens and lm_head"
        )


def _adapter_config(folder: Path, key: str) -> dict:
    path = folder / "adapter_config.json"
    if not path.is_file():
        raise UserError(f"{key}: no adapter_config.json in {folder}")
    if not any((folder / name).is_file() for name in ("adapter_model.safetensors", "adapter_model.bin")):
        raise UserError(f"{key}: no adapter_model.safetensors in {folder}")
    try:
        described = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{key}: {path} is not JSON ({error})") from error
    if not isinstance(described, dict) or described.get("peft_type") != "LORA":
        found = described.get("peft_type") if isinstance(described, dict) else type(described).__name__
        raise UserError(f"{key}: {path} holds an adapter of the kind {found}, expected LORA")
    return described
