"""What of a model's configuration cannot be trained, or would be changed without any effect, found before weights load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from verl_ext.errors import ConfigError, UserError, nearest
from verl_ext.model_rope import changed_rope, given_changes

if TYPE_CHECKING:
    from transformers import PretrainedConfig

OTHER_INPUTS = {"vision_config": "images", "audio_config": "sound"}
OTHER_HEADS = ("ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMaskedLM")
ROPE_NAMES = ("rope_theta", "rope_scaling", "rope_parameters", "partial_rotary_factor")
NO_ATTRIBUTES = ("attn_implementation",)
"""Overrides that verl takes before they reach the configuration."""


def check_model(model: DictConfig, hf_config: PretrainedConfig, group: str, *, max_length: int | None = None) -> None:
    """Check a model, and what a run changes of its configuration.

    Args:
        model: verl's group of that name.
        hf_config: as the model's folder has it.
        group: full name of the group, for messages.
        max_length: tokens of the longest row that a run trains on, to compare with a context that the run sets.

    Raises:
        UserError: names the key and the reason.
    """
    _require_causal_text_model(model.path, hf_config, group)
    overrides = OmegaConf.to_container(model.override_config, resolve=True)
    has_rope = "rope" in model
    for name, value in overrides.items():
        _check_override(f"{group}.override_config.{name}", name, value, hf_config, rope=has_rope)
    rope = model.rope if has_rope else None
    if not given_changes(rope):
        return
    if "max_position_embeddings" in overrides:
        raise UserError(
            f"{group}.override_config.max_position_embeddings: set {group}.rope.max_position_embeddings instead, which "
            "the other keys of that group are compared with"
        )
    _, context = changed_rope(hf_config, rope, group)
    if max_length is not None and max_length > context:
        raise ConfigError(
            "data.max_length",
            given=max_length,
            expected=f"at most {context}, the model's context with this {group}.rope "
            f"({group}.rope.max_position_embeddings sets another)",
        )


def _require_causal_text_model(path: str, hf_config: PretrainedConfig, group: str) -> None:
    name = type(hf_config).__name__
    for part, inputs in OTHER_INPUTS.items():
        if getattr(hf_config, part, None) is not None:
            raise UserError(
                f"{group}.path: {path} reads {inputs} ({name}); only language models of text are trained here"
            )
    for architecture in hf_config.architectures or ():
        if architecture.endswith(OTHER_HEADS):
            raise UserError(f"{group}.path: {path} is a {architecture}, expected a causal language model")
    if getattr(hf_config, "is_encoder_decoder", False):
        raise UserError(f"{group}.path: {path} has an encoder and a decoder ({name}), expected a causal language model")


def _check_override(key: str, name: str, value: Any, hf_config: PretrainedConfig, *, rope: bool) -> None:
    if name in ROPE_NAMES:
        instead = (
            f"set {key.partition('.override_config.')[0]}.rope.*"
            if rope
            else "write a model folder with that RoPE first (python -m verl_ext.rope_folder), which generation reads too"
        )
        raise UserError(f"{key}: would change an attribute that no model reads; {instead}")
    if name in NO_ATTRIBUTES:
        return
    if not hasattr(hf_config, name):
        known = nearest(name, hf_config.to_dict())
        hint = f"; did you mean {known}?" if known else ""
        raise UserError(f"{key}: {type(hf_config).__name__} has no such attribute, and no model would read it{hint}")
    if isinstance(value, dict) and isinstance(getattr(hf_config, name), dict | None):
        raise UserError(f"{key}: verl cannot change parts of it; write it into the model's config.json")
