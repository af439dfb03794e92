r"""What an equals sign means in an answer: `AB = 5` names a value, `48+24=72` restates it, `x^2 = 9` is an equation."""

from __future__ import annotations

import re
from dataclasses import dataclass

from verl_ext.reward.math.normalise import key
from verl_ext.reward.math.structure import split_top_level

MAX_SIDES = 20

_LETTER = r"(?:[a-zA-Z]|\\(?:alpha|beta|gamma|delta|epsilon|varepsilon|theta|lambda|mu|nu|xi|rho|sigma|tau|phi|varphi|psi|chi|eta|zeta|omega|Gamma|Delta|Theta|Lambda|Sigma|Phi|Psi|Omega|ell|hbar)(?![a-zA-Z]))"
_SUBSCRIPT = r"(?:_(?:\w|\{[^{}]{1,40}\}|\\[a-z]{2,7}(?![a-z])))"
_PRIMES = r"(?:'{1,4}|\^\{?\*\}?|\^\{?\\prime\}?|\^\{\([a-z\d]{1,3}\)\})"
_ACCENT = r"\\(?:vec|hat|bar|overline|overrightarrow|overleftrightarrow|widehat|tilde|dot|ddot|overarc)"
_ATOM = rf"(?:{_ACCENT} ?(?:\{{ ?[a-zA-Z]{{1,4}} ?\}}|[a-zA-Z]){_SUBSCRIPT}?|{_LETTER}{_SUBSCRIPT}?{_PRIMES}?)"
_CALL = re.compile(rf"{_ATOM}(?:\^\{{-1\}}|\^\{{?\d\}}?)? ?\(.{{1,200}}\)", re.DOTALL)
_SIMPLE = re.compile(_ATOM)
_POINTS = r"[A-Z](?:_\{?\w{1,3}\}?|'{1,3})?"
_FIGURE = re.compile(
    rf"(?:m ?)?(?:\\(?:angle|measuredangle|triangle|odot|square|widehat|overarc|Box) ?)?\{{?(?:{_POINTS} ?){{1,6}}\}}?"
    rf"|(?:m ?)?\\(?:angle|measuredangle|triangle|odot) ?\{{?(?:{_LETTER}|\d)\}}?"
    rf"|\[(?:{_POINTS}){{3,6}}\]"
)
_BARS = re.compile(r"(?:\|[^|]{1,80}\||\\\|[^|]{1,80}\\\|)(?:\^\{?2\}?)?")
_TUPLE = re.compile(rf"\( ?{_ATOM}(?: ?, ?{_ATOM}){{1,7}} ?\)")
_WORDED = re.compile(r"\\text ?\{[^{}]*[a-zA-Z]{2}|(?<![a-zA-Z\\])[a-z]{4,}(?![a-zA-Z])|(?<![a-zA-Z\\])[A-Z][a-z]{2,}")
_OF_NAMES = re.compile(
    r"\\(?:sin|cos|tan|cot|sec|csc|arg|det|dim|deg|gcd|lcm|max|min|Re|Im|rank|tr|sup|inf|ker|operatorname)(?![a-zA-Z])"
)
_OPERATION = re.compile(
    r"\\(?:int|iint|oint|sum|prod|lim)(?![a-zA-Z])|\\frac ?\{(?:d|\\partial ?)(?:\^\{?\d\}?)? ?[a-zA-Z]?\}"
)
_MOMENT = re.compile(
    r"\\?(?:Var|Cov|E|P|SD|Area|Volume|Perimeter) ?[(\[].{1,80}[)\]]|\\sigma\^\{?2\}?|[a-zA-Z] ?\\bmod .{1,20}",
    re.DOTALL,
)
_INDEXED = re.compile(r"[a-zA-Z]_\{?\w{1,3}\}?")
_SUB_OR_SUPER = re.compile(r"[_^](?:\{[^{}]{0,40}\}|\\[a-zA-Z]+|.)")
_LETTERS = re.compile(_LETTER)
_IN_COMMANDS = re.compile(r"\\(?:text|operatorname|mathrm) ?\{[^{}]*\}|\\[a-zA-Z]+")
_CURVE_LETTERS = frozenset("xyz")


