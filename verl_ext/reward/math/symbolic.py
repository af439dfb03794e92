r"""Equality of two expressions as mathematics, with sympy. For the confined worker only: sympy can hang and eat memory.

Expressions are parsed by latex2sympy (a grammar; no text is evaluated), never by `sympify` or `parse_expr`. Equality
is decided by value: both sides are computed with 60 digits at several points, and the difference is measured against
their size, so that 1/2004! is not 1/2006! (math-verify 0.9.0 compares with absolute precision, and says it is).
Decimals are read as the fractions that they are. What is undefined (1/0) is equal to nothing.
What has no value at a point is left to `real_sets` and, last, to `last_resort`.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache

import sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, latex2sympy, normalize_latex
from math_verify.grader import should_treat_as_complex
from sympy.core.function import AppliedUndef
from sympy.core.relational import Relational

from verl_ext.reward.math.exact_number import REPEATING, repeating_decimal

DIGITS = 60
MAX_NESTING = 24
"""Deeper brackets are refused: the parser's time grows without bound with them, and no answer needs them."""
_EQUAL_WITHIN = sympy.Float("1e-45", DIGITS)
_MOST_DIGITS = 1000
"""Two constants that agree in all DIGITS are subtracted with up to this many: 10^100 + 1 is not 10^100."""
_MOST_POWER = 50
"""Of a matrix of numbers."""
_NUMERIC_ONLY = (sympy.Integral, sympy.Sum, sympy.Product, sympy.Limit, sympy.Derivative)
_SPACING = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_CASE_MATTERS = ConversionConfig(lowercase_symbols=False)
_POINTS = (
    (Fraction(7, 5), Fraction(11, 7), Fraction(13, 6), Fraction(5, 11), Fraction(17, 9), Fraction(8, 3)),
    (Fraction(-13, 9), Fraction(-3, 7), Fraction(-19, 8), Fraction(-6, 5), Fraction(-23, 12), Fraction(-2, 9)),
    (Fraction(2, 9), Fraction(-5, 3), Fraction(3, 8), Fraction(-7, 4), Fraction(12, 5), Fraction(-1, 6)),
    (Fraction(3), Fraction(2), Fraction(5), Fraction(7), Fraction(4), Fraction(9)),
    (Fraction(31, 3), Fraction(29, 4), Fraction(37, 5), Fraction(41, 6), Fraction(43, 7), Fraction(53, 8)),
)
# The grammar takes every e for Euler's number, and fails at E_{1}: that one becomes Y_{E1}.
_SUBSCRIPTED_E = re.compile(r"(?<![a-zA-Z\\])([eE])_(?:\{(\w{1,10})\}|(\w))")
_DEGREES = re.compile(r"(\d{1,10}(?:\.\d{1,10})?)\^\\circ ?")
_LOG_E = re.compile(r"\\log_(?:e|\{e\})")
_DECIMAL = re.compile(r"(?<![\w.])(\d{0,400}\.\d{1,400}|\d{1,400}\.(?=[^\d.]|$))(?= ?([\^!])?)")
_SIGN_SUBSCRIPT = re.compile(r"_(?:\{ ?)?\\(odot|oplus|star|ast|perp|parallel|infty|circ)(?: ?\}|(?![a-zA-Z]))")
_WORD_SUBSCRIPT = re.compile(r"_\{? ?\\text ?\{ ?(\w{1,20}) ?\} ?\}?")
_TRANSPOSED = re.compile(r"(?<![a-zA-Z\\])([A-Z]|\})\^(?:\{ ?(?:T|\\top|\\intercal) ?\}|T(?![a-zA-Z])|\\top)")
_LEIBNIZ = re.compile(
    r"\\frac\{(d|\\partial ?)(?:\^\{?(\d)\}?)? ?([a-zA-Z])\}\{(?:d|\\partial ?)([a-zA-Z])(?:\^\{?\d\}?)?\}(?:\([a-zA-Z]\))?"
)
_DOTTED = re.compile(r"\\(d{1,3})ot ?\{?([a-zA-Z])\}?(?:_\{?(\w{1,8})\}?)?(?:\([a-zA-Z]\))?")
_PRIMED = re.compile(
    r"(?<![a-zA-Z\\])([a-zA-Z])(?:('{1,4})|\^\{?((?:\\prime ?){1,4})\}?|\^\{\(([1-9])\)\})(?:\([a-zA-Z]\))?"
)
_HAS_DOTS = re.compile(r"\\ldots|\.\.\.|\\text ?\{[^{}]*[a-zA-Z]{2}")
# The grammar adds a number in brackets to the number before it, 2(3) = 5, and calls pi with it.
_TIMES_BRACKET = re.compile(r"((?<=\))|(?<![_^]\d)(?<=\d)|\\pi|\\binom\{[^{}]{1,40}\}\{[^{}]{1,40}\}) ?(?=\([^,()]*\))")
_PLAIN_EXPONENT = re.compile(r"(?<=[\d.])[eE]([+-]?\d{1,4})(?![\w.])")


