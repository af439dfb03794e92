"""The tokenizer of a launch where it is on this machine, and something that counts characters where it is not."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from omegaconf import DictConfig, OmegaConf

from verl_ext.model_folder import TOKENIZER_FILES, looks_like_hub_id

CHARACTERS_PER_TOKEN = 3.5
"""Of English with formulas; a guess that only stands in for a tokenizer, and is said to be one."""


class CharacterCount:
    """What the data sets ask of a tokenizer: as many tokens as the characters of a text make up about.

    With it the columns and rows of a file are checked, and lengths are guessed.
    """

    eos_token = "<eos>"
    all_special_tokens = (eos_token,)
    added_tokens_decoder: ClassVar[dict[int, Any]] = {}

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab

    def __len__(self) -> int:
        return self._vocab

    def __call__(self, texts: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0] * self._tokens(text) for text in texts]}

    def apply_chat_template(self, messages: Sequence[dict[str, Any]], **_: Any) -> str:
        return "".join(f"<{message.get('role')}>{message.get('content') or ''}<eos>" for message in messages)

    @staticmethod
    def _tokens(text: str) -> int:
        return -int(-len(text) // CHARACTERS_PER_TOKEN)


def tokenizer_is_here(path: str) -> bool:
    """Whether a folder, or the local cache of the hub, has the tokenizer of a model."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        return any((folder / name).is_file() for name in TOKENIZER_FILES)
    if not looks_like_hub_id(path):
        return False
    from huggingface_hub import try_to_load_from_cache

    return any(isinstance(try_to_load_from_cache(path, name), str) for name in TOKENIZER_FILES)


def load_tokenizer(config: DictConfig, model: DictConfig) -> Any:
    """The tokenizer as the trainer loads it, with the chat template that the configuration names.

    Args:
        config: of the launch.
        model: its group with the model's keys.

    Raises:
        UserError: it has no chat template, or no end of turn.
        OSError, ValueError: it cannot be read.
    """
    from verl_ext.trainer.run import launch

    model = copy.deepcopy(model)
    OmegaConf.set_struct(model, False)
    if config.data.chat_template_file and Path(config.data.chat_template_file).is_file():
        model.custom_chat_template = Path(config.data.chat_template_file).read_text()
    return launch.load_tokenizer(OmegaConf.create({"model": model}))
