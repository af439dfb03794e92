"""Whether a program's output is the expected one. Both are text that nobody trusts; nothing is evaluated."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation

TOLERANCE = 1e-6
_INEXACT = re.compile(r"[+-]?(\d+\.\d*|\.\d+|\d+(?=[eE]))([eE][+-]?\d+)?")


def same_output(output: str, expected: str) -> bool:
    """LiveCodeBench's comparison of standard output (`testing_util.py`, arXiv 2403.07974).

    Outer whitespace is dropped and there have to be as many lines. Each pair of lines is equal without its outer
    whitespace, or is a list of the same numbers, compared exactly as decimals.
    """
    ours, theirs = (text.strip().split("\n") for text in (output, expected))
    return len(ours) == len(theirs) and all(_same_line(*pair) for pair in zip(ours, theirs, strict=True))


def _same_line(output: str, expected: str) -> bool:
    if output.strip() == expected.strip():
        return True
    try:
        ours, theirs = ([Decimal(token) for token in line.split()] for line in (output, expected))
        return ours == theirs
    except InvalidOperation:
        return False


def same_tokens(output: str, expected: str) -> bool:
    """The same words between white space; one that is expected with a point or an exponent is a number, to 1e-6 of its
    size, or of 1."""
    ours, theirs = output.split(), expected.split()
    return len(ours) == len(theirs) and all(map(_same_token, ours, theirs))


def _same_token(output: str, expected: str) -> bool:
    if output == expected:
        return True
    if not _INEXACT.fullmatch(expected):
        return False
    try:
        value = float(output)
    except ValueError:
        return False
    return math.isclose(value, float(expected), rel_tol=TOLERANCE, abs_tol=TOLERANCE)


def same_text(output: str, expected: str) -> bool:
    """The same text but for newlines at its end."""
    return output.rstrip("\n") == expected.rstrip("\n")


COMPARISONS: dict[str, Callable[[str, str], bool]] = {"lcb": same_output, "tokens": same_tokens, "exact": same_text}
"""Of standard output, by name."""


def same_value(output: str, expected: object) -> bool:
    """Whether a returned value, as JSON, equals the expected one.

    Tuples have become lists before, on both sides.
    """
    try:
        return json.loads(output) == expected
    except (ValueError, RecursionError):
        return False