class Unparsable(Exception):
    """A text that is no expression for latex2sympy."""


def _nesting(text: str) -> int:
    deepest = depth = 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        deepest = max(deepest, depth)
    return deepest


def _as_fraction(match: re.Match[str]) -> str:
    """A decimal as a fraction of integers, so that 0.1 is one tenth and not the float next to it."""
    whole, _, digits = match.group(1).partition(".")
    fraction = f"\\frac{{{int(whole + digits)}}}{{1{'0' * len(digits)}}}" if digits else str(int(whole))
    return f"({fraction})" if match.group(2) else fraction


def _repeating(match: re.Match[str]) -> str:
    value = repeating_decimal(match)
    return f"\\frac{{{value.numerator}}}{{{value.denominator}}}"


def _derivative(name: str, order: int, subscript: str = "") -> str:
    return f"{name}_{{D{order}{subscript}}}"


def _derivatives(text: str) -> str:
    r"""`\frac{dy}{dx}`, `y'(x)` and `\dot y` as one unknown: the grammar drops primes, and takes A^T for A."""
    text = _LEIBNIZ.sub(
        lambda found: (
            _derivative(found.group(3), int(found.group(2) or 1))
            if found.group(1) == "d"
            else f"{found.group(3)}_{{P{found.group(4)}{found.group(2) or 1}}}"
        ),
        text,
    )
    text = _DOTTED.sub(lambda found: _derivative(found.group(2), len(found.group(1)), found.group(3) or ""), text)
    text = _PRIMED.sub(
        lambda found: _derivative(
            found.group(1),
            int(found.group(4) or 0) or len(found.group(2) or "") or found.group(3).count("prime"),
        ),
        text,
    )
    return _TRANSPOSED.sub(r"\1^{Y_{T}}", text)


def _in_one_notation(text: str) -> str:
    text = _WORD_SUBSCRIPT.sub(r"_{\1}", text)
    if _HAS_DOTS.search(text):
        raise Unparsable("dots or words")  # the grammar leaves them out: 1 + 2 + ... + 9 would be 12
    text = _SIGN_SUBSCRIPT.sub(r"_{\1}", text)
    text = _derivatives(text.replace("%", "\\cdot\\frac{1}{100}"))
    return _TIMES_BRACKET.sub(r"\1\\cdot ", _DECIMAL.sub(_as_fraction, REPEATING.sub(_repeating, text)))


@lru_cache(maxsize=256)
def parse(text: str, *, as_written: bool = False) -> sympy.Basic:
    """The expression that a normalised text stands for.

    Args:
        as_written: leave decimals and derivatives as the grammar reads them, for the published harness's behaviour.

    Raises:
        Unparsable: with the kind of failure, never the text (printing a parsed tower of powers can hang).
    """
    if _nesting(text) > MAX_NESTING:
        raise Unparsable("nested too deeply")
    if not as_written:
        text = _in_one_notation(text)
    text = _SUBSCRIPTED_E.sub(r"Y_{\1\2\3}", _PLAIN_EXPONENT.sub(r"\\cdot 10^{\1}", text))
    text = _LOG_E.sub(r"\\ln ", _DEGREES.sub(r"(\1\\cdot\\frac{\\pi}{180})", text))
    latex = normalize_latex(text, config=_SPACING)
    try:
        parsed = latex2sympy(
            latex,
            is_real=not should_treat_as_complex(latex),
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_CASE_MATTERS,
        )
    except MemoryError:
        raise
    except Exception as error:  # noqa: BLE001 - the grammar raises bare Exception for a syntax error
        raise Unparsable(type(error).__name__) from None
    if parsed is None:
        raise Unparsable("empty")
    return parsed


