r"""What models write around several values, and behind one: lists in words and with names, units, percent signs."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from fractions import Fraction

from rewritings.made import Made, both_ways
from rewritings.reading import Gold, another, decimal, fraction, read_value

Values = list[Fraction]


def lists(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Two or three numbers that differ, those of a gold list or made from one gold number, as solutions of a problem.

    Their order means nothing there; that of a point does, and is kept.
    """
    values = _values_of(gold, generator)
    if values is None or len(set(values)) < len(values):
        return
    changed = list(values)
    place = generator.randrange(len(values))
    changed[place] = another(values[place], generator)
    ambiguous = re.search(r"\d,\d{3}(?!\d)", _SOLUTIONS["tight"](values))  # 508,516 is a number as well
    one, two = generator.sample([name for name in _SOLUTIONS if name != "tight" or not ambiguous], 2)
    yield both_ways(generator, one, _SOLUTIONS[one](values), _SOLUTIONS[two](values), True)
    if one != "numbered":  # whether x_1 is the first is not said
        yield both_ways(generator, f"{one}, turned", _SOLUTIONS["bare"](values), _SOLUTIONS[one](values[::-1]), True)
    if changed[place] not in values:
        yield both_ways(generator, f"{one}, changed", _SOLUTIONS["bare"](values), _SOLUTIONS[one](changed), False)
    yield Made("one left out", _SOLUTIONS[one](values), _SOLUTIONS[two](values[1:]), False)
    yield Made("one left out", _SOLUTIONS[one](values[:-1]), _SOLUTIONS[two](values), False)
    point = f"({', '.join(map(fraction, values))})"
    spelt = generator.choice(_POINTS)
    yield both_ways(generator, "point", point, spelt(values), True)
    yield both_ways(generator, "turned point", point, spelt(values[::-1]), False)


def _values_of(gold: Gold, generator: random.Random) -> Values | None:
    if gold.parts and len(gold.parts) < 5:
        values = [read_value(part) for part in gold.parts]
        return None if None in values else values
    if gold.value is None or abs(gold.value) > 10**6:
        return None
    return [gold.value, gold.value + generator.randint(1, 9), -gold.value - 1][: generator.choice((2, 2, 3))]


def _joined(values: Values, between: str, last: str, show=fraction) -> str:
    texts = [show(value) for value in values]
    return between.join(texts[:-1]) + last + texts[-1] if len(texts) > 1 else texts[0]


_SOLUTIONS = {
    "bare": lambda values: _joined(values, ", ", ", "),
    "tight": lambda values: _joined(values, ",", ","),
    "and": lambda values: _joined(values, ", ", " \\text{ and } "),
    "comma and": lambda values: _joined(values, ", ", ", \\text{ and } "),
    "plain and": lambda values: _joined(values, ", ", " and "),
    "semicolons": lambda values: _joined(values, "; ", "; "),
    "named or": lambda values: _joined(values, ", ", " \\text{ or } ", lambda value: f"x = {fraction(value)}"),
    "named once": lambda values: "x = " + _joined(values, ", ", ", "),
    "named each": lambda values: _joined(values, ", ", ", ", lambda value: f"x = {fraction(value)}"),
    "numbered": lambda values: ", ".join(f"x_{i} = {fraction(value)}" for i, value in enumerate(values, start=1)),
    "set": lambda values: f"\\{{{_joined(values, ', ', ', ')}\\}}",
    "sized set": lambda values: f"\\left\\{{ {_joined(values, ', ', ', ')} \\right\\}}",
    "member": lambda values: f"x \\in \\{{{_joined(values, ', ', ', ')}\\}}",
    "wide": lambda values: _joined(values, ",\\quad ", ",\\quad "),
    "display fractions": lambda values: _joined(values, ",\\ ", ",\\ ", lambda value: fraction(value, "\\dfrac")),
    "quotients": lambda values: _joined(values, ", ", ", ", str),
}
_POINTS = (
    lambda values: f"\\left( {_joined(values, ', ', ', ')} \\right)",
    lambda values: "\\left(" + _joined(values, ",", ",", lambda value: fraction(value, "\\dfrac")) + "\\right)",
    lambda values: f"({_joined(values, ', ', ', ', lambda value: decimal(value) or str(value))})",
    lambda values: f"({', '.join('xyzw'[: len(values)])}) = ({_joined(values, ', ', ', ')})",
    lambda values: ", ".join(f"{name} = {fraction(value)}" for name, value in zip("xyzw", values, strict=False)),
    lambda values: f"\\big({_joined(values, ',~', ',~')}\\big)",
    lambda values: "(\\," + _joined(values, ",\\, ", ",\\, ") + "\\,)",
)


