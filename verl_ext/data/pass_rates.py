"""How often a model solved a problem: the id of a problem, and what a run's journal says of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.errors import DataError

ID_DIGITS = 16
FIELDS = {"problem": str, "right": int, "of": int, "truncated": int, "step": int}
"""Of a line of the journal, those that are read."""


@dataclass(frozen=True)
class PassRate:
    """Answers to a problem: how many, how many of them right, and how many truncated."""

    right: int
    of: int
    truncated: int = 0

    @property
    def rate(self) -> float:
        return self.right / self.of

    def __add__(self, other: PassRate) -> PassRate:
        return PassRate(self.right + other.right, self.of + other.of, self.truncated + other.truncated)


def problem_id(messages: Sequence[Mapping[str, Any]], ground_truth: Any) -> str:
    """The same for a problem wherever it stands: of the roles and texts of its prompt and of its right answer.

    Not of its row, which changes when a file is filtered, nor of its other columns.
    """
    turns = [[str(message["role"]), _text(message.get("content"))] for message in messages]
    text = json.dumps([turns, str(ground_truth)], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]


def read_journal(path: Path, *, newest_only: bool = True) -> dict[str, PassRate]:
    """Pass rates by problem.

    Args:
        path: `pass_rates.jsonl` of a run.
        newest_only: of a problem that came up several times, the last time alone; otherwise all of its answers.

    Raises:
        DataError: names file and line.
    """
    rates: dict[str, PassRate] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a journal of pass rates: {error}") from error
    for number, line in enumerate(lines, start=1):
        try:
            entry = json.loads(line)
            for name, kind in FIELDS.items():
                if type(entry[name]) is not kind:
                    raise ValueError(f"{name} is no {kind.__name__}")
            if not 0 <= entry["right"] <= entry["of"] or entry["of"] == 0:
                raise ValueError(f"{entry['right']} right of {entry['of']}")
        except (ValueError, KeyError, TypeError) as error:
            said = f"lacks {error}" if isinstance(error, KeyError) else error
            raise DataError(f"{path}, line {number}: no entry of a journal of pass rates: {said}") from error
        rate = PassRate(entry["right"], entry["of"], entry["truncated"])
        before = rates.get(entry["problem"])
        rates[entry["problem"]] = rate if before is None or newest_only else before + rate
    return rates


def _text(content: Any) -> str:
    if isinstance(content, str) or content is None:
        return content or ""
    return "".join(part.get("text") or "" for part in content if isinstance(part, Mapping))
