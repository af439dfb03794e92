"""How long texts are, and how a model would see an exchange: with its tokenizer, or without one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from verl_ext.errors import DataError, first_line


class Measure(Protocol):
    unit: str

    def lengths(self, texts: Sequence[str]) -> list[int]: ...

    def render(self, question: str, answer: str) -> str: ...


class Characters:
    unit = "characters"

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(text) for text in texts]

    def render(self, question: str, answer: str) -> str:
        return f"{question}\n{answer}"


class Tokens:
    """Tokens of the bare texts: a chat template and the end of turn come on top.

    Args:
        model: folder or hub id of a model.

    Raises:
        DataError: no tokenizer there.
    """

    unit = "tokens"

    def __init__(self, model: str) -> None:
        from transformers import AutoTokenizer  # seconds to import, and needed only here

        try:
            self._tokenizer = AutoTokenizer.from_pretrained(model)
        except (OSError, ValueError) as error:
            raise DataError(f"--tokenizer {model}: no tokenizer there: {first_line(error)}") from error

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenizer(list(texts), add_special_tokens=False)["input_ids"]]

    def render(self, question: str, answer: str) -> str:
        if self._tokenizer.chat_template is None:
            return Characters().render(question, answer)
        exchange = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        return self._tokenizer.apply_chat_template(exchange, tokenize=False)
