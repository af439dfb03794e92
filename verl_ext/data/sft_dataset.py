"""Prompts and responses, tokenised once, ready to be packed: the data of supervised training."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from verl_ext.data.conversation import ConversationRenderer, Piece
from verl_ext.data.messages import ConversationError, is_messages
from verl_ext.data.reading import column_names, iterate_rows, require_files, require_text, row_error
from verl_ext.errors import ConfigError, DataError

TOKENIZER_BATCH = 512
TOKENIZER_CHARACTERS = 2**21
"""At a time: for each token of a batch, tokenizers keep offsets and more."""


@dataclass(frozen=True, kw_only=True)
class SFTDataConfig:
    """Which text is learned. Single-turn data has a `prompt_key`; chat data does not."""

    prompt_key: str | None = None
    response_key: str | None = None
    prompt_dict_keys: Sequence[str] = ()
    response_dict_keys: Sequence[str] = ()
    messages_key: str = "messages"
    tools_key: str = "tools"
    enable_thinking_key: str = "enable_thinking"
    enable_thinking_default: bool | None = None
    train_on_turns: Literal["all", "last"] = "all"
    max_length: int = 2048
    truncation: Literal["right", "left", "error"] = "right"
    apply_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ConfigError("data.max_length", given=self.max_length, expected="at least 2 tokens")
        if self.truncation not in ("right", "left", "error"):
            raise ConfigError("data.truncation", given=self.truncation, expected="right, left or error")
        if self.train_on_turns not in ("all", "last"):
            raise ConfigError("data.train_on_turns", given=self.train_on_turns, expected="all or last")
        if (self.prompt_key is None) != (self.response_key is None):
            missing = "data.prompt_key" if self.prompt_key is None else "data.response_key"
            raise ConfigError(missing, given=None, expected="a column, because its counterpart is set")

    @property
    def columns(self) -> list[tuple[str, str, Sequence[str]]]:
        """(configuration key, column, keys to follow inside it) of each text."""
        if self.prompt_key is None:
            return [("data.messages_key", self.messages_key, ())]
        return [
            ("data.prompt_key", self.prompt_key, self.prompt_dict_keys),
            ("data.response_key", self.response_key, self.response_dict_keys),
        ]


class SFTDataset(torch.utils.data.Dataset):
    """Tokenised rows of one or many files.

    A row is {input_ids, position_ids, loss_mask}: three int64 tensors of shape (tokens,), `tokens` at most
    `max_length`. `loss_mask[t]` is 1 where token t is learned, that is predicted from the tokens before it. Rows
    of which no token is learned any more after truncation are dropped and counted.

    Args:
        files: parquet or JSON-lines files.
        key: configuration key of `files`, for error messages.
        max_samples: read this many rows at most; -1 for all.

    Raises:
        DataError: a file, column or row that cannot be used, named.
    """

    def __init__(
        self,
        files: Sequence[str],
        tokenizer: PreTrainedTokenizerBase,
        config: SFTDataConfig,
        *,
        key: str = "data.train_files",
        max_samples: int = -1,
    ) -> None:
        self.files = list(files)
        self.config = config
        self.counts: Counter[str] = Counter()
        self._renderers = {None: ConversationRenderer(tokenizer, config.apply_chat_template_kwargs)}
        self._input_ids: list[np.ndarray] = []
        self._loss_masks: list[np.ndarray] = []
        self._sources: list[tuple[int, int]] = []

        require_files(key, self.files)
        for path in self.files:
            self._require_columns(path)
        pieces: list[list[Piece]] = []
        characters = 0
        for source in self._read(max_samples):
            pieces.append(self._pieces(*source))
            self._sources.append(source[:2])
            characters += sum(len(piece.text) for piece in pieces[-1])
            if len(pieces) == TOKENIZER_BATCH or characters > TOKENIZER_CHARACTERS:
                self._tokenise(tokenizer, pieces)
                pieces, characters = [], 0
        self._tokenise(tokenizer, pieces)
        if not self.counts["rows"]:
            raise DataError(f"{key}: no rows in {', '.join(self.files)}")
        if not self._input_ids:
            raise DataError(
                f"{key}: all {self.counts['rows']} rows lost their whole response at "
                f"data.max_length={config.max_length}"
            )

    def __len__(self) -> int:
        return len(self._input_ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(self._input_ids[index].astype(np.int64))
        return {
            "input_ids": input_ids,
            "position_ids": torch.arange(len(input_ids)),
            "loss_mask": torch.from_numpy(self._loss_masks[index].astype(np.int64)),
        }

    def row_name(self, index: int) -> str:
        """`file:row` of an entry, as errors name it."""
        file, row = self._sources[index]
        return f"{Path(self.files[file]).name}:{row}"

    def lengths(self) -> np.ndarray:
        """Tokens of each row, prompt and response together."""
        return np.array([len(ids) for ids in self._input_ids])

    def summary(self) -> str:
        """One line for the log: rows, tokens, what was shortened and what was dropped."""
        lengths = self.lengths()
        learned = sum(int(mask.sum()) for mask in self._loss_masks)
        return (
            f"{len(self)} rows from {len(self.files)} file(s), {lengths.sum()} tokens ({learned} learned), "
            f"longest {lengths.max()}; {self.counts['truncated']} shortened to data.max_length="
            f"{self.config.max_length}, {self.counts['dropped']} dropped because their response was cut away"
        )

    def _require_columns(self, path: str) -> None:
        present = column_names(path)
        for key, column, _ in self.config.columns:
            if present and column not in present:
                hint = " (or set data.prompt_key and data.response_key)" if key == "data.messages_key" else ""
                raise DataError(f"{key}: no column {column!r} in {path} (it has: {', '.join(sorted(present))}){hint}")

    def _read(self, max_samples: int) -> Iterator[tuple[int, int, dict[str, Any]]]:
        for file, path in enumerate(self.files):
            for row, values in enumerate(iterate_rows(path)):
                if 0 <= max_samples <= self.counts["rows"]:
                    return
                self.counts["rows"] += 1
                yield file, row, values

    def _pieces(self, file: int, row: int, values: dict[str, Any]) -> list[Piece]:
        path = self.files[file]
        texts = [_follow(path, row, values, *column) for column in self.config.columns]
        try:
            if self.config.prompt_key is not None:
                prompt, response = texts
                require_text(path, row, self.config.response_key, response)
                if not is_messages(prompt):
                    require_text(path, row, self.config.prompt_key, prompt)
                return self._renderers[None].prompt_and_response(prompt, response)
            if not is_messages(texts[0]):
                raise row_error(path, row, f"column {self.config.messages_key!r} is not a list of {{role, content}}")
            return self._renderer_of(path, row, values).messages(
                texts[0],
                tools=_tools(path, row, self.config.tools_key, values.get(self.config.tools_key)),
                last_turn_only=self.config.train_on_turns == "last",
            )
        except ConversationError as error:
            raise row_error(path, row, str(error)) from error

    def _renderer_of(self, path: str, row: int, values: dict[str, Any]) -> ConversationRenderer:
        """The renderer of a row; templates of hybrid thinking models take `enable_thinking` per row."""
        column = self.config.enable_thinking_key
        thinking = values.get(column)
        if thinking is None:
            thinking = self.config.enable_thinking_default
        elif not isinstance(thinking, bool):
            raise row_error(path, row, f"column {column!r} holds {thinking!r}, expected true or false")
        if thinking not in self._renderers:
            usual = self._renderers[None]
            kwargs = {**usual.template_kwargs, "enable_thinking": thinking}
            self._renderers[thinking] = ConversationRenderer(usual.tokenizer, kwargs)
        return self._renderers[thinking]

    def _tokenise(self, tokenizer: PreTrainedTokenizerBase, rows: list[list[Piece]]) -> None:
        if not rows:
            return
        texts = [piece.text for row in rows for piece in row]
        encoded = iter(tokenizer(texts, add_special_tokens=False)["input_ids"])
        sources = self._sources[-len(rows) :]
        del self._sources[-len(rows) :]
        for row, source in zip(rows, sources, strict=True):
            ids: list[int] = []
            mask: list[int] = []
            for piece in row:
                tokens = next(encoded)
                ids += tokens
                mask += [int(piece.learned)] * len(tokens)
            mask[0] = 0  # nothing stands before the first token to predict it from
            self._append(np.array(ids, dtype=np.int32), np.array(mask, dtype=np.uint8), source)

    def _append(self, input_ids: np.ndarray, loss_mask: np.ndarray, source: tuple[int, int]) -> None:
        limit = self.config.max_length
        if len(input_ids) > limit:
            if self.config.truncation == "error":
                path, row = self.files[source[0]], source[1]
                raise row_error(path, row, f"{len(input_ids)} tokens, more than data.max_length={limit}")
            self.counts["truncated"] += 1
            kept = slice(None, limit) if self.config.truncation == "right" else slice(-limit, None)
            input_ids, loss_mask = input_ids[kept].copy(), loss_mask[kept].copy()  # a view would keep the rest
            loss_mask[0] = 0
        if not loss_mask.any():
            self.counts["dropped"] += 1
            return
        self._input_ids.append(input_ids)
        self._loss_masks.append(loss_mask)
        self._sources.append(source)


def _follow(path: str, row: int, values: dict[str, Any], key: str, column: str, inner: Sequence[str]) -> Any:
    """The value of `column`, or what the keys in `inner` lead to inside it."""
    value = values.get(column)
    for name in inner:
        if not isinstance(value, dict):
            found = "null" if value is None else type(value).__name__
            raise row_error(path, row, f"column {column!r} holds {found} where a dict with {name!r} was expected")
        if name not in value:
            dict_keys = key.replace("_key", "_dict_keys")
            has = ", ".join(sorted(value))
            raise DataError(f"{dict_keys}: no key {name!r} in column {column!r} of {path}, row {row} (it has: {has})")
        value = value[name]
    return value


def _tools(path: str, row: int, column: str, value: Any) -> list[dict[str, Any]] | None:
    """Schemas of tools: a list, or JSON that holds one, as files of one schema for all rows keep them."""
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise row_error(path, row, f"column {column!r} holds text that is not JSON ({error})") from error
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        raise row_error(path, row, f"column {column!r} is not a list of tools")
    return value
