r"""Whether two answers are equal for the published harness (QwenLM/Qwen2.5-Math, evaluation/grader.py, MIT).

Written anew from its behaviour: see `qwen_answer`. Numbers are equal within 1e-4 of the larger one, and so are x, x/100
and 100x; brackets of any kind, and case, make no difference to text; tuples are compared part by part.
Symbols are compared by value with this project's own parser (`qwen_symbolic`), not with the harness's three.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

from verl_ext.reward.math.qwen_answer import CHOICES

RELATIVE_TOLERANCE = 1e-4
Symbolic = Callable[[str, str], bool]
"""(answer, gold) -> whether they are equal as mathematics"""

_BRACKETED = re.compile(r"(\(|\[).+(\)|\])")
_SET_WITH_COMMA = re.compile(r"\{.*,.*\}")
_LETTER = re.compile(r"\b(A|B|C|D|E)\b")
_NO_BRACKETS = str.maketrans("", "", "{}()")
_MATRIX_BEGINS, _MATRIX_ENDS = ("\\begin{pmatrix}", "\\begin{bmatrix}"), ("\\end{pmatrix}", "\\end{bmatrix}")


def same_answer(answer: str | None, gold: str, symbolic: Symbolic | None = None) -> bool | None:
    """Whether the harness takes `answer` for `gold`, both in its spelling.

    Args:
        symbolic: decides what text and numbers cannot; without it such a pair gives None.
    """
    if answer is None:
        return False
    if answer.strip().lower() == gold.strip().lower():
        return True
    if gold in CHOICES and _last_letter(answer) == gold:
        return True
    answer_number, gold_number = read_number(answer), read_number(gold)
    if answer_number is not None and gold_number is not None:
        return any(_close(answer_number, number) for number in (gold_number / 100, gold_number, gold_number * 100))
    if not answer:
        return False
    answer, gold = answer.strip(), gold.strip()
    if "pmatrix" in answer and "pmatrix" not in gold:
        gold = _set_as_matrix(gold)
    if _without_brackets(answer, gold):
        return True
    # Each of these can only accept: what it does not accept goes on to the next.
    results = []
    for rule in (_same_parts, _same_matrix, _same_equation, _same_symbols):
        result = rule(answer, gold, symbolic)
        if result:
            return True
        results.append(result)
    return None if None in results else False


def read_number(text: str) -> float | None:
    """The number that a text is, for the harness: commas are deleted, a percent sign divides by 100."""
    text = text.replace(",", "")
    try:
        return float(text)
    except ValueError:
        pass
    if not text.endswith("%"):
        return None
    try:
        return float(text[:-1].removesuffix("\\")) / 100
    except ValueError:
        return None


def _close(one: float, other: float) -> bool:
    return math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE)


def _last_letter(answer: str) -> str:
    text = answer.strip("\n").rstrip(".").rstrip("/").strip(" ").lstrip(":")
    letters = _LETTER.findall(text.upper())
    return letters[-1] if letters else text.strip().strip(".")


def _set_as_matrix(gold: str) -> str:
    columns = (found.strip("{}").replace(",", "\\") for found in _SET_WITH_COMMA.findall(gold))
    return ", ".join(f"\\begin{{pmatrix}}{column}\\end{{pmatrix}}" for column in columns)


def _without_brackets(answer: str, gold: str) -> bool:
    is_list = answer.startswith("[") and answer.endswith("]") and not gold.startswith("(")
    is_tuple = answer.startswith("(") and answer.endswith(")") and not gold.startswith("[")
    if is_list or is_tuple:
        answer, gold = answer.strip("[]()"), gold.strip("[]()")
    return answer.translate(_NO_BRACKETS).lower() == gold.translate(_NO_BRACKETS).lower()


def _all(results: list[bool | None]) -> bool | None:
    return False if False in results else None if None in results else True


def _same_parts(answer: str, gold: str, symbolic: Symbolic | None) -> bool | None:
    if not (_BRACKETED.match(answer) and _BRACKETED.match(gold)):
        return False
    return _in_order(answer[1:-1].split(","), gold[1:-1].split(","), symbolic)


def _in_order(answers: list[str], golds: list[str], symbolic: Symbolic | None) -> bool | None:
    if len(answers) != len(golds):
        return False
    return _all([same_answer(one, other, symbolic) for one, other in zip(answers, golds, strict=True)])


def _same_matrix(answer: str, gold: str, symbolic: Symbolic | None) -> bool | None:
    if not all(text.startswith(_MATRIX_BEGINS) and text.endswith(_MATRIX_ENDS) for text in (answer, gold)):
        return False
    answer_rows, gold_rows = _rows(answer), _rows(gold)
    if len(answer_rows) != len(gold_rows):
        return False
    return _all(
        [
            _in_order(one.split("&"), other.split("&"), symbolic)
            for one, other in zip(answer_rows, gold_rows, strict=True)
        ]
    )


def _rows(matrix: str) -> list[str]:
    inner = matrix[len(_MATRIX_BEGINS[0]) : -len(_MATRIX_ENDS[0])]
    return [row.strip() for row in inner.split("\\\\") if row.strip()]


def _same_equation(answer: str, gold: str, symbolic: Symbolic | None) -> bool | None:
    """Two equations with the same difference of their sides, up to sign; or `x = 5` and 5."""
    answer_left, answer_equals, answer_right = answer.partition("=")
    gold_left, gold_equals, gold_right = gold.partition("=")
    if "=" in answer_right or "=" in gold_right:
        return False
    if answer_equals and gold_equals:
        if symbolic is None:
            return None
        one = f"{answer_left.strip()} - ({answer_right.strip()})"
        other = f"{gold_left.strip()} - ({gold_right.strip()})"
        return symbolic(one, other) or symbolic(f"-({one})", other)
    if answer_equals and len(answer_left.strip()) <= 2:
        return same_answer(answer_right, gold, symbolic)
    if gold_equals and len(gold_left.strip()) <= 2:
        return same_answer(answer, gold_right, symbolic)
    return False


def _same_symbols(answer: str, gold: str, symbolic: Symbolic | None) -> bool | None:
    return None if symbolic is None else symbolic(answer, gold)
