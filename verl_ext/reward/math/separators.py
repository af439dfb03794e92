r"""Thousands separators: `70,000 \text{ dollars}` is 70000, `32, 349` is a list, and `7,144` may be either.

A separator has a digit before it, no blank behind it, and exactly three digits after it. `{,}`, `,\!` and `\,` are
written by nobody for anything else; a plain comma in brackets, `(100,200)`, is one only where something shows it.
"""

from __future__ import annotations

import re

_MARKED = re.compile(r"(?<=\d)(?:\{, ?\}|, ?\\! ?|\\! ?, ?(?:\\!)?|\\!,\\!|\\[, ] ?|,\\,)(?=\d{3}(?!\d))")
_GROUPED = re.compile(r"(?<![\d.,^_a-zA-Z])([1-9]\d{0,2})((?:,\d{3})+)(?!\d|,\d)")
_ONLY_DIGITS = re.compile(r"[+-]?\d[\d, ]*(?:\.\d+)?")
_BLANK_COMMA = re.compile(r",\s+")
_HAS_ZERO_GROUP = re.compile(r",0\d\d")
_OPEN, _CLOSE = "([{", ")]}"


def without_separators(text: str) -> str:
    """Without the separators that are surely ones; blanks behind a comma still tell it from a separator here.

    A text of digits and commas alone keeps commas that may be separators (`7,144`, read as a number and as a list),
    and shows a comma that cannot be one as a semicolon (`32, 349`).
    """
    text = _MARKED.sub("", text)
    if "," not in text:
        return text
    if _ONLY_DIGITS.fullmatch(text):
        return _digits_and_commas(text)
    brackets = _bracket_of_each(text)
    return _GROUPED.sub(lambda match: _joined(match, text, brackets), text)


def _digits_and_commas(text: str) -> str:
    if not _BLANK_COMMA.search(text):
        return text.replace(",", "") if _HAS_ZERO_GROUP.search(text) and _GROUPED.fullmatch(text.lstrip("+-")) else text
    return _BLANK_COMMA.sub("; ", _GROUPED.sub(lambda match: match.group().replace(",", ""), text))


def _bracket_of_each(text: str) -> list[int]:
    """For each position, where the innermost bracket around it opens; -1 outside all."""
    opened: list[int] = []
    inside = []
    for position, character in enumerate(text):
        if character in _CLOSE and opened:
            opened.pop()
        inside.append(opened[-1] if opened else -1)
        if character in _OPEN:
            opened.append(position)
    return inside


def _joined(match: re.Match[str], text: str, brackets: list[int]) -> str:
    """The number without its separators; among other commas, or in the brackets of a tuple, only where a zero group or
    a blank behind another comma shows that it has some."""
    group = match.group().replace(",", "")
    if _HAS_ZERO_GROUP.search(match.group()):
        return group
    bracket = brackets[match.start()]
    if any(brackets[found.start()] == bracket for found in _BLANK_COMMA.finditer(text)):
        return group
    is_among_others = any(
        character == "," and brackets[position] == bracket and not match.start() <= position < match.end()
        for position, character in enumerate(text)
    )
    is_tuple = bracket >= 0 and (text[bracket] in "([" or text[bracket - 1 : bracket] == "\\")
    return match.group() if is_among_others or is_tuple else group