def compare(gold: str, answer: str, kind: str) -> bool | None:
    """Whether two normalised texts are the same `expression`, `relation`, or `equation` up to a constant factor.

    Returns:
        None where either cannot be parsed, or their values cannot tell.
    """
    try:
        gold_parsed, answer_parsed = parse(gold), parse(answer)
    except Unparsable:
        return None
    if kind == "equation":
        return _same_equation(gold_parsed, answer_parsed)
    if kind == "relation":
        return _same_relation(gold_parsed, answer_parsed)
    return same_value(gold_parsed, answer_parsed)


def is_undefined(parsed: sympy.Basic) -> bool:
    """Whether an expression has no value: a division by zero somewhere in it, or an infinite minus an infinite."""
    if not isinstance(parsed, sympy.Expr):
        return False
    if parsed.has(sympy.zoo, sympy.nan):
        return True
    if any(power.exp.is_negative and power.base.is_zero for power in parsed.atoms(sympy.Pow)):
        return True
    if parsed.free_symbols or parsed.has(*_NUMERIC_ONLY):
        return False
    return parsed.evalf(15, maxn=100).has(sympy.zoo, sympy.nan)


def _same_relation(gold: sympy.Basic, answer: sympy.Basic) -> bool | None:
    """Whether both inequalities hold at the same points because their differences are proportional."""
    if not (isinstance(gold, Relational) and isinstance(answer, Relational)):
        return None
    if any(side.is_extended_real is False or not isinstance(side, sympy.Expr) for side in (*gold.args, *answer.args)):
        return None
    gold_difference, answer_difference = _difference(gold), _difference(answer)
    if gold_difference is None or answer_difference is None or gold_difference[0] != answer_difference[0]:
        return None
    ratios = []
    for one, other in _values(gold_difference[1], answer_difference[1]):
        if one == 0 or other == 0:
            if one != other:
                return None
            continue
        ratios.append(other / one)
    proportional = len(ratios) > 1 and all(_close(ratios[0], ratio) for ratio in ratios[1:])
    return True if proportional and (ratios[0].is_positive or gold_difference[0] == "ne") else None


def _difference(relation: Relational) -> tuple[str, sympy.Expr] | None:
    """(`lt` or `le` or `ne`, what is less than zero)."""
    kind = {"<": "lt", ">": "lt", "<=": "le", ">=": "le", "!=": "ne"}.get(relation.rel_op)
    if kind is None:
        return None
    low, high = relation.args if relation.rel_op in ("<", "<=", "!=") else relation.args[::-1]
    return kind, low - high


def _same_equation(gold: sympy.Basic, answer: sympy.Basic) -> bool | None:
    """Whether both equations hold at the same points: the differences of their sides are proportional."""
    if not (isinstance(gold, sympy.Equality) and isinstance(answer, sympy.Equality)):
        return None
    if not all(isinstance(side, sympy.Expr) for side in (*gold.args, *answer.args)):
        return None
    gold_difference, answer_difference = gold.lhs - gold.rhs, answer.lhs - answer.rhs
    ratios = []
    for one, other in _values(gold_difference, answer_difference):
        if one == 0 or other == 0:
            if one != other:
                return False
            continue
        ratios.append(other / one)
    if len(ratios) < 2:
        return None
    return all(_close(ratios[0], ratio) for ratio in ratios[1:])


