r"""Gold answers as the rules of rewriting see them, read apart from the grader: numbers, parts, letters."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

_NUMBER = re.compile(r"-?(?:\d+\.?\d*|\.\d+)")
_FRACTION = re.compile(r"(-?) ?\\[dt]?frac ?(?:\{(-?\d+)\}|(\d)) ?(?:\{(\d+)\}|(\d))")
_SLASH = re.compile(r"(-?\d+)/(\d+)")
_SEPARATOR = re.compile(r"(?<=\d),(?:\\! ?)?(?=\d{3}(?!\d))")
_LARGEST = 10**7


@dataclass(frozen=True)
class Gold:
    """One gold answer of a benchmark, without the dollar signs around it."""

    text: str
    benchmark: str
    data_source: str

    @cached_property
    def value(self) -> Fraction | None:
        """The number that it is, where it is one of moderate size in a plain spelling."""
        value = read_value(self.text)
        return value if value is not None and max(abs(value.numerator), value.denominator) < _LARGEST else None

    @cached_property
    def parts(self) -> list[str] | None:
        """The parts of a point, an interval or a bare list, two or more; None of anything else."""
        if read_value(self.text) is not None:
            return None
        inner = self.text.replace("\\left", "").replace("\\right", "").strip()
        if inner[:1] in ("(", "[") and inner[-1:] in (")", "]"):
            inner = inner[1:-1]
        found = [part.strip() for part in re.split(r", ?", inner)]
        balanced = all(part and part.count("(") == part.count(")") and "[" not in part for part in found)
        return (
            found if len(found) > 1 and balanced and not re.search(r"[=<>]|\\text|\\in\b|\\begin|\\\{", inner) else None
        )

    @cached_property
    def is_bracketed(self) -> bool:
        return self.text.replace("\\left", "").strip()[:1] in ("(", "[")


def read_value(text: str) -> Fraction | None:
    """A number in digits, a decimal or a fraction; None of anything else."""
    text = _SEPARATOR.sub("", text.removeprefix("\\$").strip())
    if _NUMBER.fullmatch(text):
        return Fraction(text.rstrip("."))
    if found := _FRACTION.fullmatch(text):
        sign, *parts = found.groups()
        above, below = (int(part) for part in parts if part)
        return Fraction(above, below) * (-1 if sign else 1) if below else None
    if (found := _SLASH.fullmatch(text)) and int(found.group(2)):
        return Fraction(int(found.group(1)), int(found.group(2)))
    return None


def decimal(value: Fraction) -> str | None:
    """Its decimal where that ends within eight places."""
    for places in range(9):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = str(abs(scaled.numerator)).rjust(places + 1, "0")
            whole, rest = digits[: len(digits) - places], digits[len(digits) - places :]
            return ("-" if value < 0 else "") + whole + (f".{rest}" if rest else "")
    return None


def fraction(value: Fraction, command: str = "\\frac") -> str:
    r"""`-\frac{3}{4}`, or the integer that it is."""
    if value.denominator == 1:
        return str(value.numerator)
    return f"{'-' if value < 0 else ''}{command}{{{abs(value.numerator)}}}{{{value.denominator}}}"


def separated(number: int, separator: str = ",") -> str:
    """With a separator between groups of three digits."""
    return f"{number:,}".replace(",", separator)


def another(value: Fraction, generator: random.Random) -> Fraction:
    """Another number of the same kind: near it, turned round, or with the other sign."""
    step = Fraction(generator.choice((1, 2, 3, 10)), value.denominator)
    candidates = [value + step, value - step, -value, value * 10]
    if value.numerator > 1 and value.denominator > 1:
        candidates.append(1 / value)
    return generator.choice([candidate for candidate in candidates if candidate != value])


def letters(text: str) -> set[str]:
    """The single letters of an expression, without those of its commands."""
    return set(re.sub(r"\\[a-zA-Z]+", " ", text)) & set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
