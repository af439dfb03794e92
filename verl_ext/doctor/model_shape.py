"""The sizes of a model that decide its memory and its work, from its config.json or from a table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from verl_ext.errors import UserError
from verl_ext.model_folder import looks_like_hub_id, read_hf_config

TABLE = "model_shapes.json"

LLAMA_LIKE = ("llama", "mistral", "qwen2", "qwen3", "olmo2", "phi3", "granite", "smollm3")
"""Model types whose parameters `ModelShape` counts exactly, or nearly so."""


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A decoder of the Llama family: RMS norms, grouped-query attention, a gated MLP of three matrices."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    context: int
    """Longest sequence that the model was made for (max_position_embeddings)."""
    tied: bool
    """Whether the embedding is the head as well."""
    attention_bias: int = 0
    """Biases of a layer's attention, in numbers."""
    head_norms: int = 0
    """Numbers of a layer's norms of single queries and keys (Qwen3)."""
    model_type: str = "llama"

    @property
    def query_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        """Of keys alone, or of values alone."""
        return self.kv_heads * self.head_dim

    @property
    def layer_matrices(self) -> int:
        """Parameters of a layer that are multiplied with each token."""
        attention = 2 * self.hidden * self.query_width + 2 * self.hidden * self.kv_width
        return attention + 3 * self.hidden * self.intermediate

    @property
    def layer_parameters(self) -> int:
        return self.layer_matrices + self.attention_bias + self.head_norms + 2 * self.hidden

    @property
    def embedding(self) -> int:
        return self.vocab * self.hidden

    @property
    def parameters(self) -> int:
        embeddings = self.embedding if self.tied else 2 * self.embedding
        return self.layers * self.layer_parameters + embeddings + self.hidden

    @property
    def multiplied(self) -> int:
        """Parameters that each token is multiplied with: all matrices and the head, but not the embedding."""
        return self.layers * self.layer_matrices + self.embedding

    @property
    def exact(self) -> bool:
        """Whether the counts above are those of this type of model, and not of one that is taken to be alike."""
        return self.model_type in LLAMA_LIKE

    def lora_parameters(self, rank: int) -> int:
        """Of adapters on every linear layer (PEFT's `all-linear`, which leaves the head out): rank * (in + out)."""
        hidden, query, kv, inner = self.hidden, self.query_width, self.kv_width, self.intermediate
        widths = 2 * (hidden + query) + 2 * (hidden + kv) + 3 * (hidden + inner)
        return self.layers * rank * widths

    @classmethod
    def of_config(cls, config: Any) -> ModelShape:
        """The shape that a transformers configuration describes.

        Raises:
            UserError: it has not the fields of a decoder.
        """
        text = config.get_text_config()
        try:
            heads = text.num_attention_heads
            kv_heads = getattr(text, "num_key_value_heads", None) or heads
            head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
            qwen2 = text.model_type == "qwen2"
            biased = qwen2 or bool(getattr(text, "attention_bias", False))
            bias = (heads + 2 * kv_heads) * head_dim + (0 if qwen2 else text.hidden_size)
            return cls(
                layers=text.num_hidden_layers,
                hidden=text.hidden_size,
                intermediate=text.intermediate_size,
                heads=heads,
                kv_heads=kv_heads,
                head_dim=head_dim,
                vocab=text.vocab_size,
                context=text.max_position_embeddings,
                tied=bool(text.tie_word_embeddings),
                attention_bias=bias if biased else 0,
                head_norms=2 * head_dim if text.model_type == "qwen3" else 0,
                model_type=text.model_type,
            )
        except AttributeError as error:
            raise UserError(f"no decoder that can be estimated: {error}") from error


@dataclass(frozen=True)
class FoundModel:
    """A model's configuration and where it was read."""

    config: Any
    """Of transformers."""
    shape: ModelShape
    source: str


def find_model(path: str, *, trust_remote_code: bool, group: str, ask_hub: bool) -> FoundModel | None:
    """The shape of a model: from its folder or the local cache of the hub, else from the table.

    Args:
        ask_hub: whether the hub may be asked for what is not here.

    Returns:
        None for a model that is in neither.

    Raises:
        UserError: a config.json that is there and cannot be read, or describes no decoder.
    """
    folder = Path(path).expanduser()
    if (folder / "config.json").is_file():
        config = read_hf_config(str(folder), trust_remote_code=trust_remote_code, group=group)
        return FoundModel(config, ModelShape.of_config(config), f"{folder}/config.json")
    if looks_like_hub_id(path) and (ask_hub or _is_cached(path)):
        config = read_hf_config(path, trust_remote_code=trust_remote_code, group=group)
        return FoundModel(config, ModelShape.of_config(config), "the hub's config.json")
    name = _name_in_table(path)
    if name is None:
        return None
    config = table_config(name)
    return FoundModel(config, ModelShape.of_config(config), f"the doctor's table ({name})")


def _is_cached(model_id: str) -> bool:
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        return isinstance(try_to_load_from_cache(model_id, "config.json"), str)
    except HFValidationError:
        return False


def table_config(name: str) -> Any:
    """A transformers configuration with the sizes that the table has for a model."""
    from transformers import AutoConfig

    values = dict(_table()[name]["config"])
    return AutoConfig.for_model(values.pop("model_type"), **values)


def table_parameters() -> dict[str, float]:
    """Model -> number of parameters as it is published."""
    return {name: float(entry["parameters"]) for name, entry in _table().items()}


@cache
def _table() -> dict[str, Any]:
    return json.loads(resources.files("verl_ext.doctor").joinpath(TABLE).read_text())["models"]


def _name_in_table(path: str) -> str | None:
    """The entry of the same name, whatever the folder or owner before it."""
    last = path.rstrip("/").rpartition("/")[2].lower()
    return next((name for name in _table() if name.rpartition("/")[2].lower() == last), None)
