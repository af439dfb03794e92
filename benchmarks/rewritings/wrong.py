r"""What must not be accepted: undefined values, clock times read as ratios, lists read as numbers, near misses."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction

from rewritings.made import Made, both_ways
from rewritings.reading import Gold, another, decimal, fraction, separated


def false_acceptances(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Of every gold number and of every gold point, interval or list."""
    if gold.parts:
        yield from _parts(gold, generator)
    if gold.value is None:
        return
    value, text = gold.value, gold.text
    other = another(value, generator)
    yield from _near_misses(value, text, generator)
    yield from _undefined(value, other, generator)
    if value.denominator == 1 and value > 0:
        yield from _clock_times(int(value), generator)
    shown = fraction(other)
    yield Made("list", text, f"{text}, {shown}", False)
    yield Made("list", text, f"{shown}, {text}", False)
    yield Made("point", text, f"({shown}, {text})", False)
    yield Made("hedge", text, f"{text} \\text{{ or }} {shown}", False)
    if value > 0:
        yield Made("plus or minus", text, f"\\pm {text}", False)
    if value < 0:
        yield Made("its size", text, text[1:], False)
    yield Made("inequality", text, f"x > {text}", False)
    yield Made("at least", text, f"\\ge {text}", False)
    yield Made("with a letter", text, f"{text}x", value == 0)
    yield Made("with pi", text, f"{text}\\pi", value == 0)


def _near_misses(value: Fraction, text: str, generator: random.Random) -> Iterator[Made]:
    yield both_ways(generator, "other number", text, fraction(another(value, generator)), False)
    if value.denominator == 1 and abs(value) >= 10:
        yield Made("digits cut", text, str(int(value))[:-1], False)
        yield Made("one off", text, str(value + generator.choice((1, -1))), False)
        yield Made("close decimal", text, f"{value}.0001", False)
    if value.denominator > 1 and value.numerator != 1 and decimal(value) is None and abs(value) < 1000:
        yield Made("rounded", text, f"{float(value):.4f}", False)
        yield Made("reciprocal", text, fraction(1 / value), False)
    if value.denominator == 1 and 1000 <= value < 10**6:
        listed = separated(int(value), ", ")
        if re.fullmatch(r"\d{1,3}, [1-9]\d\d", listed):
            yield both_ways(generator, "list is no number", str(value), listed, False)
    elif value.denominator == 1 and 100 <= value < 1000:
        yield both_ways(generator, "list is no number", f"5{value}", f"5, {value}", False)


def _undefined(value: Fraction, other: Fraction, generator: random.Random) -> Iterator[Made]:
    above, below = fraction(value), fraction(other)
    yield both_ways(generator, "division by zero", f"\\frac{{{above}}}{{0}}", f"\\frac{{{below}}}{{0}}", False)
    yield Made("division by zero", above, generator.choice((f"\\frac{{{above}}}{{0}}", "\\frac{0}{0}")), False)
    yield Made(
        "infinity", above, generator.choice(("\\infty", "-\\infty", "\\frac{1}{0}", "\\ln 0", "\\tan 90^\\circ")), False
    )
    yield Made("undefined", f"\\frac{{{above}}}{{0}}", "\\infty", False)
    yield Made("same text", f"\\frac{{{above}}}{{0}}", f"\\frac{{{above}}}{{0}}", True)


def _clock_times(number: int, generator: random.Random) -> Iterator[Made]:
    """Times of day are no ratios: 6:15 is not 12:30, and 1:00 not 12:00."""
    hour = number % 6 + 1
    minute = number % 30
    yield both_ways(generator, "clock time", f"{hour}:{minute:02d}", f"{2 * hour}:{2 * minute:02d}", False)
    yield both_ways(generator, "full hour", f"{hour}:00", f"{hour + 1 + number % 5}:00", False)
    yield both_ways(generator, "same time", f"{hour}:{minute:02d}", f"{hour}:{minute:02d}", True)
    if minute:
        yield both_ways(
            generator, "time is no quotient", f"{hour}:{minute:02d}", fraction(Fraction(hour, minute)), False
        )


def _parts(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Points and intervals in another order, with other ends, with a part more or less."""
    parts = gold.parts
    if any("(" in part for part in parts):
        return
    listed = ", ".join(parts)
    if gold.is_bracketed:
        opening = gold.text.replace("\\left", "").strip()[0]
        closing = gold.text.strip()[-1]
        turned = [*parts[1:], parts[0]]
        if turned != parts:
            yield Made("order", gold.text, f"{opening}{', '.join(turned)}{closing}", False)
        yield Made("set", gold.text, f"\\{{{listed}\\}}", False)
        if len(parts) == 2:
            other = ("[" if opening == "(" else "(") + listed + closing
            yield Made("ends", gold.text, other, False)
        yield Made("part more", gold.text, f"{opening}{listed}, 1{closing}", False)
    else:
        yield Made("part less", gold.text, ", ".join(parts[1:]), False)
        yield Made("part more", gold.text, f"{listed}, 12345", False)
    yield Made("last part", gold.text, parts[-1], False)
    yield Made("first part", gold.text, parts[0], False)
