"""Whether a program's output is the expected one. Both are text that nobody trusts; nothing is evaluated."""

from __future__ import annotations

import json
from decimal import Decimal, InvalidOperation


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


def same_value(output: str, expected: object) -> bool:
    """Whether a returned value, as JSON, equals the expected one.

    Tuples have become lists before, on both sides.
    """
    try:
        return json.loads(output) == expected
    except (ValueError, RecursionError):
        return False
