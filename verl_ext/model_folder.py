"""Is this a model folder that can be trained, and which model is it? Read from its files, before torch loads anything."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from verl_ext.errors import ConfigError, UserError

WEIGHT_PATTERNS = ("*.safetensors", "pytorch_model*.bin", "model*.bin")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model")
TOKENIZER_SETTINGS = (
    *("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt"),
    *("chat_template.jinja", "chat_template.json"),
)
"""Files beside those of the vocabulary that change what a text's tokens are."""

_PIECES, _PIECE_BYTES = 64, 65536


def require_model_folder(path: str, *, tokenizer_path: str | None = None, group: str = "model") -> None:
    """Check that a local model has a configuration, weights and a tokenizer; a hub id is left to the hub.

    Args:
        path: folder or hub id.
        tokenizer_path: folder of its tokenizer, if that is another one.
        group: of the configuration that names them, for messages.

    Raises:
        UserError: says which file is missing.
    """
    folder = Path(path).expanduser()
    if not folder.exists():
        if looks_like_hub_id(path):
            return
        raise UserError(f"{group}.path: folder {path} not found")
    if not folder.is_dir():
        raise UserError(f"{group}.path: {path} is a file, expected a folder in Hugging Face form")
    if not (folder / "config.json").is_file():
        raise UserError(f"{group}.path: no config.json in {path}{_checkpoint_hint(folder)}")
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_PATTERNS):
        raise UserError(f"{group}.path: no weights in {path} (*.safetensors or pytorch_model*.bin)")
    tokenizer = Path(tokenizer_path).expanduser() if tokenizer_path else folder
    if tokenizer.exists() and not any((tokenizer / name).is_file() for name in TOKENIZER_FILES):
        key = f"{group}.tokenizer_path" if tokenizer_path else f"{group}.path"
        raise UserError(f"{key}: no tokenizer in {tokenizer} ({', '.join(TOKENIZER_FILES)})")


def weights_fingerprint(folder: Path, *, config_name: str = "config.json") -> str | None:
    """A hash of a model folder's configuration and of pieces of its weights; None for what is not a folder.

    Training changes every weight, so pieces tell two models apart without reading all of them.

    Args:
        config_name: of the configuration; an adapter's has another name than a model's.
    """
    if not folder.is_dir():
        return None
    digest = hashlib.sha256((folder / config_name).read_bytes())
    for path in sorted(path for pattern in WEIGHT_PATTERNS for path in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}".encode())
        with path.open("rb") as file:
            for piece in range(_PIECES):
                file.seek(size * piece // _PIECES)
                digest.update(file.read(_PIECE_BYTES))
    return digest.hexdigest()[:16]


def tokenizer_fingerprint(folder: Path) -> str | None:
    """A hash of the tokenizer's files in a folder; None for what is not a folder."""
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for name in (*TOKENIZER_FILES, *TOKENIZER_SETTINGS):
        if (folder / name).is_file():
            digest.update(f"{name} {(folder / name).stat().st_size}".encode())
            digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def looks_like_hub_id(path: str) -> bool:
    """`name` or `owner/name`, nothing that can only be a path."""
    return not path.startswith((".", "/", "~")) and path.count("/") <= 1


def require_sequence_parallel_heads(
    hf_config: Any, sp_size: int, key: str = "engine.ulysses_sequence_parallel_size"
) -> None:
    """Check that Ulysses can share the attention heads out evenly.

    Raises:
        ConfigError: the heads do not divide, with the sizes that would.
    """
    text_config = hf_config.get_text_config()
    heads = text_config.num_attention_heads
    kv_heads = getattr(text_config, "num_key_value_heads", None) or heads

    def fits(size: int) -> bool:
        return heads % size == 0 and (kv_heads % size == 0 or size % kv_heads == 0)

    if not fits(sp_size):
        sizes = [size for size in range(1, heads + 1) if fits(size)]
        raise ConfigError(
            key,
            given=sp_size,
            expected=f"one of {sizes} for {heads} attention heads and {kv_heads} key/value heads",
        )


def read_hf_config(path: str, *, trust_remote_code: bool, group: str = "model") -> Any:
    """The model's configuration, from a folder or the hub.

    Raises:
        UserError: it cannot be read, with the reason in one line.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError, json.JSONDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{group}.path: cannot read the configuration of {path}: {reason[:300]}") from error


def _checkpoint_hint(folder: Path) -> str:
    inner = folder / "huggingface"
    return f"; did you mean {inner}?" if (inner / "config.json").is_file() else ""


def end_tokens(*sources: Any) -> set[int]:
    """The end tokens that a model's generation settings and its tokenizer name (`eos_token_id`, one or several)."""
    found: set[int] = set()
    for source in sources:
        ids: Any = getattr(source, "eos_token_id", None)
        found |= set(ids) if isinstance(ids, (list, tuple)) else set() if ids is None else {ids}
    return found
