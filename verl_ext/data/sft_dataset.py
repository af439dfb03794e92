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
    """Which assistant turns are learned of whose messages nothing says it."""
    train_mask_key: str | None = None
    """Column with a list that says of each message whether it is learned: true, false or null."""
    weights_key: str | None = None
    """Column with a number by which the losses of a row are multiplied, or with one for each learned token."""
    max_length: int = 2048
    truncation: Literal["right", "left", "drop", "error"] = "right"
    apply_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ConfigError("data.max_length", given=self.max_length, expected="at least 2 tokens")
        if self.truncation not in ("right", "left", "drop", "error"):
            raise ConfigError("data.truncation", given=self.truncation, expected="right, left, drop or error")
        if self.train_on_turns not in ("all", "last"):
            raise ConfigError("data.train_on_turns", given=self.train_on_turns, expected="all or last")
        if (self.prompt_key is None) != (self.response_key is None):
            missing = "data.prompt_key" if self.prompt_key is None else "data.response_key"
            raise ConfigError(missing, given=None, expected="a column, because its counterpart is set")
        if self.train_mask_key is not None and self.prompt_key is not None:
            raise ConfigError(
                "data.train_mask_key",
                given=self.train_mask_key,
                expected="null with data.prompt_key: it is of chat data",
            )

    @property
    def needed_columns(self) -> list[tuple[str, str]]:
        """(configuration key, column) of all that every file must have."""
        optional = {"data.train_mask_key": self.train_mask_key, "data.weights_key": self.weights_key}
        return [column[:2] for column in self.columns] + [(key, column) for key, column in optional.items() if column]

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
    `max_length`. `loss_mask[t]` is 1 where token t is learned, that is predicted from the tokens before it. With
    `weights_key` there is `weights` too, fp32, 0 where no token is learned. Rows of which no token is learned, at once
    or after truncation, are dropped and counted.

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
        self._weights: list[np.ndarray] = []
        self._sources: list[tuple[int, int]] = []

        require_files(key, self.files)
        for path in self.files:
            self._require_columns(path)
        pieces: list[list[Piece]] = []
        characters = 0
        for source in self._read(max_samples):
            of_row = self._pieces(*source)
            if not of_row:
                self.counts["unmarked"] += 1
                continue
            pieces.append(of_row)
            self._sources.append(source[:2])
            self._weights.append(self._weights_of(*source))
            characters += sum(len(piece.text) for piece in pieces[-1])
            if len(pieces) == TOKENIZER_BATCH or characters > TOKENIZER_CHARACTERS:
                self._tokenise(tokenizer, pieces)
                pieces, characters = [], 0
        self._tokenise(tokenizer, pieces)
        if not self.counts["rows"]:
            raise DataError(f"{key}: no rows in {', '.join(self.files)}")
        if not self._input_ids:
            if self.counts["dropped"] == self.counts["rows"]:
                why = f"all {self.counts['rows']} rows lost their whole response at data.max_length={config.max_length}"
            else:
                why = f"none of {self.counts['rows']} rows can be learned: {self._losses()}"
            raise DataError(f"{key}: {why}")

    def __len__(self) -> int:
        return len(self._input_ids)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        input_ids = torch.from_numpy(self._input_ids[index].astype(np.int64))
        row = {
            "input_ids": input_ids,
            "position_ids": torch.arange(len(input_ids)),
            "loss_mask": torch.from_numpy(self._loss_masks[index].astype(np.int64)),
        }
        if self.config.weights_key is not None:
            row["weights"] = self._loss_mask_times_weights(index)
        return row

    def _loss_mask_times_weights(self, index: int) -> torch.Tensor:
        weights = np.zeros(len(self._loss_masks[index]), dtype=np.float32)
        weights[self._loss_masks[index].astype(bool)] = self._weights[index]
        return torch.from_numpy(weights)

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
            f"{self.config.max_length}, {self._losses()}"
        )

    def _losses(self) -> str:
        """What was dropped and why, a phrase."""
        dropped = {
            "dropped": "because their response was cut away",
            "too_long": f"longer than data.max_length={self.config.max_length} (data.truncation=drop)",
            "unmarked": "because none of their messages is to be learned",
        }
        said = [f"{self.counts[name]} dropped {why}" for name, why in dropped.items() if self.counts[name]]
        return ", ".join(said or [f"0 dropped {dropped['dropped']}"])

    def _require_columns(self, path: str) -> None:
        present = column_names(path)
        for key, column in self.config.needed_columns:
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
                marks=self._marks(path, row, values),
            )
        except ConversationError as error:
            raise row_error(path, row, str(error)) from error

    def _marks(self, path: str, row: int, values: dict[str, Any]) -> list[bool | None] | None:
        column = self.config.train_mask_key
        marks = None if column is None else values.get(column)
        if marks is not None and not isinstance(marks, list):
            raise row_error(path, row, f"column {column!r} holds {type(marks).__name__}, expected a list")
        return marks

    def _weights_of(self, file: int, row: int, values: dict[str, Any]) -> np.ndarray:
        """One number, or one for each learned token; (1,) or (learned tokens,)."""
        column = self.config.weights_key
        if column is None:
            return np.ones(1, dtype=np.float32)
        given = values.get(column)
        numbers = given if isinstance(given, list) else [given]
        if not numbers or not all(_is_weight(number) for number in numbers):
            wrong = next((number for number in numbers if not _is_weight(number)), given)
            raise row_error(
                *(self.files[file], row),
                f"column {column!r} holds {wrong!r}, expected a number of 0 or more, or a list",
            )
        return np.array(numbers, dtype=np.float32)

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
        sources, weights = self._sources[-len(rows) :], self._weights[-len(rows) :]
        del self._sources[-len(rows) :], self._weights[-len(rows) :]
        for row, source, weight in zip(rows, sources, weights, strict=True):
            ids: list[int] = []
            mask: list[int] = []
            for piece in row:
                tokens = next(encoded)
                ids += tokens
                mask += [int(piece.learned)] * len(tokens)
            mask[0] = 0  # nothing stands before the first token to predict it from
            self._append(np.array(ids, dtype=np.int32), np.array(mask, dtype=np.uint8), source, weight)

    def _append(
        self, input_ids: np.ndarray, loss_mask: np.ndarray, source: tuple[int, int], weights: np.ndarray
    ) -> None:
        if len(weights) not in (1, learned := int(loss_mask.sum())):
            column = self.config.weights_key
            path, row = self.files[source[0]], source[1]
            raise row_error(path, row, f"column {column!r} has {len(weights)} numbers, for {learned} learned tokens")
        limit = self.config.max_length
        if len(input_ids) > limit:
            if self.config.truncation == "error":
                path, row = self.files[source[0]], source[1]
                raise row_error(path, row, f"{len(input_ids)} tokens, more than data.max_length={limit}")
            if self.config.truncation == "drop":
                self.counts["too_long"] += 1
                return
            self.counts["truncated"] += 1
            kept = slice(None, limit) if self.config.truncation == "right" else slice(-limit, None)
            if len(weights) > 1:
                of_tokens = np.zeros(len(loss_mask), dtype=np.float32)
                of_tokens[loss_mask.astype(bool)] = weights
            input_ids, loss_mask = input_ids[kept].copy(), loss_mask[kept].copy()  # a view would keep the rest
            loss_mask[0] = 0
            if len(weights) > 1:
                weights = of_tokens[kept][loss_mask.astype(bool)]
        if not loss_mask.any():
            self.counts["dropped"] += 1
            return
        self._input_ids.append(input_ids)
        self._loss_masks.append(loss_mask)
        self._sources.append(source)
        self._weights.append(weights)


def _is_weight(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")


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
