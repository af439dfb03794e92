r"""The value of an answer, apart from the grader: for labels that a rule of rewriting claims.

A LaTeX or plain-text expression becomes a sympy expression with exact numbers by a few replacements and sympy's own
parser; a matrix becomes a sympy matrix. Only for texts of our own making: sympy's parser evaluates them.
"""

from __future__ import annotations

import re
from fractions import Fraction

import sympy
from sympy.parsing.sympy_parser import (
    convert_xor,
    factorial_notation,
    implicit_multiplication,
    parse_expr,
    rationalize,
    standard_transformations,
)

_TRANSFORMATIONS = (*standard_transformations, implicit_multiplication, convert_xor, rationalize, factorial_notation)
_LETTERS = {letter: sympy.Symbol(letter) for letter in "abcdfghjklmnopqrstuvwxyzABCDEFGHJKLMNOPRTUVWXYZIS"}
_NAMES = {**_LETTERS, "e": sympy.E, "i": sympy.I, "pi": sympy.pi, "theta": sympy.Symbol("theta")}
_FUNCTIONS = {"sqrt", "theta", "binomial", "log", "exp", "sin", "cos"}
_WORD = re.compile(r"[a-zA-Z]{3,}")
_SEPARATOR = re.compile(r"(?<=\d)(?:\{,\}|,\\!|\\,|,)(?=\d{3}(?!\d))")
_REPEATING = re.compile(r"(-?)(\d+)\.(\d*)\\(?:overline|bar)\{(\d+)\}")
_MIXED = re.compile(r"(?<![\d.])(\d+) ?\\frac\{(\d+)\}\{(\d+)\}")
_MIXED_PLAIN = re.compile(r"^(-?)(\d+) (\d+)/(\d+)$")
_MATRIX = re.compile(
    r"(?:\\left[(\[])?\\begin\{([pbv]?matrix|array)\}(?:\{c+\})?(.*?)\\end\{\1\}(?:\\right[)\]])?", re.DOTALL
)
_REPLACED = (
    ("\\left", ""), ("\\right", ""), ("\\displaystyle", ""), ("\\dfrac", "\\frac"), ("\\tfrac", "\\frac"),
    ("\\cdot", "*"), ("\\times", "*"), ("\\pi", " pi "), ("π", " pi "), ("\\theta", " theta "), ("−", "-"),
    ("\\,", " "), ("\\$", ""), ("^\\circ", ""), ("^{\\circ}", ""), ("°", ""),
)  # fmt: skip
_COMMANDS = (
    (re.compile(r"\\frac\{([^{}]*)\}\{([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\binom\{([^{}]*)\}\{([^{}]*)\}"), r"binomial(\1,\2)"),
    (re.compile(r"\{(\d+) \\choose (\d+)\}"), r"binomial(\1,\2)"),
    (re.compile(r"\{([^{}]*) \\over ([^{}]*)\}"), r"((\1)/(\2))"),
    (re.compile(r"\\sqrt\{([^{}]*)\}"), r"sqrt(\1)"),
    (re.compile(r"√(\d+)"), r"sqrt(\1)"),
    (re.compile(r"\\(?:log_\{10\}|lg) (\d+)"), r"log(\1,10)"),
    (re.compile(r"\\(ln|sin|cos) ?\("), r"\1("),
    (re.compile(r"\\(ln|sin|cos) (\w+)"), r"\1(\2)"),
    (re.compile(r"\^\{([^{}]*)\}"), r"^(\1)"),
)


def expression_of(text: str) -> sympy.Expr | None:
    """The expression that a text stands for, or None where these few rules do not reach."""
    text = _SEPARATOR.sub("", text.strip())
    for old, new in _REPLACED:
        text = text.replace(old, new)
    text = _REPEATING.sub(_as_fraction, text)
    text = _MIXED.sub(r"(\1+\\frac{\2}{\3})", text)
    text = _MIXED_PLAIN.sub(r"\1(\2+\3/\4)", text)
    for _ in range(4):
        for pattern, replacement in _COMMANDS:
            text = pattern.sub(replacement, text)
    text = re.sub(r"(?<![a-z])([a-z])([a-z])(?![a-z])", r"\1 \2", text.replace("ln", "log").replace("pi", "PI"))
    text = text.replace("PI", "pi")
    if re.search(r"[\\{}=<>:]", text) or not set(_WORD.findall(text)) <= _FUNCTIONS:
        return None
    if "," in text and not re.search(r"binomial\(|log\(", text):
        return None
    try:
        return parse_expr(text, local_dict=dict(_NAMES), transformations=_TRANSFORMATIONS)
    except (SyntaxError, TypeError, ValueError, AttributeError):
        return None


def matrix_of(text: str) -> sympy.Expr | sympy.MatrixBase | None:
    """A sum or product of matrices, or a determinant, computed; None of anything else."""
    matrices, kinds = [], set()
    for environment, body in _MATRIX.findall(text):
        kinds.add(environment)
        rows = re.split(r"\\\\(?:\[4pt\])?", body)
        matrices.append(sympy.Matrix([[expression_of(cell) for cell in row.split("&")] for row in rows]))
    between = _MATRIX.sub("M", text).replace(" ", "")
    if between == "M":
        return matrices[0].det() if kinds == {"vmatrix"} else matrices[0]
    if between == "M+M":
        return matrices[0] + matrices[1]
    if between == "MM":
        return matrices[0] * matrices[1]
    factor = re.fullmatch(r"(-?\d+)M", between)
    return int(factor.group(1)) * matrices[0] if factor else None


def same_value(one: sympy.Expr, other: sympy.Expr) -> bool:
    """Whether two expressions agree at two points, to 25 digits."""
    letters = sorted(one.free_symbols | other.free_symbols, key=str)
    for point in (Fraction(7, 5), Fraction(13, 4)):
        at = {letter: sympy.Rational(point) + sympy.Rational(i, 7) for i, letter in enumerate(letters)}
        first, second = (sympy.N(side.subs(at), 40) for side in (one, other))
        if abs(first - second) > sympy.Float("1e-25") * (1 + abs(first)):
            return False
    return True


def _as_fraction(found: re.Match[str]) -> str:
    sign, whole, head, period = found.groups()
    all_nines = (10 ** len(period) - 1) * 10 ** len(head)
    above = int(whole + head + period) - int(whole + head)
    return f"({sign}{above}/{all_nines})"
