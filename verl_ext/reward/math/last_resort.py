"""math-verify's verdict on what nothing else could decide, under guards that know where it is wrong.

For the confined worker only. math-verify 0.9.0 takes the last side of any equation (2+4=5 is 5, x^2=9 is 9), calls
everything undefined equal, leaves words out (3 apples is 3 pears), and compares a time of day as a quotient.
"""

from __future__ import annotations

import logging
import re

import sympy
from math_verify.grader import verify

from verl_ext.reward.math.normalise import normalise
from verl_ext.reward.math.structure import Group, read_structure
from verl_ext.reward.math.symbolic import DIGITS, Unparsable, is_undefined, parse

# It warns once that its own time limit (SIGALRM, main thread only) is off; ours is the death of the process.
logging.getLogger("math_verify").setLevel(logging.ERROR)

_WORDS = re.compile(r"\\text|[a-zA-Z]{4,}(?![a-zA-Z]*\{)")
_COMMANDS = re.compile(r"\\(?!text)[a-zA-Z]+")
_SEVERAL = frozenset({"list", "bracket", "set", "sequence", "cases", "row"})


def last_resort(gold: str, answer: str) -> bool:
    """The verdict on two answers as they were extracted.

    Raises:
        Unparsable: when the gold cannot be parsed, so that there is no verdict.
    """
    gold, answer = normalise(gold), normalise(answer)
    gold_parsed = parse(gold)
    try:
        answer_parsed = parse(answer)
    except Unparsable:
        return False
    if not _may_ask(gold, answer) or is_undefined(gold_parsed) or is_undefined(answer_parsed):
        return False
    return ask_math_verify(gold_parsed, answer_parsed)


def ask_math_verify(gold: sympy.Basic, answer: sympy.Basic) -> bool:
    """math-verify's own verdict on two parsed expressions, without its rounding."""
    return bool(verify(gold, answer, float_rounding=DIGITS, timeout_seconds=None, raise_on_error=True))


def _may_ask(gold: str, answer: str) -> bool:
    """Whether math-verify can be trusted with this pair."""
    if any(mark in text for text in (gold, answer) for mark in (":", "\\pm", "\\approx")):
        return False
    if any(_WORDS.search(_COMMANDS.sub(" ", text)) for text in (gold, answer)):
        return False
    if ("=" in gold) != ("=" in answer):
        return False
    return _count(gold) == _count(answer)


def _count(text: str) -> tuple[int, str]:
    """How many answers a text holds, and in which brackets; one for a single expression."""
    shape = read_structure(text)
    return (len(shape.items), shape.ends) if isinstance(shape, Group) and shape.kind in _SEVERAL else (1, "")
