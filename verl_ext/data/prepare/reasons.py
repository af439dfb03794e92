"""Why a library failed, short enough for an error of one line."""

from __future__ import annotations


def first_line(error: Exception) -> str:
    """The first line of an error's message: some libraries write a page."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