@dataclass(frozen=True)
class Equation:
    """Sides between equals signs, at least two, as normalised text."""

    sides: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the value is named by; empty where the first side names nothing."""
        return self.sides[0] if names_a_quantity(self.sides[0], self.value) else ""

    @property
    def value(self) -> str:
        """The last side, whose value counts."""
        return self.sides[-1]

    @property
    def restated(self) -> tuple[str, ...]:
        """The sides other than the last that can be computed: each has to have its value."""
        return tuple(side for side in self.sides[:-1] if is_constant(side) or is_operation(side))

    @property
    def is_composed(self) -> bool:
        """Whether the first side is more than one power or multiple of a letter, so that it may be an identity."""
        return len(re.sub(r"\d|[_^{}.]", "", self.sides[0])) > 1


def read_equation(text: str) -> Equation | None:
    """The equation that a normalised text is, or None; an `=` in a subscript, a limit or brackets is none."""
    if "=" not in text:
        return None
    parts = split_top_level(text, "=")
    if parts is None or not 2 <= len(parts) <= MAX_SIDES:
        return None
    sides = tuple(part.strip() for part in parts)
    if not all(sides) or any(side[-1] in "<>" or side[-1] == "!" and not is_constant(side) for side in sides[:-1]):
        return None
    if len(sides) == 2 and is_constant(sides[0]) and names_a_quantity(*sides[::-1]) and not is_operation(sides[1]):
        sides = sides[::-1]  # 5 = x, 6 = m+n
    elif len(sides) == 2 and _SIMPLE.fullmatch(sides[1]) and not names_a_quantity(*sides):
        sides = sides[::-1]
    return Equation(sides)


def names_a_quantity(side: str, value: str = "") -> bool:
    r"""Whether one side of an equation only names its value: `x`, `f(3)`, `AB`, `m+n`, `\angle A`, `\text{Area}`.

    `x^2` and `2x` are no names: `x^2 = 9` says what x is. Letters joined without a number are (`a^2+b^2`), unless they
    are the x, y and z of a curve with powers.
    """
    for pattern in (_SIMPLE, _CALL, _FIGURE, _TUPLE):
        if pattern.fullmatch(side):
            return True
    if ":" in side:
        return all(_letters(_SUB_OR_SUPER.sub("", part)) for part in side.split(":"))
    if _BARS.fullmatch(side):
        return side.strip("|\\^{}2 ") != "x"
    if _MOMENT.fullmatch(side):
        return True
    if _WORDED.search(side):
        return True
    plain = _SUB_OR_SUPER.sub("", side)
    letters = set(_letters(plain))
    if _OF_NAMES.match(side) and letters and not re.search(r"[=<>]", side):
        return True
    if is_operation(side):
        return True
    if "matrix" in value and letters and len(plain) <= 2:
        return True  # A^{-1} = a matrix
    has_powers = "^" in re.sub(_SUBSCRIPT, "", side)
    has_numbers = re.search(r"\d", plain) is not None
    if max(len(letters), len(set(_INDEXED.findall(side)))) < 2 or re.search(r"\\(?:sqrt|log|ln)(?![a-zA-Z])", side):
        return False
    return not ((has_powers or has_numbers) and letters <= _CURVE_LETTERS)


def _letters(text: str) -> list[str]:
    found = _LETTERS.findall(
        _IN_COMMANDS.sub(lambda match: match.group() if _LETTERS.fullmatch(match.group()) else " ", text)
    )
    return [letter for letter in found if letter not in ("e", "i")] if len(found) > 1 else found


def is_constant(side: str) -> bool:
    """Whether a side has no letters, so that it can be computed; dots (`1+2+\\ldots+9`) cannot."""
    if "\\ldots" in side or "..." in side or _WORDED.search(side):
        return False
    return not _letters(side)


def is_worded(name: str) -> bool:
    """Whether a name is in words, `\\text{Area}`."""
    return _WORDED.search(name) is not None


def is_operation(side: str) -> bool:
    """A sum, product, limit, integral or derivative, which has letters and may have a value all the same."""
    return _OPERATION.match(side) is not None


def may_be_computed(side: str) -> bool:
    """Whether an operation has bounds: without them an integral is known up to a constant only."""
    return is_constant(side) or "_" in side


def same_name(one: str, other: str) -> bool:
    """Whether two names are the same, with the letters of a segment or an angle in either order."""
    return _name_key(one) == _name_key(other)


def _name_key(name: str) -> str:
    spelt = key(name).replace("\\overline", "").replace("m\\angle", "\\angle").replace("\\measuredangle", "\\angle")
    prefix, letters = (
        re.fullmatch(r"(\\angle|\\triangle|\|)?\{?([A-Z]*)\}?\|?", spelt).groups() if _is_figure(spelt) else ("", "")
    )
    if not letters:
        return spelt
    prefix = "" if prefix == "|" else prefix or ""
    if prefix == "\\triangle":
        return prefix + "".join(sorted(letters))
    return prefix + min(letters, letters[::-1])


def _is_figure(spelt: str) -> bool:
    return re.fullmatch(r"(\\angle|\\triangle|\|)?\{?[A-Z]{2,4}\}?\|?", spelt) is not None


def are_plain_names(one: str, other: str) -> bool:
    """Whether both are one letter, call or figure, so that two different ones name different things."""
    return all(any(kind.fullmatch(name) for kind in (_SIMPLE, _CALL, _FIGURE, _BARS)) for name in (one, other))


def tuple_of_names(name: str) -> list[str]:
    """The names in `(x,y)`, or nothing."""
    if not _TUPLE.fullmatch(name):
        return []
    return [part.strip() for part in split_top_level(name[1:-1], ",") or []]


def in_usual_order(names: list[str]) -> list[int]:
    """Positions of distinct names in the order in which a tuple would list them: Latin, then Greek; slope m before b,
    and w behind z."""
    if sorted(names) == ["b", "m"]:
        return [names.index("m"), names.index("b")]
    is_late = {"w"} if "z" in names else set()
    return sorted(
        range(len(names)),
        key=lambda at: (names[at].startswith("\\"), names[at] in is_late, names[at].casefold()),
    )
