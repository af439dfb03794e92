r"""The shape of an answer: a list, a tuple, a set, an interval, a union, a matrix, or a single expression (a leaf).

Works on normalised text. An answer whose brackets do not match, or that nests deeper than `MAX_DEPTH`, is a leaf.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from itertools import pairwise

from verl_ext.reward.math.exact_number import read_number
from verl_ext.reward.math.normalise import key

MAX_DEPTH = 8
MAX_ITEMS = 500

_OPEN, _CLOSE = "([{", ")]}"
_CASES = re.compile(r"\\begin\{cases\}((?:(?!\\begin).){0,4000}?)\\end\{cases\}", re.DOTALL)
_ROW_END = re.compile(r"\\\\(?:\[[^\]]{0,10}\])?|\\cr(?![a-z])")
_IF = re.compile(
    r"[ ,;]{0,3}\\text ?\{[ ,;]{0,3}(?:if|for|when|where)?[ ,;]{0,3}\}[ ,;]{0,3}|[ ,;]{1,3}(?:if|for|when) "
)
OTHERWISE = "\\text{otherwise}"
_OTHERWISE = re.compile(r"\\text ?\{[ ,;]{0,3}(?:otherwise|else)[ .,;]{0,3}\}|[ ,]*(?:otherwise|else)")
_MATRIX = re.compile(
    r"\\begin\{((?:[pbvBV]|small)?matrix|array)\}(?:\{[clr| ]{0,20}\})?((?:(?!\\begin).){0,4000}?)\\end\{\1\}",
    re.DOTALL,
)
_CONNECTOR = re.compile(r" ?\\text ?\{[ ,]{0,3}(?:and|or)[ ,]{0,3}\} ?|(?:, ?| )(?:and|or) |;")
_SIGN = re.compile(r"[<>]|\\[lg]e(?![a-z])")
_UP, _DOWN = r"(<|\\le(?![a-z]))", r"(>|\\ge(?![a-z]))"
_RANGE = re.compile(rf"([^<>]{{1,200}}?){_UP}([^<>]{{1,60}}?){_UP}([^<>]{{1,200}})")
_FALLING_RANGE = re.compile(rf"([^<>]{{1,200}}?){_DOWN}([^<>]{{1,60}}?){_DOWN}([^<>]{{1,200}})")
_HALF_LINE = re.compile(rf"([^<>,]{{1,200}}?)(?:{_UP}|{_DOWN})([^<>,]{{1,200}})")
_VARIABLE_TEXT = r"(?:[a-zA-Z](?:_\{?\w{1,3}\}?)?|\\(?:theta|alpha|beta|gamma|lambda|mu|phi|omega|tau))"
_NOT_THIS = re.compile(rf"({_VARIABLE_TEXT}) ?\\ne ?(.{{1,80}})")
_WITHOUT = re.compile(r"(?:\\mathbb ?\{?R\}?)(?:\\setminus|-|/)\\\{(.{1,80})\\\}")
_BUILDER = re.compile(
    rf"\\\{{ ?({_VARIABLE_TEXT}) ?(?:\\in ?\\mathbb ?\{{?R\}}? ?)?(?:\\mid|:|\|) ?(.{{1,300}})\\\}}", re.DOTALL
)
_REALS = re.compile(
    r"\\mathbb ?\{?R\}?|(?:\\text ?\{)? ?all real(?:s| numbers| values| values of [a-z]| numbers [a-z])? ?\}?"
)
_NOTHING = re.compile(r"\\emptyset|(?:\\text ?\{)? ?(?:the )?empty set ?\}?")
_MEMBER = re.compile(r"([a-zA-Z](?:_\{?\w\}?)?|\\[a-z]{2,8}) ?\\in(?![a-z]) ?(.{1,500})")
_VARIABLE = re.compile(_VARIABLE_TEXT)


_OR = re.compile(r"(?<![a-z])or(?![a-z])|\\lor(?![a-z])")
_AND = re.compile(r"(?<![a-z])and(?![a-z])|\\land(?![a-z])")


@dataclass(frozen=True)
class Leaf:
    """One expression, as text."""

    text: str


@dataclass(frozen=True)
class Group:
    r"""Several parts.

    kind: `list` (bare, `1, 2`), `set` (`\{1, 2\}`), `sequence` (has dots in it: `1, 3, \ldots`), `bracket` (a pair of
    brackets named by `ends`), `union`, `matrix` (items of kind `row`; `ends` tells a determinant from a matrix),
    `cases` (rows of a value and its condition).
    """

    kind: str
    items: tuple[Leaf | Group, ...]
    ends: str = ""
    variable: str = ""
    r"""The name in `x \in ...` or `1 < x < 3`, empty where the answer names none."""
    text: str = field(default="", compare=False)
    """The normalised text it was read from."""


def connector(group: Group) -> str:
    """`or`, `and`, or `,` where a list of conditions says neither."""
    return "or" if _OR.search(group.text) else "and" if _AND.search(group.text) else ","


def read_structure(text: str, depth: int = 0) -> Leaf | Group:
    """The shape of a normalised answer."""
    text = text.strip()
    if depth > MAX_DEPTH or not text:
        return Leaf(text)
    for read in (_read_matrix, _read_cases, read_excluded, _read_list, read_number_set, _read_member, _read_union,
                 _read_brackets, _read_inequality):  # fmt: skip
        group = read(text, depth)
        if group is not None:
            return replace(group, text=text)
    return Leaf(text)


def split_top_level(text: str, separator: str) -> list[str] | None:
    """Parts of `text` between separators outside all brackets; None where brackets do not match.

    Intervals may open with one kind and close with the other, so `(` and `[` close each other.
    """
    parts, depth, braces, start, position = [], 0, 0, 0, 0
    while position < len(text):
        if depth == 0 and braces == 0 and text.startswith(separator, position):
            parts.append(text[start:position])
            position += len(separator)
            start = position
            continue
        character = text[position]
        if character == "\\":
            escaped = text[position + 1 : position + 2]
            braces += (escaped == "{") - (escaped == "}")
            position += 2 if escaped in ("{", "}", "\\") else 1
            if braces < 0:
                return None
            continue
        depth += (character in _OPEN) - (character in _CLOSE)
        if depth < 0:
            return None
        position += 1
    if depth or braces:
        return None
    return [*parts, text[start:]]


def _read_matrix(text: str, depth: int) -> Group | None:
    found = _MATRIX.fullmatch(text)
    if found is None:
        return None
    environment, body = found.groups()
    rows = _rows(body)
    if not rows or len(rows) > MAX_ITEMS:
        return None
    items = tuple(
        Group("row", tuple(read_structure(cell, depth + 1) for cell in row.split("&")), variable="") for row in rows
    )
    return Group("matrix", items, ends="| |" if environment in ("vmatrix", "Vmatrix") else "")


def _rows(body: str) -> list[str]:
    return [row for row in _ROW_END.split(body.replace("\\hline", "")) if row.strip()]


def _read_cases(text: str, depth: int) -> Group | None:
    """A value for each condition; cases of one column are a system, and so a list."""
    found = _CASES.fullmatch(text)
    if found is None:
        return None
    rows = [[_IF.sub("", cell).strip(" ,;") for cell in row.split("&", 1)]
            for row in (_OTHERWISE.sub(lambda _: f"&{OTHERWISE}" , row) if "&" not in row else
                        _OTHERWISE.sub(lambda _: OTHERWISE, row) for row in _rows(found.group(1)))]  # fmt: skip
    if not 2 <= len(rows) <= MAX_ITEMS or len({len(row) for row in rows}) != 1:
        return None
    if len(rows[0]) == 1:
        return Group("list", tuple(read_structure(row[0], depth + 1) for row in rows))
    return Group("cases", tuple(Group("row", (read_structure(value, depth + 1), read_structure(condition, depth + 1)))
                                for value, condition in rows))  # fmt: skip


def _read_list(text: str, depth: int) -> Group | None:
    parts = split_top_level(_CONNECTOR.sub(",", text), ",")
    if parts is None or not 2 <= len(parts) <= MAX_ITEMS:
        return None
    parts = [part.strip() for part in parts]
    if any(not part for part in parts):
        parts = [part for part in parts if part]
        if len(parts) < 2:
            return None
    if any(part == "\\ldots" or part == "..." for part in parts):
        return Group("sequence", tuple(Leaf(part) for part in parts))
    return Group("list", tuple(read_structure(part, depth + 1) for part in parts))


def _read_member(text: str, depth: int) -> Group | None:
    found = _MEMBER.fullmatch(text)
    if found is None:
        return None
    inner = read_structure(found.group(2), depth + 1)
    return Group(inner.kind, inner.items, inner.ends, found.group(1)) if isinstance(inner, Group) else None


def _read_union(text: str, depth: int) -> Group | None:
    parts = split_top_level(text, "\\cup")
    if parts is None or not 2 <= len(parts) <= MAX_ITEMS:
        return None
    return Group("union", tuple(read_structure(part, depth + 1) for part in parts))


def _read_brackets(text: str, depth: int) -> Group | None:
    builder = _BUILDER.fullmatch(text)
    if builder is not None:
        inner = read_structure(builder.group(2), depth + 1)
        name = getattr(inner, "variable", "")
        return inner if name and key(name) == key(builder.group(1)) else None
    if text.startswith("\\{") and text.endswith("\\}"):
        return _items_of(text[2:-2], "set", "", depth)
    if text[0] in "([" and text[-1] in ")]":
        return _items_of(text[1:-1], "bracket", text[0] + text[-1], depth)
    return None


def _items_of(inner: str, kind: str, ends: str, depth: int) -> Group | None:
    parts = split_top_level(inner, ";") if ";" in inner else split_top_level(inner, ",")
    if parts is None or len(parts) > MAX_ITEMS:
        return None
    if len(parts) == 1 and kind == "bracket":
        return None  # (x+1) and [x+1] only group
    if kind == "set" and re.search(r"\\mid|\\colon|[:|]", inner):
        return None  # a set described by a condition, not listed
    items = tuple(read_structure(part, depth + 1) for part in parts if part.strip())
    if any(item in (Leaf("\\ldots"), Leaf("...")) for item in items):
        return Group("sequence", items, ends)
    return Group(kind, items, ends)


def read_number_set(text: str, depth: int = 0) -> Group | None:
    r"""`\mathbb{R}` as the interval that it is, and the empty set."""
    if _REALS.fullmatch(text):
        return Group("bracket", (Leaf("-\\infty"), Leaf("\\infty")), "()")
    return Group("set", ()) if _NOTHING.fullmatch(text) else None


def read_excluded(text: str, depth: int = 0) -> Group | None:
    r"""`x \ne 0`, `x \ne 1, 2` and `\mathbb{R} \setminus \{1, 2\}` as unions of intervals."""
    if "\\ne" not in text and "\\mathbb" not in text:
        return None
    without = _WITHOUT.fullmatch(text)
    parts = split_top_level(_CONNECTOR.sub(",", without.group(1) if without else text), ",")
    if parts is None or len(parts) > MAX_ITEMS:
        return None
    name, values = "", []
    for position, part in enumerate(parts):
        found = _NOT_THIS.fullmatch(part.strip())
        if found is not None and (not name or name == found.group(1)) and not without:
            name, part = found.groups()
        elif position == 0 and not without:
            return None
        if re.search(r"\\ne(?![a-z])|[<>=]|\\[lg]e(?![a-z])|\\in(?![a-z])", part):
            return None
        values += [part.strip().replace("\\pm", sign, 1) for sign in ("-", "")] if "\\pm" in part else [part.strip()]
    numbers = [read_number(value) for value in values]
    if len(values) > 1:
        if None in numbers:
            return None
        values = [value for _, value in sorted(zip((number.value for number in numbers), values, strict=True))]
    bounds = ["-\\infty", *values, "\\infty"]
    return Group("union", tuple(Group("bracket", (Leaf(low), Leaf(high)), "()", name)
                                for low, high in pairwise(bounds)), variable=name)  # fmt: skip


def _read_inequality(text: str, depth: int) -> Group | None:
    r"""`1 < x \le 3` and `x > 2` as the intervals they are, with the name of the variable."""
    if "=" in text or not 1 <= len(_SIGN.findall(text)) <= 2:
        return None
    if found := _FALLING_RANGE.fullmatch(text):
        high, right, name, left, low = found.groups()
        return _interval(low, _FLIPPED[left], name, _FLIPPED[right], high)
    if found := _RANGE.fullmatch(text):
        return _interval(*found.groups())
    found = _HALF_LINE.fullmatch(text)
    if found is None:
        return None
    left, up, down, right = found.groups()
    sign = up or down
    if not _VARIABLE.fullmatch(left.strip()):
        left, right, sign = right, left, _FLIPPED[sign]
    if sign in ("<", "\\le"):
        return _interval("-\\infty", "<", left, sign, right)
    return _interval(right, _FLIPPED[sign], left, "<", "\\infty")


_FLIPPED = {"<": ">", ">": "<", "\\le": "\\ge", "\\ge": "\\le"}


def _interval(low: str, left: str, name: str, right: str, high: str) -> Group | None:
    if not _VARIABLE.fullmatch(name.strip()):
        return None
    ends = ("(" if left == "<" else "[") + (")" if right == "<" else "]")
    return Group("bracket", (Leaf(low.strip()), Leaf(high.strip())), ends, name.strip())
