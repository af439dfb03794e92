"""What a model allows a generator: how long a context, how much memory for it, and which attention."""

from __future__ import annotations

from transformers import PreTrainedModel

from verl_ext.errors import ConfigError


def cache_bytes_per_token(model: PreTrainedModel) -> int:
    """Memory that keys and values of one token take."""
    config = model.config.get_text_config()
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return 2 * config.num_hidden_layers * heads * size * model.dtype.itemsize


def context_length(model: PreTrainedModel, asked: int | None) -> int:
    """Most tokens of prompt and response: what was asked for, or what the model was made for.

    Raises:
        ConfigError: more than that.
    """
    own = model.config.get_text_config().max_position_embeddings
    if asked is None:
        return own
    if not 2 <= asked <= own:
        raise ConfigError("max_model_len", given=asked, expected=f"2 to {own}, the model's max_position_embeddings")
    return asked


def require_full_attention(model: PreTrainedModel, context: int) -> None:
    """Refuse a model some layer of which does not see all tokens of so long a context.

    Raises:
        ConfigError: says what was found.
    """
    config = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    if others or (window is not None and window < context):
        found = ", ".join(sorted(others)) or f"a sliding window of {window} and a context of {context}"
        raise ConfigError("model", given=found, expected="full attention in every layer (use vLLM for others)")
