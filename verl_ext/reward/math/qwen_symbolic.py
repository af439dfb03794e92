r"""Equality as mathematics for the published harness's behaviour; for the confined worker only (see `symbolic`).

The harness tries sympy's `parse_latex`, `parse_expr` (which evaluates Python) and a latex2sympy of its own, then
simplifies. Here one grammar parses and values decide. What its first parser does to a text is done before: it reads as
far as it can (`3,4` is 3, `52_8` is 52), takes `1\frac{1}{2}` for a product, and its relations have no direction.
"""

from __future__ import annotations

import math
import re

import sympy

from verl_ext.reward.math.last_resort import ask_math_verify
from verl_ext.reward.math.qwen_equal import RELATIVE_TOLERANCE
from verl_ext.reward.math.symbolic import Unparsable, parse, same_value

_READ_SO_FAR = re.compile(r"(?<=\d)_|\{?,|\.(?!\d)|(?<=[a-zA-Z])\.")
_UNREADABLE = re.compile(r"\\[\[\]()]|%|^[\[{]|^\([^()]*,")
_RELATION = re.compile(r"\\leq?(?![a-z])|\\geq?(?![a-z])|<|>|=")
_MIXED_NUMBER = re.compile(r"(?<=\d)\\frac")


def same_mathematics(answer: str, gold: str) -> bool:
    """Whether both texts are readable and equal, exactly or as numbers within 1e-4 of the larger."""
    try:
        answer_sides, gold_sides = _sides(answer), _sides(gold)
        if len(answer_sides) != len(gold_sides):
            return False
        if len(gold_sides) == 2:
            one, other = (f"({left})-({right})" for left, right in (answer_sides, gold_sides))
            return _same(other, one) or _same(other, f"-({one})")
        if _same(gold_sides[0], answer_sides[0]):
            return True
        answer_value, gold_value = _number(_read(answer_sides[0])), _number(_read(gold_sides[0]))
    except Unparsable:
        return False
    if answer_value is None or gold_value is None:
        return False
    return math.isclose(answer_value, gold_value, rel_tol=RELATIVE_TOLERANCE)


def _read(text: str) -> sympy.Basic:
    return parse(text, as_written=True)


def _same(gold: str, answer: str) -> bool:
    gold_parsed = _read(gold)
    try:
        answer_parsed = _read(answer)
    except Unparsable:
        return False
    by_value = same_value(gold_parsed, answer_parsed)
    return ask_math_verify(gold_parsed, answer_parsed) if by_value is None else by_value


def _sides(text: str) -> list[str]:
    """The one or two sides of what the harness's parser reads of a text.

    Raises:
        Unparsable: it would not read it.
    """
    if _UNREADABLE.search(text):
        raise Unparsable("unreadable")
    before_bracket = text.partition(")")[0]
    readable = text if "(" in before_bracket else before_bracket
    sides = _RELATION.split(_READ_SO_FAR.split(readable, maxsplit=1)[0])
    if len(sides) > 2 or not all(side.strip() for side in sides):
        raise Unparsable("unreadable")
    return [_MIXED_NUMBER.sub(r"\\cdot\\frac", side) for side in sides]


def _number(expression: sympy.Basic) -> float | None:
    if not isinstance(expression, sympy.Expr) or expression.free_symbols:
        return None
    value = expression.evalf(17)
    return float(value) if isinstance(value, sympy.Float | sympy.Rational) else None
