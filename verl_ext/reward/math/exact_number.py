r"""Numbers as written in answers, read exactly: `1,234.50`, `\frac{3}{4}`, `1\frac{4}{5}`, `3.1\times10^{5}`, `1e-3`.

No floats and no sympy: a number becomes a `Fraction`, or it is not a number for this module.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 400
MAX_EXPONENT = 2000
"""Beyond these a number is left to the confined worker: nobody can make this process compute 10^(10^9)."""

_DECIMAL = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)"
_INTEGER_OR_DECIMAL = re.compile(rf"{_DECIMAL}")
_SCIENTIFIC = re.compile(rf"({_DECIMAL})[eE]([+-]?[0-9]{{1,5}})")
_TIMES_POWER = re.compile(rf"(?:({_DECIMAL}) ?(?:\\times|\\cdot|\*) ?)?10\^(?:\{{([+-]?[0-9]{{1,5}})\}}|([0-9]))")
_FRACTION = re.compile(rf"([0-9]*) ?\\frac ?\{{([+-]?{_DECIMAL})\}}\{{([+-]?{_DECIMAL})\}}")
_SLASH = re.compile(rf"\(?([+-]?{_DECIMAL})\)?/\(?([+-]?{_DECIMAL})\)?")
_MIXED_SLASH = re.compile(r"([0-9]+) ([0-9]+)/([0-9]+)")
REPEATING = re.compile(
    r"([0-9]*)\.([0-9]*)(?:\\(?:overline|bar|dot|overset\{\.\}) ?(?:\{([0-9]{1,40})\}|([0-9]))|\(([0-9]{1,40})\))"
)
_THOUSANDS = re.compile(r"[0-9]{1,3}(?:(?:,[0-9]{3})+|(?: [0-9]{3})+)(?:\.[0-9]*)?")


@dataclass(frozen=True)
class ExactNumber:
    """A number and how it was written."""

    value: Fraction
    is_decimal: bool
    """Written with a decimal point or an exponent, so a measurement or a rounding may be behind it."""


def has_thousands_separators(text: str) -> bool:
    """Whether `text` can be read as one number with separators; `7,144` can also be a list of two."""
    return "," in text and _THOUSANDS.fullmatch(text.lstrip("+-")) is not None


def read_number(text: str) -> ExactNumber | None:
    """Read a normalised text (see `normalise`) as one number, or None.

    Args:
        text: the answer after normalisation; blanks only as in the mixed number `1 4/5`.
    """
    if not text or len(text) > MAX_DIGITS:
        return None
    sign = 1
    while text[:1] in ("+", "-"):
        sign = -sign if text[0] == "-" else sign
        text = text[1:].lstrip(" ")
    mixed = _MIXED_SLASH.fullmatch(text)
    if mixed:
        whole, above, below = (int(group) for group in mixed.groups())
        return ExactNumber(sign * (whole + Fraction(above, below)), False) if below else None
    unsigned = _read_unsigned(text)
    return ExactNumber(sign * unsigned.value, unsigned.is_decimal) if unsigned else None


def _read_unsigned(text: str) -> ExactNumber | None:
    if _THOUSANDS.fullmatch(text):
        text = text.replace(",", "").replace(" ", "")
    if _INTEGER_OR_DECIMAL.fullmatch(text):
        return ExactNumber(Fraction(text.rstrip(".")), "." in text.rstrip("."))
    if found := _SCIENTIFIC.fullmatch(text):
        return _with_exponent(found.group(1), int(found.group(2)))
    if found := _TIMES_POWER.fullmatch(text):
        is_decimal = found.group(1) is not None
        number = _with_exponent(found.group(1) or "1", int(found.group(2) or found.group(3)))
        return ExactNumber(number.value, is_decimal) if number else None
    if found := REPEATING.fullmatch(text):
        return ExactNumber(repeating_decimal(found), False)
    if found := _FRACTION.fullmatch(text):
        whole, above, below = found.groups()
        return _quotient(above, below, Fraction(whole or 0))
    if found := _SLASH.fullmatch(text):
        return _quotient(*found.groups(), Fraction(0))
    return None


def repeating_decimal(found: re.Match[str]) -> Fraction:
    r"""The value of `0.1\overline{6}`, a match of `REPEATING`."""
    whole, once = found.group(1), found.group(2)
    period = found.group(3) or found.group(4) or found.group(5)
    repeated = Fraction(int(period), 10 ** len(period) - 1) if set(period) != {"0"} else Fraction(0)
    return Fraction(f"{whole or 0}.{once or 0}") + repeated / 10 ** len(once)


def _with_exponent(mantissa: str, exponent: int) -> ExactNumber | None:
    if abs(exponent) > MAX_EXPONENT:
        return None
    return ExactNumber(Fraction(mantissa.rstrip(".")) * Fraction(10) ** exponent, True)


def _quotient(above: str, below: str, whole: Fraction) -> ExactNumber | None:
    numerator, denominator = Fraction(above.rstrip(".")), Fraction(below.rstrip("."))
    if denominator == 0 or (whole and (numerator < 0 or denominator < 0 or numerator >= denominator)):
        return None  # 2\frac{5}{3} is a product if anything; the symbolic comparison may read it
    return ExactNumber(whole + numerator / denominator, False)
