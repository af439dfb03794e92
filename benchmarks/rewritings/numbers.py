r"""Numbers in other spellings: decimals within expressions, thousands separators, repeating decimals, times of day."""

from __future__ import annotations

import math
import random
import re
from collections.abc import Iterator
from fractions import Fraction

from rewritings.made import Made, both_ways
from rewritings.reading import Gold, another, decimal, fraction, separated

_INNER_FRACTION = re.compile(r"(?<![\w}^])(?<!\d )\\[dt]?frac\{(\d{1,4})\}\{(\d{1,4})\}(?![\d^])")


def decimals(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """`0.75x` beside `\\frac{3}{4}x`: of every gold number but 0, scaled to one with decimal places that end."""
    yield from _decimal_inside(gold)
    value = gold.value
    if not value:
        return
    while value.denominator == 1:
        value = value / generator.choice((10, 100, 4, 8))
    if decimal(value) is None:
        yield from _rounded(value, generator)
        return
    wrong = another(value, generator)
    if decimal(wrong) is None or wrong == 1 / value:
        wrong = value + 1
    forms = list(_with_decimal(value, generator))
    forms_of_wrong = {rule: (one, other) for rule, one, other in _with_decimal(wrong, generator)}
    for rule, in_decimals, exact in generator.sample(forms, min(4, len(forms))):
        yield both_ways(generator, rule, exact, in_decimals, True)
        if rule in forms_of_wrong and generator.random() < 0.6:
            yield both_ways(generator, rule, exact, forms_of_wrong[rule][0], False)


def _with_decimal(value: Fraction, generator: random.Random) -> Iterator[tuple[str, str, str]]:
    """(rule, with the decimal, with the fraction)"""
    shown, exact, above, below = decimal(value), fraction(value), value.numerator, value.denominator
    if shown is None:
        return
    times = {1: "", -1: "-"}.get(above, str(above))
    yield "factor", f"{shown}x", f"\\frac{{{times}x}}{{{below}}}"
    yield "factor before a letter", f"{shown} x", f"{exact}x"
    yield "times pi", f"{shown}\\pi", f"\\frac{{{times}\\pi}}{{{below}}}"
    yield "times a root", f"{shown}\\sqrt{{2}}", f"\\frac{{{times}\\sqrt{{2}}}}{{{below}}}"
    yield "line", f"y={shown}x+1", f"y={exact}x+1"
    yield "sum", f"n+{shown}" if value > 0 else f"n{shown}", f"n+{exact}" if value > 0 else f"n{exact}"
    yield "bracket", f"{shown}(x+2)", f"{shown}x+{decimal(2 * value)}" if value > 0 else f"{exact}(x+2)"
    yield "point", f"({shown}, 3)", f"({exact}, 3)"
    yield "complex", f"{shown}+2i", f"{exact}+2i"
    if 0 < value < 50:
        yield "exponent", f"x^{{{shown}}}", f"x^{{{exact}}}"
        yield "exponential", f"e^{{-{shown}t}}", f"e^{{-\\frac{{{times}t}}{{{below}}}}}"
        yield "base", f"100({shown})^n", f"100\\left({exact}\\right)^n"
        yield "argument", f"\\sin({shown}x)", f"\\sin\\left(\\frac{{{times}x}}{{{below}}}\\right)"


def _rounded(value: Fraction, generator: random.Random) -> Iterator[Made]:
    """A fraction without a decimal that ends is no rounding of itself."""
    if abs(value) > 1000:
        return
    places = generator.choice((3, 4))
    shown = f"{float(value):.{places}f}"
    if Fraction(shown) == 0:
        return
    for neighbour in ("x", "\\pi", "\\sqrt{3}"):
        yield both_ways(generator, "rounded", f"{fraction(value)}{neighbour}", f"{shown}{neighbour}", False)


def _decimal_inside(gold: Gold) -> Iterator[Made]:
    """Every fraction of integers within a larger gold as its decimal, where that ends."""
    if gold.value is not None:
        return

    def as_decimal(found: re.Match[str]) -> str:
        return decimal(Fraction(int(found.group(1)), int(found.group(2)))) or found.group()

    answer = _INNER_FRACTION.sub(as_decimal, gold.text)
    if answer != gold.text:
        yield Made("within the gold", gold.text, answer, True)


def thousands(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Separators beside units, degrees, letters: of every positive gold integer, smaller ones times a thousand."""
    if gold.value is None or gold.value.denominator != 1 or gold.value <= 0:
        return
    number = int(gold.value)
    if number < 1000:
        number = number * 1000 + generator.choice((0, 50, 250, 375, 500))
    wrong = number + generator.choice((1, -1, 10, 1000, -100))
    for rule, template, counterpart in generator.sample(_NEIGHBOURS, 4):
        separator = generator.choice((",", ",", "{,}", ",\\!", "\\,"))
        plain = template.format(number) if counterpart == "template" else str(number)
        yield Made(rule, plain, template.format(separated(number, separator)), True)
        yield Made(rule, plain, template.format(separated(wrong, separator)), False)
    first, second = number, number // 2 + 1000
    shown = f"({separated(first, '{,}')}, {separated(second, '{,}')})"
    yield both_ways(generator, "point", f"({first},{second})", shown, True)
    yield both_ways(generator, "point", f"({second},{first})", shown, first == second)
    with_blank = separated(number, ", ")
    if re.fullmatch(r"[1-9]\d{0,2}, [1-9]\d\d", with_blank):
        yield both_ways(generator, "list is no number", str(number), with_blank, False)
        yield both_ways(generator, "list with a unit", with_blank, f"{separated(number)} \\text{{ dollars}}", False)


_NEIGHBOURS = [
    ("unit in text", "{} \\text{{ dollars}}", "number"),
    ("unit in words", "{} apples", "number"),
    ("power of a unit", "{} \\text{{ cm}}^2", "number"),
    ("degrees", "{}^\\circ", "number"),
    ("degrees", "{}^\\circ", "template"),
    ("currency", "\\${}", "number"),
    ("currency", "\\${}.00", "number"),
    ("times pi", "{}\\pi", "template"),
    ("times a root", "{}\\sqrt{{3}}", "template"),
    ("times a letter", "{}x", "template"),
    ("named", "y={}", "template"),
    ("named", "x = {}", "number"),
    ("sum", "{} + \\pi", "template"),
    ("numerator", "\\frac{{{}}}{{\\pi}}", "template"),
    ("mathrm unit", "{} \\, \\mathrm{{km}}", "number"),
    ("decimal places", "{}.5", "template"),
]


def readings(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Repeating decimals of gold fractions; coefficients, factorials and times of day from gold integers."""
    value = gold.value
    if value is None:
        return
    if value.denominator > 1 and decimal(value) is None:
        yield from _repeating(value, generator)
    if value.denominator != 1 or value <= 0:
        return
    number = int(value)
    yield from _repeating(Fraction(number, generator.choice((3, 7, 9, 11, 99, 6, 12))), generator)
    if number <= 60:
        yield from _counted(number, generator)
    yield from _times(number, generator)
    if number < 10**5:
        yield both_ways(generator, "lg", f"\\lg {number}", f"\\log_{{10}} {number}", True)
        yield both_ways(generator, "lg", f"\\lg {number}", f"\\ln {number}", number == 1)


def _repeating(value: Fraction, generator: random.Random) -> Iterator[Made]:
    written = repeating(value)
    if written is None:
        return
    sign, head, period = written
    exact = fraction(value)
    yield both_ways(generator, "repeating decimal", exact, f"{sign}{head}\\overline{{{period}}}", True)
    if len(period) == 1:
        yield both_ways(generator, "bar", exact, f"{sign}{head}\\bar{{{period}}}", True)
    yield both_ways(generator, "longer head", exact, f"{sign}{head}{period}\\overline{{{period}}}", True)
    yield both_ways(generator, "cut off", exact, f"{sign}{head}{period}", False)
    other = str((int(period[-1]) + 1) % 9)
    yield both_ways(generator, "other period", exact, f"{sign}{head}\\overline{{{period[:-1]}{other}}}", False)


def repeating(value: Fraction) -> tuple[str, str, str] | None:
    """Sign, digits up to the period, and the period, of at most 6 digits; None of a decimal that ends."""
    rest, below = abs(value.numerator) % value.denominator, value.denominator
    digits, seen = "", {}
    while rest and rest not in seen and len(digits) < 12:
        seen[rest] = len(digits)
        rest *= 10
        digits += str(rest // below)
        rest %= below
    if not rest or rest not in seen or len(digits) - seen[rest] > 6:
        return None
    start = seen[rest]
    whole = abs(value.numerator) // below
    return "-" if value < 0 else "", f"{whole}.{digits[:start]}", digits[start:]


def _counted(number: int, generator: random.Random) -> Iterator[Made]:
    """Binomial coefficients and factorials."""
    above, below = number + 3, generator.randint(2, 4)
    count = math.comb(above, below)
    for rule, text in (("choose", f"{{{above} \\choose {below}}}"), ("binom", f"\\binom{{{above}}}{{{below}}}")):
        yield both_ways(generator, rule, str(count), text, True)
        yield both_ways(generator, rule, str(count + generator.choice((1, -1, above))), text, False)
    yield both_ways(
        generator, "choose and binom", f"{{{above} \\choose {below}}}", f"\\binom{{{above}}}{{{below}}}", True
    )
    if 2 < number <= 20:
        yield both_ways(generator, "factorial", str(math.factorial(number)), f"{number}!", True)
        yield both_ways(generator, "factorial", str(math.factorial(number) + number), f"{number}!", False)


def _times(number: int, generator: random.Random) -> Iterator[Made]:
    """Times of day, whose hour and minute are made from the number."""
    hour, minute = number % 12 + 1, (7 * number) % 60
    half = generator.choice(("AM", "PM"))
    other = "PM" if half == "AM" else "AM"
    shown = f"{hour}:{minute:02d}"
    spellings = ["{} {}", "{}\\text{{ {}}}", "{} \\text{{ {}}}", "{}\\ \\mathrm{{{}}}", "{}{}"]
    one, two = generator.sample(spellings, 2)
    dotted = {"AM": "a.m.", "PM": "p.m."}
    yield both_ways(generator, "time of day", one.format(shown, half), two.format(shown, dotted[half]), True)
    yield both_ways(generator, "time of day", one.format(shown, half), two.format(shown, half.lower()), True)
    yield both_ways(generator, "half of the day", one.format(shown, half), two.format(shown, dotted[other]), False)
    later = f"{hour}:{(minute + 15) % 60:02d}"
    yield both_ways(generator, "other time", f"{shown} {half}", f"{later} {half}", False)
