r"""Answers of several parts: lists, tuples, sets, intervals, unions, matrices, cases, compared part by part."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from verl_ext.reward.math.equations import read_equation, tuple_of_names
from verl_ext.reward.math.normalise import key
from verl_ext.reward.math.parts import (
    are_vectors,
    in_order_of_names,
    names_of,
    spread_plus_minus,
    without_names,
)
from verl_ext.reward.math.structure import OTHERWISE, Group, Leaf, connector, read_structure

Shape = Leaf | Group
_DESCRIBES_A_SET = ("<", ">", "\\le", "\\ge", "\\ne", "\\in ", "\\cap", "\\cup", "\\setminus", "\\mathbb", "\\mid")
_TEXT_MARKS = ("\\text", "matrix", "cases", "\\pm", "\\mp", "\\forall")


def all_of(results: Iterable[bool | None]) -> bool | None:
    """Three-valued and: one False settles it, whatever is not known."""
    unknown = False
    for result in results:
        if result is False:
            return False
        unknown |= result is None
    return None if unknown else True


class ShapeComparison(ABC):
    """Compares shapes; what a single expression is, and what symbols say, its subclass knows."""

    @abstractmethod
    def leaves(self, gold: str, answer: str) -> bool | None:
        """Two single expressions."""

    @abstractmethod
    def ask(self, gold: str, answer: str, kind: str) -> bool | None:
        """What symbols say; None where there are none here."""

    def shapes(self, gold: Shape, answer: Shape) -> bool | None:
        """Two shapes of any kind."""
        if isinstance(gold, Leaf) and isinstance(answer, Leaf):
            return self.leaves(gold.text, answer.text)
        if isinstance(gold, Leaf) or isinstance(answer, Leaf):
            return self._leaf_and_group(gold, answer)
        if gold.variable and answer.variable and key(gold.variable) != key(answer.variable):
            return False
        kinds = {gold.kind, answer.kind}
        if kinds <= {"list", "set"}:
            if kinds == {"list"} and _has_conditions(gold) and connector(gold) != connector(answer):
                return self.ask(gold.text, answer.text, "set")
            return self._lists(gold, answer)
        if kinds == {"list", "bracket"}:
            return self._list_and_bracket(gold, answer)
        if kinds <= {"union", "bracket", "set", "list"}:
            return self._real_sets(gold, answer)
        if kinds == {"cases"}:
            return self._cases(gold, answer)
        if kinds == {"matrix"}:
            return self._matrices(gold, answer)
        if kinds in ({"sequence"}, {"row"}):
            return self._in_order(gold.items, answer.items)
        return False

    def _list_and_bracket(self, gold: Group, answer: Group) -> bool | None:
        """`3, 4` is (3, 4) in this order; `x < 1 or x > 2` is a set."""
        listed = gold if gold.kind == "list" else answer
        if _has_conditions(listed):
            return self._real_sets(gold, answer)
        if names_of(listed.items):
            return self._in_order(*(_values(group) for group in (gold, answer)))
        return self._in_order(without_names(gold.items), without_names(answer.items))

    def _real_sets(self, gold: Group, answer: Group) -> bool | None:
        """Intervals, unions and finite sets: equal part by part, or as sets."""
        kinds = {gold.kind, answer.kind}
        if kinds == {"bracket"}:
            if gold.ends != answer.ends and not are_vectors(gold, answer):
                return False
            return self._in_order(gold.items, answer.items)
        if kinds == {"bracket", "set"}:
            return False  # an ordered pair is no set, and an interval has no finite number of elements
        if kinds <= {"union", "list"} and all(_is_union(group) for group in (gold, answer)):
            by_parts = self._any_order(gold.items, answer.items)
            if by_parts is not False:
                return by_parts
        return self.ask(gold.text, answer.text, "set")

    def _leaf_and_group(self, gold: Shape, answer: Shape) -> bool | None:
        r"""A single `\pm` stands for two answers; a set or list of one stands for its element; else unlike things."""
        leaf, group = (gold, answer) if isinstance(gold, Leaf) else (answer, gold)
        turned = leaf is answer
        spread = spread_plus_minus(leaf)
        if len(spread) > 1 and group.kind in ("list", "set"):
            items = tuple(part for item in group.items for part in spread_plus_minus(item))
            return self._any_order(items, spread) if turned else self._any_order(spread, items)
        if group.kind in ("set", "list") and len(group.items) == 1:
            return self.shapes(group.items[0], leaf) if turned else self.shapes(leaf, group.items[0])
        equation = read_equation(leaf.text)
        if equation and equation.name:
            inner = _named_shape(equation.name, equation.value, group)
            if isinstance(inner, Group):
                return self.shapes(group, inner) if turned else self.shapes(inner, group)
        if group.kind == "matrix":  # a product of matrices, or the value of a determinant
            may_be_one = "matrix" in leaf.text or group.ends
            return self.ask(gold.text, answer.text, "expression") if may_be_one else False
        if any(mark in leaf.text for mark in _DESCRIBES_A_SET):
            return self.ask(gold.text, answer.text, "set")
        return None if any(mark in leaf.text for mark in (*_TEXT_MARKS, "=")) else False

    def _lists(self, gold: Group, answer: Group) -> bool | None:
        gold_items = tuple(part for item in gold.items for part in spread_plus_minus(item))
        answer_items = tuple(part for item in answer.items for part in spread_plus_minus(item))
        gold_names, answer_names = names_of(gold_items), names_of(answer_items)
        if gold_names and answer_names and sorted(gold_names) != sorted(answer_names):
            letters = {name.partition("_")[0] for name in (*gold_names, *answer_names)}
            if len(letters) > 1 or letters not in (set(gold_names), set(answer_names)):
                return False
            return self._any_order(without_names(gold_items), without_names(answer_items))  # x_1, x_2 are the roots x
        if bool(gold_names) != bool(answer_names):
            distinct = len(set(gold_names or answer_names)) > 1
            if distinct:
                return self._in_order(
                    in_order_of_names(gold_items) if gold_names else without_names(gold_items),
                    in_order_of_names(answer_items) if answer_names else without_names(answer_items),
                )
            return self._any_order(without_names(gold_items), without_names(answer_items))
        return self._any_order(gold_items, answer_items)

    def _matrices(self, gold: Group, answer: Group) -> bool | None:
        if bool(gold.ends) != bool(answer.ends):
            return False  # a determinant is a number
        by_parts = self._in_order(gold.items, answer.items)
        if by_parts is False and gold.ends:
            return self.ask(gold.text, answer.text, "expression")
        return by_parts

    def _cases(self, gold: Group, answer: Group) -> bool | None:
        """Each value with its condition, in any order; `otherwise` stands for the one condition that is left."""
        gold_rest, gold_rows = _without_otherwise(gold)
        answer_rest, answer_rows = _without_otherwise(answer)
        if len(gold.items) != len(answer.items):
            return False
        if (gold_rest is None) == (answer_rest is None):
            rest = True if gold_rest is None else self.shapes(gold_rest, answer_rest)
            return all_of((self._any_order(gold_rows, answer_rows), rest))
        turned = gold_rest is None
        rest, few, many = (answer_rest, answer_rows, gold_rows) if turned else (gold_rest, gold_rows, answer_rows)
        unknown = False
        for position, row in enumerate(many):
            others = many[:position] + many[position + 1 :]
            pair = (row.items[0], rest) if turned else (rest, row.items[0])
            rows = (others, few) if turned else (few, others)
            result = all_of((self.shapes(*pair), self._any_order(*rows)))
            if result:
                return True
            unknown |= result is None
        return None if unknown else False

    def _in_order(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool | None:
        if len(gold) != len(answer):
            return False
        return all_of(self.shapes(one, other) for one, other in zip(gold, answer, strict=True))

    def _any_order(self, gold: Sequence[Shape], answer: Sequence[Shape]) -> bool | None:
        """Each gold item pairs with its own answer item; equality is transitive, so the first match will do."""
        if len(gold) != len(answer):
            return False
        left, open_items = list(answer), []
        for item in gold:
            results = []
            for position, other in enumerate(left):
                results.append(self.shapes(item, other))
                if results[-1]:
                    del left[position]
                    break
            else:
                if None not in results:
                    return False  # it equals none of them
                open_items.append(item)
        return None if open_items else True


def _values(group: Group) -> tuple[Shape, ...]:
    return in_order_of_names(group.items) if names_of(group.items) else group.items


def _named_shape(name: str, value: str, group: Group) -> Shape:
    """The value of a named leaf; `(x,y) = (1,2)` beside `x = 1, y = 2` as such a list."""
    inner = read_structure(value)
    names = tuple_of_names(name)
    has_names = group.kind in ("list", "set") and names_of(group.items)
    if has_names and isinstance(inner, Group) and len(names) == len(inner.items):
        return Group("list", tuple(Leaf(f"{one}={_text(item)}") for one, item in zip(names, inner.items, strict=True)))
    return inner


def _text(shape: Shape) -> str:
    return shape.text


def _is_union(group: Group) -> bool:
    if group.kind == "union":
        return True
    return connector(group) == "or" and all(isinstance(item, Group) for item in group.items)


def _has_conditions(group: Group) -> bool:
    """Whether a list holds inequalities, `x < 1 or x > 2`."""
    return any(isinstance(item, Group) and item.variable for item in group.items)


def _without_otherwise(cases: Group) -> tuple[Shape | None, tuple[Group, ...]]:
    """The value of the row `otherwise`, and the other rows."""
    rest, rows = None, []
    for row in cases.items:
        if row.items[1] == Leaf(OTHERWISE):
            rest = row.items[0]
        else:
            rows.append(row)
    return rest, tuple(rows)
