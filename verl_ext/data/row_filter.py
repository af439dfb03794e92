"""Conditions on the rows of a file, such as `pass_rate <= 6/16 and extra_info.level != "hard"`: parsed, not evaluated.

condition  = comparison { "and" comparison }
comparison = column operator value
column     = name { "." name }          nested columns by their path
operator   = < | <= | > | >= | == | !=
value      = number | number "/" number | "text" | 'text'
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from verl_ext.errors import UserError

OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_TOKEN = re.compile(
    r"""\s*(?:
    (?P<operator> <=|>=|==|!=|<|>)
  | (?P<number> [-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?(?:\s*/\s*\d+)?(?![\w.]))
  | (?P<text> "[^"]*"|'[^']*')
  | (?P<name> [A-Za-z_][\w-]*(?:\.[\w-]+)*)
  )""",
    re.VERBOSE,
)


@dataclass(frozen=True)
class Comparison:
    """One column against one value."""

    column: str
    sign: str
    value: Fraction | str

    def holds(self, found: Any) -> bool:
        """Whether it does for a value of the column.

        Raises:
            TypeError: a value that cannot be compared with this one.
        """
        if isinstance(self.value, str):
            if not isinstance(found, str):
                raise TypeError(f"{found!r} is no text")
            return OPERATORS[self.sign](found, self.value)
        if isinstance(found, bool) or not isinstance(found, (int, float, Fraction)) or not math.isfinite(found):
            raise TypeError(f"{found!r} is no number")
        return OPERATORS[self.sign](Fraction(found), self.value)


@dataclass(frozen=True)
class RowFilter:
    """Comparisons that must all hold."""

    text: str
    comparisons: Sequence[Comparison]

    @property
    def columns(self) -> list[str]:
        """Each once, in the order in which they are named."""
        return list(dict.fromkeys(comparison.column for comparison in self.comparisons))

    def keeps(self, values: Mapping[str, Any]) -> bool:
        """Whether a row stays.

        Args:
            values: of the `columns`.

        Raises:
            TypeError: names the column whose value cannot be compared.
        """
        for comparison in self.comparisons:
            try:
                if not comparison.holds(values[comparison.column]):
                    return False
            except TypeError as error:
                raise TypeError(f"{comparison.column}: {error}") from None
        return True


def parse_filter(text: str, *, key: str) -> RowFilter:
    """Read a condition.

    Args:
        text: in the grammar above.
        key: where it stands, for messages.

    Raises:
        UserError: says what was expected where.
    """
    tokens = _tokens(text, key)
    comparisons = []
    position = 0
    while True:
        column = _expect(tokens, position, "name", "a column", text, key)
        sign = _expect(tokens, position + 1, "operator", f"one of {' '.join(OPERATORS)}", text, key)
        comparisons.append(Comparison(column, sign, _value(tokens, position + 2, text, key)))
        position += 3
        if position == len(tokens):
            return RowFilter(text, comparisons)
        if tokens[position] != ("name", "and"):
            raise UserError(f"{key}: {text!r}: expected `and` or the end before {tokens[position][1]!r}")
        position += 1


def value_of(row: Mapping[str, Any], column: str) -> Any:
    """The value at a path of names.

    Raises:
        KeyError: there is none.
    """
    found: Any = row
    for name in column.split("."):
        if not isinstance(found, Mapping) or name not in found:
            raise KeyError(column)
        found = found[name]
    return found


def _tokens(text: str, key: str) -> list[tuple[str, str]]:
    found, position = [], 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise UserError(f"{key}: {text!r}: cannot read {text[position:].strip()!r}")
        found.append((match.lastgroup, match[match.lastgroup]))
        position = match.end()
    return found


def _expect(tokens: Sequence[tuple[str, str]], position: int, kind: str, wanted: str, text: str, key: str) -> str:
    if position >= len(tokens) or tokens[position][0] != kind:
        there = f"before {tokens[position][1]!r}" if position < len(tokens) else "at the end"
        raise UserError(f"{key}: {text!r}: expected {wanted} {there}")
    return tokens[position][1]


def _value(tokens: Sequence[tuple[str, str]], position: int, text: str, key: str) -> Fraction | str:
    kind, found = tokens[position] if position < len(tokens) else ("end", "")
    if kind == "text":
        return found[1:-1]
    if kind != "number":
        _expect(tokens, position, "number", 'a number, a fraction such as 6/16, or a "text"', text, key)
    number, _, denominator = found.partition("/")
    if denominator and int(denominator) == 0:
        raise UserError(f"{key}: {text!r}: a fraction over 0")
    return Fraction(number.strip()) / (int(denominator) if denominator else 1)