def units(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Units, degrees, currency and percent: of every positive gold number below a million."""
    value = gold.value
    if value is None or not 0 < value < 10**6:
        return
    text, wrong = fraction(value), fraction(abs(another(value, generator)) or Fraction(1))
    if wrong == text:
        wrong = fraction(value + 1)
    spellings = generator.choice(_UNITS)
    one, two = generator.sample(spellings, 2)
    yield both_ways(generator, "same unit", one.format(text), two.format(text), True)
    yield both_ways(generator, "same unit", one.format(text), two.format(wrong), False)
    yield both_ways(generator, "unit left out", text, one.format(text), True)
    yield both_ways(generator, "unit left out", wrong, one.format(text), False)
    unlike = [found for found in _UNITS if found is not spellings and not {*found, *spellings} >= _AREAS]
    other = generator.choice(unlike)
    yield both_ways(generator, "other unit", one.format(text), generator.choice(other).format(text), False)
    bigger, smaller, factor = generator.choice(_CONVERTED)
    converted = fraction(value * factor)
    yield both_ways(generator, "converted", f"{text} {bigger}", f"{converted} {smaller}", True)
    yield both_ways(generator, "not converted", f"{text} {bigger}", f"{text} {smaller}", False)
    shown, hundredth = decimal(value), decimal(value / 100)
    if shown and hundredth:
        percent = generator.choice(("{}\\%", "{}%", "{} \\%", "{}\\text{{ percent}}", "{} percent"))
        yield both_ways(generator, "percent", hundredth, percent.format(shown), True)
        yield both_ways(generator, "percent", f"{shown}\\%", percent.format(shown), True)
        yield both_ways(generator, "percent", fraction(value / 100), percent.format(shown), True)
        yield both_ways(generator, "other percent", hundredth, percent.format(decimal(value + 1)), False)


_UNITS = (
    ("{} \\text{{ cm}}", "{}\\,\\text{{cm}}", "{} cm", "{}\\ \\mathrm{{cm}}", "{} \\text{{ centimeters}}", "{}~\\text{{cm}}"),
    ("{} \\text{{ square units}}", "{}\\text{{ square units}}", "{} \\text{{ units}}^2", "{} square units"),
    ("{} \\text{{ cm}}^2", "{}\\,\\mathrm{{cm}}^2", "{} \\text{{ cm}}^{{2}}", "{} \\text{{ square centimeters}}",
     "{} \\text{{ cm}}²", "{} \\text{{ cm$^2$}}"),
    ("{}^\\circ", "{}^{{\\circ}}", "{}°", "{} \\text{{ degrees}}", "{}\\degree", "{} degrees"),
    ("\\${}", "{} \\text{{ dollars}}", "${}", "{} dollars", "\\text{{\\${}}}", "\\$ {}"),
    ("{} \\text{{ hours}}", "{} hours", "{}\\,\\text{{h}}", "{} \\text{{ hrs}}", "{} \\text{{ hour}}"),
    ("{} \\text{{ mph}}", "{} \\text{{ miles per hour}}", "{}\\ \\mathrm{{mph}}"),
    ("{} \\text{{ m/s}}", "{}\\,\\mathrm{{m/s}}", "{} \\text{{ m}}/\\text{{s}}", "{} \\text{{ meters per second}}"),
    ("{} \\text{{ kg}}", "{} kg", "{}\\ \\mathrm{{kg}}", "{}\\,\\text{{kilograms}}"),
    ("{} \\text{{ apples}}", "{} apples", "{}\\text{{ apples}}"),
)  # fmt: skip
_AREAS = {"{} square units", "{} \\text{{ square centimeters}}"}
"""Square units do not say of what: square centimetres may be meant."""
_CONVERTED = (
    ("\\text{ m}", "\\text{ cm}", 100),
    ("\\text{ km}", "\\text{ m}", 1000),
    ("\\text{ hours}", "\\text{ minutes}", 60),
    ("\\text{ kg}", "\\text{ g}", 1000),
    ("\\text{ m}^2", "\\text{ cm}^2", 10000),
    ("\\text{ feet}", "\\text{ inches}", 12),
    ("\\text{ dollars}", "\\text{ cents}", 100),
    ("\\text{ L}", "\\text{ mL}", 1000),
)
