"""Graded generations as they stand in a file: which columns there are, and what a row of them must hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
import torch

from verl_ext.data.messages import is_messages
from verl_ext.data.reading import column_names, require_text, row_error
from verl_ext.errors import ConfigError, DataError
from verl_ext.objectives.nft_advantage import correctness

FINISH_REASONS = ("stop", "length")

ROUNDING = 1e-3
"""By so much the logarithm of a probability near 1 may be above 0."""


@dataclass(frozen=True, kw_only=True)
class RolloutDataConfig:
    """Columns of graded generations; a row is a prompt and all its responses.

    A column that keeps its default name may be missing, but for `correct`; one that was renamed must be there.
    """

    prompt_key: str = "prompt"
    """Text, or a list of {role, content}; put into the chat template."""
    responses_key: str = "responses"
    """A text for each response. EOS is added unless `finish_reasons` says "length"."""
    correct_key: str = "correct"
    """0 or 1, false or true, -1 or +1 for each response."""
    prompt_ids_key: str = "prompt_ids"
    """Token ids of the prompt, template and all, instead of `prompt`."""
    response_ids_key: str = "response_ids"
    """Token ids of each response as they were sampled, EOS and all; instead of `responses`, or beside them."""
    old_log_probs_key: str = "old_log_probs"
    """log pi_old of each token in `response_ids`. Without them, those of the model that the run begins with."""
    finish_reasons_key: str = "finish_reasons"
    """"stop" or "length" for each text in `responses`."""
    max_length: int = 4096
    truncation: Literal["right", "error"] = "error"
    apply_chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.max_length < 2:
            raise ConfigError("data.max_length", given=self.max_length, expected="at least 2 tokens")
        if self.truncation not in ("right", "error"):
            raise ConfigError("data.truncation", given=self.truncation, expected="right or error")

    @property
    def columns(self) -> dict[str, tuple[str, bool]]:
        """Field without its ending -> (column, whether it has been renamed)."""
        return {
            entry.name.removesuffix("_key"): (getattr(self, entry.name), getattr(self, entry.name) != entry.default)
            for entry in fields(self)
            if entry.name.endswith("_key")
        }


@dataclass(frozen=True)
class Rollout:
    """A checked row. Of prompt and prompt_ids, responses and response_ids at least one is there."""

    prompt: str | list[dict[str, Any]] | None
    prompt_ids: list[int] | None
    responses: list[str] | None
    response_ids: list[list[int]] | None
    correct: list[bool]
    old_log_probs: list[list[float]] | None
    ended: list[bool]

    @property
    def correct_rate(self) -> float:
        """Share of correct responses."""
        return sum(self.correct) / len(self.correct)


class RolloutReader:
    """Turns rows of one set of files, which all have the same columns, into `Rollout`s.

    Args:
        files: parquet or JSON-lines files that exist.
        config: names of the columns.
        vocab_size: token ids are below it.

    Raises:
        DataError: a column is missing, or files differ in theirs.
    """

    def __init__(self, files: Sequence[str], config: RolloutDataConfig, vocab_size: int) -> None:
        self.config = config
        self.vocab_size = vocab_size
        present = [self._columns_of(path) for path in files]
        self.columns = present[0]
        for path, columns in zip(files, present, strict=True):
            if columns != self.columns:
                differing = min(columns.keys() ^ self.columns.keys())
                column = config.columns[differing][0]
                raise DataError(f"data.{differing}_key: column {column!r} is in some files but not in all ({path})")

    def _columns_of(self, path: str) -> dict[str, str]:
        names = column_names(path)
        if not names:  # an empty file; whoever reads it says so
            return {name: column for name, (column, _) in self.config.columns.items()}
        has = f"(it has: {', '.join(sorted(names))})"
        present = {}
        for name, (column, renamed) in self.config.columns.items():
            if column in names:
                present[name] = column
            elif renamed or name == "correct":
                raise DataError(f"data.{name}_key: no column {column!r} in {path} {has}")
        for either, other in (("prompt", "prompt_ids"), ("responses", "response_ids")):
            if either not in present and other not in present:
                column, instead = self.config.columns[either][0], self.config.columns[other][0]
                raise DataError(f"data.{either}_key: no column {column!r} nor {instead!r} in {path} {has}")
        if "old_log_probs" in present and "response_ids" not in present:
            raise DataError(
                f"data.old_log_probs_key: {path} has {present['old_log_probs']!r} but no "
                f"{self.config.response_ids_key!r}: text does not say which tokens they belong to; add the sampled "
                "token ids, or drop the column and the model that the run begins with computes them"
            )
        return present

    def read(self, path: str, row: int, values: dict[str, Any]) -> Rollout:
        """Check one row.

        Raises:
            DataError: names file, row and column.
        """
        for name, (column, _) in self.config.columns.items():
            if name not in self.columns and values.get(column) is not None:  # JSON lines say their columns row by row
                raise row_error(path, row, f"has a column {column!r}, which the first row has not")
        found = _Row(path, row, {name: values.get(column) for name, column in self.columns.items()}, self.columns)
        correct = found.correct()
        count = len(correct)
        prompt_ids = found.token_ids("prompt_ids", self.vocab_size) if "prompt_ids" in self.columns else None
        response_ids = found.lists("response_ids", count)
        if response_ids is not None:
            for i, ids in enumerate(response_ids):
                found.check_token_ids("response_ids", ids, self.vocab_size, f"response {i}: ")
        return Rollout(
            prompt=found.prompt() if prompt_ids is None else None,
            prompt_ids=prompt_ids,
            responses=found.texts("responses", count),
            response_ids=response_ids,
            correct=correct,
            old_log_probs=found.old_log_probs(response_ids),
            ended=found.ended(count),
        )


@dataclass(frozen=True)
class _Row:
    """Values of one row, and errors that name it."""

    path: str
    row: int
    values: dict[str, Any]
    columns: dict[str, str]

    def error(self, name: str, problem: str) -> DataError:
        return row_error(self.path, self.row, f"column {self.columns[name]!r}: {problem}")

    def correct(self) -> list[bool]:
        values = self.lists("correct", None)
        if not values:
            raise self.error("correct", "empty, expected one value for each response")
        for i, value in enumerate(values):
            if not isinstance(value, (bool, int, float)):
                raise self.error("correct", f"response {i}: holds {value!r}, expected 0 or 1, or -1 or +1")
        try:
            return correctness(torch.tensor(values, dtype=torch.float64)).tolist()
        except ValueError as error:
            raise self.error("correct", str(error)) from None

    def prompt(self) -> Any:
        if not is_messages(self.values["prompt"]):
            require_text(self.path, self.row, self.columns["prompt"], self.values["prompt"])
        return self.values["prompt"]

    def lists(self, name: str, count: int | None) -> list | None:
        """The list in a column, with `count` entries; None where there is no such column."""
        if name not in self.columns:
            return None
        value = self.values[name]
        if not isinstance(value, list):
            found = "null" if value is None else type(value).__name__
            raise self.error(name, f"holds {found} where a list was expected")
        if count is not None and len(value) != count:
            raise self.error(name, f"{len(value)} entries for {count} in {self.columns['correct']!r}")
        return value

    def texts(self, name: str, count: int) -> list[str] | None:
        texts = self.lists(name, count)
        for i, text in enumerate(texts or ()):
            if not isinstance(text, str):
                found = "null" if text is None else type(text).__name__
                raise self.error(name, f"response {i}: holds {found} where text was expected")
        return texts

    def token_ids(self, name: str, vocab_size: int) -> list[int]:
        ids = self.lists(name, None)
        self.check_token_ids(name, ids, vocab_size)
        return ids

    def check_token_ids(self, name: str, ids: Any, vocab_size: int, which: str = "") -> None:
        if not isinstance(ids, list) or not ids:
            raise self.error(name, f"{which}expected at least one token id")
        numbers = np.array(ids)
        if numbers.dtype.kind != "i" or numbers.ndim != 1:
            raise self.error(name, f"{which}expected whole numbers, found {str(ids)[:40]}")
        unknown = numbers[(numbers < 0) | (numbers >= vocab_size)]
        if len(unknown):
            raise self.error(name, f"{which}{unknown[0]} is no token of the model, whose ids are below {vocab_size}")

    def old_log_probs(self, response_ids: list[list[int]] | None) -> list[list[float]] | None:
        if "old_log_probs" not in self.columns:
            return None
        log_probs = self.lists("old_log_probs", len(response_ids))
        for i, (values, ids) in enumerate(zip(log_probs, response_ids, strict=True)):
            if not isinstance(values, list) or len(values) != len(ids):
                found = len(values) if isinstance(values, list) else "no"
                raise self.error("old_log_probs", f"response {i}: {found} values for its {len(ids)} tokens")
            numbers = np.array(values)
            if numbers.dtype.kind not in "fi" or not np.isfinite(numbers).all() or (numbers > ROUNDING).any():
                raise self.error("old_log_probs", f"response {i}: not logarithms of probabilities: {str(values)[:40]}")
        return log_probs

    def ended(self, count: int) -> list[bool]:
        reasons = self.lists("finish_reasons", count) or ["stop"] * count
        for i, reason in enumerate(reasons):
            if reason not in FINISH_REASONS:
                raise self.error("finish_reasons", f"response {i}: {reason!r}, expected {' or '.join(FINISH_REASONS)}")
        return [reason == "stop" for reason in reasons]
