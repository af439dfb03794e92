r"""Units at the end of an answer: `5 \text{ cm}`, `15\text{ cm}^2`, `\$36`, `76^\circ`, `50%`, `18 dollars`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

ANY_LENGTH = "unit"
"""What `units` measures: a length in a unit that is not said."""
_NAMES = {
    ("length", Fraction(1, 1000)): "mm millimeter millimeters millimetre millimetres",
    ("length", Fraction(1, 100)): "cm centimeter centimeters centimetre centimetres",
    ("length", Fraction(1)): "m meter meters metre metres",
    ("length", Fraction(1000)): "km kilometer kilometers kilometre kilometres",
    ("length", Fraction(254, 10000)): "in inch inches",
    ("length", Fraction(3048, 10000)): "ft foot feet",
    ("length", Fraction(9144, 10000)): "yd yard yards",
    ("length", Fraction(1609344, 1000)): "mi mile miles",
    ("mass", Fraction(1, 1000)): "g gram grams gm",
    ("mass", Fraction(1)): "kg kilogram kilograms",
    ("mass", Fraction(45359237, 100000000)): "lb lbs pound pounds",
    ("mass", Fraction(45359237, 1600000000)): "oz ounce ounces",
    ("time", Fraction(1, 1000)): "ms millisecond milliseconds",
    ("time", Fraction(1)): "s sec secs second seconds",
    ("time", Fraction(60)): "min mins minute minutes",
    ("time", Fraction(3600)): "h hr hrs hour hours",
    ("time", Fraction(86400)): "day days",
    ("time", Fraction(604800)): "week weeks",
    ("volume", Fraction(1, 1000)): "ml mL milliliter milliliters",
    ("volume", Fraction(1)): "L l liter liters litre litres",
    ("money", Fraction(1)): "dollar dollars usd USD",
    ("money", Fraction(1, 100)): "cent cents",
    ("angle", Fraction(1)): "degree degrees deg",
    ("frequency", Fraction(1)): "Hz hertz",
    ("energy", Fraction(1)): "J joule joules",
    ("power", Fraction(1)): "W watt watts",
    ("force", Fraction(1)): "N newton newtons",
    (ANY_LENGTH, Fraction(1)): "unit units",
}
_NEUTRAL = re.compile(r"\(.*\)|approx(?:imately|\.)?|total|in total|altogether|exactly")
"""Words that measure nothing: an answer with them is the number alone."""
_KNOWN = {name: meaning for meaning, names in _NAMES.items() for name in names.split()}

_RATES = {"mph": "mile/hour", "kph": "km/hour", "kmh": "km/hour", "fps": "foot/second"}

_IN_TEXT = re.compile(r"^(.{1,400}?)[ ]?\\text ?\{([^{}]{1,80})\}(?:\^\{?(\d)\}?)?$", re.DOTALL)
_IN_WORDS = re.compile(r"^(.{0,300}?[\d)}]) ?([a-zA-Z]{2,20}(?: [a-zA-Z]{1,20}){0,3})(?:\^\{?(\d)\}?)?$", re.DOTALL)
_ONE_LETTER = re.compile(r"^(.{0,300}?[\d)}]) ([mgshLlJWN])(?:\^\{?(\d)\}?)?$", re.DOTALL)
_DEGREES = re.compile(r"^(.{1,300}?)\^\\circ ?$", re.DOTALL)
# The degrees in sin 1° belong to the 1, not to the answer.
_FUNCTION_COMMAND = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)")
_RAISED = re.compile(r"(.{1,40}?) ?\^ ?\{?(\d)\}?")
_SQUARE = re.compile(r"(?:square|sq\.?|cubic|cu\.?) (.{1,40})")
_FUNCTIONS = re.compile(r"\b(?:sin|cos|tan|cot|sec|csc|arc\w*|log|ln|exp|sqrt|pi|frac|max|min|gcd|lcm|choose|times)\b")
_CONNECTED = re.compile(r"\b(?:and|or|if|when|for|where|is|are|not|mod|base)\b")


@dataclass(frozen=True)
class Quantity:
    """A text and the unit that stood behind it."""

    text: str
    name: str = ""
    """Empty where there was no unit."""
    dimension: tuple[str, int] | None = None
    """What is measured, and its power (area is length squared); None for a unit that the table does not know."""
    scale: Fraction = Fraction(1)
    loose: bool = False
    """A single letter behind a blank, `6 m`: a unit where the other side has one, else a variable."""


def split_unit(text: str) -> Quantity:
    """Separate a normalised leaf from the unit behind it."""
    if (found := _DEGREES.match(text)) and not _FUNCTION_COMMAND.search(text):
        return Quantity(found.group(1), "degree", ("angle", 1))
    for pattern, loose in ((_IN_TEXT, False), (_IN_WORDS, False), (_ONE_LETTER, True)):
        found = pattern.match(text)
        if found is None:
            continue
        number, name, power = found.group(1), " ".join(found.group(2).split()).rstrip("."), int(found.group(3) or 1)
        if not name or _CONNECTED.search(name):
            continue
        if _NEUTRAL.fullmatch(name):
            return split_unit(number)
        if raised := _RAISED.fullmatch(name):
            name, power = raised.group(1), int(raised.group(2))
        if square := _SQUARE.fullmatch(name):
            power = 3 if name.startswith("cu") else 2
            name = square.group(1)
        meaning = _KNOWN.get(name) or _KNOWN.get(name.lower()) or _rate(name)
        if meaning is None and pattern is _IN_WORDS and not _counts_things(number, text, name):
            continue
        if meaning is None:
            return Quantity(number, f"{_singular(name.lower())}^{power}", None)
        return Quantity(number, f"{name.lower()}^{power}", (meaning[0], power), meaning[1] ** power, loose)
    return Quantity(text)


def _rate(name: str) -> tuple[str, Fraction] | None:
    """What `miles per hour` and `km/h` measure, or None."""
    above, _, below = _RATES.get(name.lower(), name).replace(" per ", "/").partition("/")
    meanings = [_KNOWN.get(part.strip()) or _KNOWN.get(part.strip().lower()) for part in (above, below)]
    if None in meanings:
        return None
    (measured, size), (per, unit) = meanings
    return f"{measured}/{per}", size / unit


def _singular(name: str) -> str:
    return name[:-1] if len(name) > 3 and name.endswith("s") and not name.endswith("ss") else name


def _counts_things(number: str, text: str, name: str) -> bool:
    """Whether plain words after a number, `3 apples`, name what is counted rather than a product or a function."""
    is_apart = number[-1:].isdigit() and text[len(number) : len(number) + 1] == " "
    after_brace = number.endswith("}") and len(name.split()[0]) >= 4  # whose blank is gone
    return (is_apart or after_brace) and len(name.split()[0]) >= 3 and _FUNCTIONS.search(name) is None
