r"""Sets of real numbers in two forms: `x \ne 0` and its union of intervals, `-x > -1` and `x < 1`, `x^2 < 4`.

For the confined worker only.
"""

from __future__ import annotations

import sympy
from sympy.core.relational import Relational

from verl_ext.reward.math.structure import Group, Leaf, connector, read_structure
from verl_ext.reward.math.symbolic import Unparsable, is_undefined, parse


def same_set(gold: str, answer: str) -> bool | None:
    """Whether two normalised texts describe the same set of real numbers; None where either is no such set for us."""
    gold_set, gold_letters = _read(read_structure(gold))
    answer_set, answer_letters = _read(read_structure(answer))
    if gold_set is None or answer_set is None:
        return None
    if gold_letters and answer_letters and gold_letters != answer_letters:
        return False
    if gold_set == answer_set:
        return True
    difference = sympy.SymmetricDifference(gold_set, answer_set)
    return difference.is_empty


def _read(shape: Leaf | Group) -> tuple[sympy.Set | None, frozenset[str]]:
    """The set, and the name of the variable where it has one."""
    if isinstance(shape, Leaf):
        return _read_relation(shape.text)
    named = frozenset({shape.variable}) if shape.variable else frozenset()
    if shape.kind == "bracket" and len(shape.items) == 2:
        ends = [_number(item) for item in shape.items]
        if None in ends or any(end.is_extended_real is not True for end in ends):
            return None, named
        return sympy.Interval(*ends, shape.ends[0] == "(", shape.ends[1] == ")"), named
    if shape.kind == "set":
        elements = [_number(item) for item in shape.items]
        return (None, named) if None in elements else (sympy.FiniteSet(*elements), named)
    joined_by = "or" if shape.kind == "union" else connector(shape) if shape.kind == "list" else ""
    parts = [_read(item) for item in shape.items] if joined_by in ("or", "and") else []
    letters = named.union(*(names for _, names in parts)) if parts else named
    if not parts or len(letters) > 1 or any(part is None for part, _ in parts):
        return None, letters
    join = sympy.Union if joined_by == "or" else sympy.Intersection
    return join(*(part for part, _ in parts)), letters


def _number(shape: Leaf | Group) -> sympy.Expr | None:
    if not isinstance(shape, Leaf):
        return None
    try:
        parsed = parse(shape.text)
    except Unparsable:
        return None
    is_number = isinstance(parsed, sympy.Expr) and not parsed.free_symbols and not is_undefined(parsed)
    return parsed if is_number else None


def _read_relation(text: str) -> tuple[sympy.Set | None, frozenset[str]]:
    r"""What satisfies a relation in one unknown, and sets that the grammar reads (`A \cap B`)."""
    try:
        parsed = parse(text)
    except Unparsable:
        return None, frozenset()
    if isinstance(parsed, sympy.Set) and not parsed.free_symbols:
        return parsed, frozenset()
    is_relation = isinstance(parsed, Relational | sympy.And | sympy.Or) and not isinstance(parsed, sympy.Equality)
    if not is_relation or len(parsed.free_symbols) != 1:
        return None, frozenset()
    (letter,) = parsed.free_symbols
    real = sympy.Symbol(letter.name, real=True)
    try:
        return parsed.subs(letter, real).as_set(), frozenset({letter.name})
    except (NotImplementedError, TypeError, ValueError):
        return None, frozenset({letter.name})
