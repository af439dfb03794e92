"""What a user did wrong, said in one line.

Raised where the fact is known; printed once at the door (`verl_ext.cli`), with exit code 2 and no
traceback. Whatever is not a `UserError` is ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """A mistake in the input; `str(error)` is one line that names the key, file or row."""


class ConfigError(UserError):
    """A configuration value that cannot work.

    Args:
        key: dotted name of the key, as the user writes it on the command line.
        given: what was found there.
        expected: what would be right, as a phrase.
    """

    def __init__(self, key: str, *, given: Any, expected: str) -> None:
        super().__init__(f"{key}: got {given!r}, expected {expected}")


class UnknownKeyError(UserError):
    """A key that no configuration has."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        suggestion = _nearest_key(key, set(known))
        hint = f"; did you mean {suggestion}?" if suggestion else ""
        super().__init__(f"unknown key {key}{hint}")


class DataError(UserError):
    """A file, column or row that cannot be read as training or evaluation data."""


def first_line(error: Exception) -> str:
    """Why a library failed, short enough for an error of one line: some write a page."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The entry of `known` that `name` was probably meant to be, or None."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def _nearest_key(key: str, known: set[str]) -> str | None:
    """The nearest dotted key; people forget the group at least as often as they misspell the name."""
    last = key.rpartition(".")[2]
    same_name = [name for name in known if name.rpartition(".")[2] == last]
    return nearest(key, same_name) or min(same_name, key=len, default=None) or nearest(key, known)
