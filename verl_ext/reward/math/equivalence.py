r"""Whether two answers are the same answer: cheap and exact first, symbols only where nothing else decides.

Each comparison is True, False or None. None means that only symbols can tell; `equivalent` is then called again
with a `symbolic` comparison, in a process that may be killed (see `confined`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from verl_ext.reward.math.exact_number import ExactNumber, has_thousands_separators, read_number
from verl_ext.reward.math.normalise import key, normalise
from verl_ext.reward.math.parts import (
    are_vectors,
    before_approximation,
    name_and_value,
    names_of,
    read_percent,
    same_choice,
    same_numeral,
    same_words,
    spread_plus_minus,
    unwrapped,
    without_names,
)
from verl_ext.reward.math.structure import Group, Leaf, read_structure
from verl_ext.reward.math.units import Quantity, split_unit
from verl_ext.reward.policy import GradingPolicy

Symbolic = Callable[[str, str, str], bool | None]
"""(gold, answer, "expression" or "equation") -> whether they are equal, None where it could not be told."""


def equivalent(gold: str, answer: str, policy: GradingPolicy, symbolic: Symbolic | None = None) -> bool | None:
    """Whether `answer` is `gold`.

    Args:
        gold: the right answer, as the data has it.
        answer: what was extracted from the response.
        policy: the choices where the field disagrees.
        symbolic: decides what text and numbers cannot; without it such a pair gives None.
    """
    return _Comparison(policy, symbolic).texts(normalise(gold), normalise(answer))


def _all(results: Iterable[bool | None]) -> bool | None:
    """Three-valued and: one False settles it, whatever is not known."""
    unknown = False
    for result in results:
        if result is False:
            return False
        unknown |= result is None
    return None if unknown else True


class _Comparison:
    def __init__(self, policy: GradingPolicy, symbolic: Symbolic | None) -> None:
        self.policy = policy
        self.symbolic = symbolic

    def texts(self, gold: str, answer: str) -> bool | None:
        """Two normalised answers, before anything is known about their shape."""
        if not gold or not answer:
            return False
        if key(gold) == key(answer):
            return True
        numbers = self.numbers(gold, answer)
        if numbers is not None:
            return numbers or self._list_with_bare_commas(gold, answer)
        if same_words(gold, answer):
            return True
        choice = same_choice(gold, answer)
        if choice is not None:
            return choice
        return self.shapes(read_structure(unwrapped(gold)), read_structure(unwrapped(answer)))

    def _list_with_bare_commas(self, gold: str, answer: str) -> bool | None:
        """`7,144` was read as a number: where the other side is `144,7`, both are lists."""
        if has_thousands_separators(gold) and "," in answer or has_thousands_separators(answer) and "," in gold:
            return self.shapes(read_structure(gold), read_structure(answer))
        return False

    # Shapes

    def shapes(self, gold: Leaf | Group, answer: Leaf | Group) -> bool | None:
        if isinstance(gold, Leaf) and isinstance(answer, Leaf):
            return self.leaves(gold.text, answer.text)
        if isinstance(gold, Leaf) or isinstance(answer, Leaf):
            return self._leaf_and_group(gold, answer)
        if gold.variable and answer.variable and key(gold.variable) != key(answer.variable):
            return False
        kinds = {gold.kind, answer.kind}
        if kinds <= {"list", "set"}:
            return self._lists(gold, answer)
        if kinds == {"union"}:
            return self._any_order(gold.items, answer.items)
        if kinds == {"list", "bracket"}:
            return self._in_order(without_names(gold.items), without_names(answer.items))
        if kinds == {"bracket"} and gold.ends != answer.ends and not are_vectors(gold, answer):
            return False
        if kinds in ({"bracket"}, {"sequence"}, {"row"}) or (kinds == {"matrix"} and gold.ends == answer.ends):
            return self._in_order(gold.items, answer.items)
        return False

    def _leaf_and_group(self, gold: Leaf | Group, answer: Leaf | Group) -> bool | None:
        r"""A single `\pm` stands for two answers; a set or list of one stands for its element; else unlike things."""
        leaf, group = (gold, answer) if isinstance(gold, Leaf) else (answer, gold)
        spread = spread_plus_minus(leaf)
        if len(spread) > 1 and group.kind in ("list", "set"):
            items = tuple(part for item in group.items for part in spread_plus_minus(item))
            return self._any_order(spread, items) if leaf is gold else self._any_order(items, spread)
        if group.kind == "set" and len(group.items) == 1:
            return self.shapes(leaf, group.items[0]) if leaf is gold else self.shapes(group.items[0], leaf)
        named = name_and_value(leaf.text)
        if named and named[0]:
            inner = read_structure(named[1])
            if isinstance(inner, Group):
                return self.shapes(inner, group) if leaf is gold else self.shapes(group, inner)
        if group.kind == "matrix" and "matrix" in leaf.text:  # a factor before the matrix: only symbols can multiply
            return self.symbolic(gold.text, answer.text, "expression") if self.symbolic else None
        return False

    def _lists(self, gold: Group, answer: Group) -> bool | None:
        gold_items = tuple(part for item in gold.items for part in spread_plus_minus(item))
        answer_items = tuple(part for item in answer.items for part in spread_plus_minus(item))
        gold_names, answer_names = names_of(gold_items), names_of(answer_items)
        if gold_names and answer_names and sorted(gold_names) != sorted(answer_names):
            return False
        if bool(gold_names) != bool(answer_names):
            distinct = len(set(gold_names or answer_names)) > 1
            compare = self._in_order if distinct else self._any_order
            return compare(without_names(gold_items), without_names(answer_items))
        return self._any_order(gold_items, answer_items)

    def _in_order(self, gold: Sequence[Leaf | Group], answer: Sequence[Leaf | Group]) -> bool | None:
        if len(gold) != len(answer):
            return False
        return _all(self.shapes(one, other) for one, other in zip(gold, answer, strict=True))

    def _any_order(self, gold: Sequence[Leaf | Group], answer: Sequence[Leaf | Group]) -> bool | None:
        """Each gold item pairs with its own answer item; equality is transitive, so the first match will do."""
        if len(gold) != len(answer):
            return False
        left, unknown = list(answer), False
        for item in gold:
            found = None
            for position, other in enumerate(left):
                result = self.shapes(item, other)
                if result:
                    found = position
                    break
                unknown |= result is None
            if found is None:
                return None if unknown else False
            del left[found]
        return True

    # Single expressions

    def leaves(self, gold: str, answer: str) -> bool | None:
        gold, answer = before_approximation(gold), before_approximation(answer)
        if key(gold) == key(answer):
            return True
        for rule in (self._equations, self.numbers, same_numeral, same_words, self._quantities, self._plus_minus):
            result = rule(gold, answer)
            if result is not None:
                return result
        if self.symbolic is None:
            return None
        return self.symbolic(gold, answer, "expression")

    def numbers(self, gold: str, answer: str) -> bool | None:
        """Two numbers; None where either is not one."""
        gold_number, gold_percent = read_percent(gold)
        if gold_number is None:
            return None
        answer_number, answer_percent = read_percent(answer)
        if answer_number is None:
            return None
        return self._same_number(gold_number, answer_number, gold_percent, answer_percent)

    def _same_number(self, gold: ExactNumber, answer: ExactNumber, gold_percent: bool, answer_percent: bool) -> bool:
        if self.policy.percent == "any":
            return any(self._close(gold, answer, factor) for factor in (Fraction(1), Fraction(100), Fraction(1, 100)))
        if gold_percent == answer_percent:
            return self._close(gold, answer, Fraction(1))
        percent = gold if gold_percent else answer
        # Problems that ask for a percentage have golds such as 50 and answers such as 50%. Up to 1 the sign
        # is never left out, or 0.5% would pass for 0.5.
        sign_left_out = abs(percent.value) > 1 and self._close(gold, answer, Fraction(1))
        as_value = Fraction(1, 100) if answer_percent else Fraction(100)
        return sign_left_out or self._close(gold, answer, as_value)

    def _close(self, gold: ExactNumber, answer: ExactNumber, factor: Fraction) -> bool:
        distance = abs(gold.value - answer.value * factor)
        if distance == 0:
            return True
        if self.policy.absolute_tolerance and distance <= Fraction(self.policy.absolute_tolerance):
            return True
        if not self.policy.relative_tolerance:
            return False
        is_measured = self.policy.tolerance_for == "all" or gold.is_decimal
        return is_measured and distance <= abs(gold.value) * Fraction(self.policy.relative_tolerance)

    def _equations(self, gold: str, answer: str) -> bool | None:
        """`x = 5` is 5; `y = 2x + 3` is a line, compared as one; None where neither has an equals sign."""
        gold_named, answer_named = name_and_value(gold), name_and_value(answer)
        if gold_named is None and answer_named is None:
            return None
        gold_name, gold_value = gold_named or ("", gold)
        answer_name, answer_value = answer_named or ("", answer)
        if gold_named and answer_named:
            if gold_name and key(gold_name) == key(answer_name):
                return self.texts(gold_value, answer_value)
            return self.symbolic(gold, answer, "equation") if self.symbolic else None
        if (gold_named and not gold_name) or (answer_named and not answer_name):
            return False  # 2x + 3y = 6 is not the expression 2x + 3y
        return self.texts(gold_value, answer_value)

    def _quantities(self, gold: str, answer: str) -> bool | None:
        """Two leaves of which at least one has a unit."""
        gold_quantity, answer_quantity = split_unit(gold), split_unit(answer)
        if gold_quantity.loose and not (answer_quantity.name and not answer_quantity.loose):
            gold_quantity = Quantity(gold)
        if answer_quantity.loose and not gold_quantity.name:
            answer_quantity = Quantity(answer)
        if not gold_quantity.name and not answer_quantity.name:
            return None
        if not gold_quantity.name or not answer_quantity.name:
            if self.policy.units == "required" and gold_quantity.name:
                return False
            return self.texts(gold_quantity.text, answer_quantity.text)
        if gold_quantity.dimension != answer_quantity.dimension:
            return False
        if gold_quantity.dimension is None or gold_quantity.scale == answer_quantity.scale:
            unknown_units_differ = gold_quantity.dimension is None and gold_quantity.name != answer_quantity.name
            return False if unknown_units_differ else self.texts(gold_quantity.text, answer_quantity.text)
        gold_number, answer_number = read_number(gold_quantity.text), read_number(answer_quantity.text)
        if gold_number is None or answer_number is None:
            return False
        return self._close(gold_number, answer_number, answer_quantity.scale / gold_quantity.scale)

    def _plus_minus(self, gold: str, answer: str) -> bool | None:
        gold_spread, answer_spread = spread_plus_minus(Leaf(gold)), spread_plus_minus(Leaf(answer))
        return None if len(gold_spread) == len(answer_spread) == 1 else self._any_order(gold_spread, answer_spread)