def same_value(gold: sympy.Basic, answer: sympy.Basic) -> bool | None:
    """Equality at the sample points; None where they cannot be computed."""
    gold, answer = _computed(gold), _computed(answer)
    if isinstance(gold, sympy.MatrixBase) and isinstance(answer, sympy.MatrixBase):
        if gold.shape != answer.shape:
            return False
        results = [same_value(one, other) for one, other in zip(gold.flat(), answer.flat(), strict=True)]
        return None if None in results and False not in results else all(results)
    if not (isinstance(gold, sympy.Expr) and isinstance(answer, sympy.Expr)):
        return None
    if is_undefined(gold) or is_undefined(answer):
        return False
    if gold == answer:
        return True
    pairs = list(_values(gold, answer))
    real = [pair for pair in pairs if pair[0].is_real and pair[1].is_real]
    if any(bool(one.is_real) != bool(other.is_real) for one, other in pairs):
        return False
    # sqrt(1/n) and 1/sqrt(n) differ below 0, where neither is real: where real points exist they decide.
    names = {symbol.name for symbol in gold.free_symbols | answer.free_symbols}
    deciding = pairs if "i" in names else real or pairs
    if not deciding:
        return None
    if not all(_close(one, other) for one, other in deciding):
        return False
    if not names:
        return _same_constant(gold, answer)
    return True if len(deciding) > 1 or names == {"i"} else None


def _computed(parsed: sympy.Basic) -> sympy.Basic:
    """Sums, products and powers of matrices as the matrix, or the number, that they are."""
    if isinstance(parsed, sympy.Pow) and isinstance(parsed.base, sympy.MatrixBase):
        is_small = parsed.exp.is_Integer and abs(parsed.exp) <= _MOST_POWER
        return parsed.base**parsed.exp if is_small and parsed.base.is_square else parsed
    if isinstance(parsed, sympy.MatrixExpr) or (isinstance(parsed, sympy.Basic) and parsed.atoms(sympy.MatrixExpr)):
        return parsed.doit()
    return parsed


def _same_constant(gold: sympy.Expr, answer: sympy.Expr) -> bool:
    """Whether two constants that agree in all DIGITS are the same, as far as more digits can tell."""
    difference = gold - answer
    if difference.has(*_NUMERIC_ONLY):
        return True
    return all(_has_no_digit(part) for part in difference.evalf(2, maxn=_MOST_DIGITS).as_real_imag())


def _has_no_digit(number: sympy.Expr) -> bool:
    """Whether evalf found no digit of it: zero, or what cancels so far that none of its digits can be trusted."""
    return number == 0 or (isinstance(number, sympy.Float) and number._prec <= 1)


def _values(gold: sympy.Expr, answer: sympy.Expr):
    """Both expressions at each sample point where both have a finite value."""
    symbols = sorted({symbol.name for symbol in _unknowns(gold) | _unknowns(answer)} - {"i"})
    gold, answer = _without_functions(gold), _without_functions(answer)
    for point in _POINTS if symbols else _POINTS[:1]:
        values = {name: sympy.Rational(*point[i % len(point)].as_integer_ratio()) + i // len(point)
                  for i, name in enumerate(symbols)}  # fmt: skip
        values["i"] = sympy.I
        pair = _value(gold, values), _value(answer, values)
        if None not in pair:
            yield pair


def _unknowns(expression: sympy.Expr) -> set[sympy.Symbol]:
    functions = {sympy.Symbol(str(applied.func)) for applied in expression.atoms(AppliedUndef)}
    return {symbol for symbol in expression.free_symbols} | functions


def _without_functions(expression: sympy.Expr) -> sympy.Expr:
    """With `f(x)` as an unknown of its own, so that only equal calls are equal."""
    return expression.replace(
        lambda part: isinstance(part, AppliedUndef), lambda part: sympy.Symbol(str(part.func)) * (1 + sum(part.args))
    )


def _value(expression: sympy.Expr, values: dict[str, sympy.Rational]) -> sympy.Expr | None:
    at_point = {symbol: values[symbol.name] for symbol in expression.free_symbols}
    number = expression.subs(at_point).evalf(DIGITS, maxn=400)
    if not number.is_number or number.has(sympy.nan, sympy.zoo, sympy.oo, -sympy.oo):
        return None
    real, imaginary = number.as_real_imag()
    if not (real.is_Number and imaginary.is_Number):
        return None
    return sympy.Integer(0) if _has_no_digit(real) and _has_no_digit(imaginary) else number


def _close(one: sympy.Expr, other: sympy.Expr) -> bool:
    size = max(abs(one), abs(other))
    return bool(size == 0 or abs(one - other) <= size * _EQUAL_WITHIN)
