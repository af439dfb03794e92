r"""Whether two answers are the same answer: cheap and exact first, symbols only where nothing else decides.

Each comparison is True, False or None. None means that only symbols can tell; `equivalent` is then called again
with a `symbolic` comparison, in a process that may be killed (see `confined`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from fractions import Fraction

from verl_ext.reward.exact_number import ExactNumber, has_thousands_separators, read_number
from verl_ext.reward.normalise import key, normalise
from verl_ext.reward.policy import GradingPolicy
from verl_ext.reward.structure import Group, Leaf, read_structure, split_top_level
from verl_ext.reward.units import Quantity, split_unit

Symbolic = Callable[[str, str, str], bool | None]
"""(gold, answer, "expression" or "equation") -> whether they are equal, None where it could not be told."""

_NAMED = re.compile(
    r"((?:[a-zA-Z]|\\[a-zA-Z]{2,8})(?:_(?:\w|\{[^{}]{1,20}\}|\\[a-z]{2,6}\b))?'{0,2}"
    r"(?:\([a-zA-Z](?:,[a-zA-Z]){0,3}\))?) ?= ?(.+)",
    re.DOTALL,
)
_EQUALS = re.compile(r"(?<![<>!\\])=")
_APPROXIMATELY = re.compile(r"\\approx|\\simeq|≈")
_WORDS = re.compile(r"(?:[A-Za-z]{2,}|[A-Za-z](?= ))(?:[ -][A-Za-z]+)*")
_CHOICE = re.compile(r"\(?([A-Ja-j])\)|([A-J])")
_CHOICE_THEN_TEXT = re.compile(r"(?:\(([A-J])\)|([A-J])[).:]) ?.{1,500}", re.DOTALL)
_BASE = re.compile(r"([0-9A-Za-z,]{1,100})_(?:\{(?:\\text\{)?(\d{1,2}|[a-z]{2,12})\}?\}|(\d{1,2}))")
_PLUS_MINUS = re.compile(r"\\pm(?![a-z]) ?")
_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")


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
        choice = _choices(gold, answer)
        if choice is not None:
            return choice
        return self.shapes(read_structure(_unwrapped(gold)), read_structure(_unwrapped(answer)))

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
            return self._in_order(_without_names(gold.items), _without_names(answer.items))
        if kinds == {"bracket"} and gold.ends != answer.ends and not _same_ends_do_not_matter(gold, answer):
            return False
        if kinds in ({"bracket"}, {"sequence"}, {"row"}) or (kinds == {"matrix"} and gold.ends == answer.ends):
            return self._in_order(gold.items, answer.items)
        return False

    def _leaf_and_group(self, gold: Leaf | Group, answer: Leaf | Group) -> bool | None:
        r"""A single `\pm` stands for two answers; a set or list of one stands for its element; else unlike things."""
        leaf, group = (gold, answer) if isinstance(gold, Leaf) else (answer, gold)
        spread = _spread(leaf)
        if len(spread) > 1 and group.kind in ("list", "set"):
            items = tuple(part for item in group.items for part in _spread(item))
            return self._any_order(spread, items) if leaf is gold else self._any_order(items, spread)
        if group.kind == "set" and len(group.items) == 1:
            return self.shapes(leaf, group.items[0]) if leaf is gold else self.shapes(group.items[0], leaf)
        named = _NAMED.fullmatch(leaf.text)
        if named and group.kind in ("bracket", "set", "union", "matrix", "list", "sequence"):
            inner = read_structure(named.group(2))
            if isinstance(inner, Group):
                return self.shapes(inner, group) if leaf is gold else self.shapes(group, inner)
        if group.kind == "matrix" and "matrix" in leaf.text:  # a factor before the matrix: only symbols can multiply
            return self.symbolic(gold.text, answer.text, "expression") if self.symbolic else None
        return False

    def _lists(self, gold: Group, answer: Group) -> bool | None:
        gold_items = tuple(part for item in gold.items for part in _spread(item))
        answer_items = tuple(part for item in answer.items for part in _spread(item))
        gold_names, answer_names = _names(gold_items), _names(answer_items)
        if gold_names and answer_names and sorted(gold_names) != sorted(answer_names):
            return False
        if bool(gold_names) != bool(answer_names):
            distinct = len(set(gold_names or answer_names)) > 1
            compare = self._in_order if distinct else self._any_order
            return compare(_without_names(gold_items), _without_names(answer_items))
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
        gold, answer = _before_approximation(gold), _before_approximation(answer)
        if key(gold) == key(answer):
            return True
        for rule in (self._equations, self.numbers, _based, _words, self._quantities, self._plus_minus):
            result = rule(gold, answer)
            if result is not None:
                return result
        if self.symbolic is None:
            return None
        return self.symbolic(gold, answer, "expression")

    def numbers(self, gold: str, answer: str) -> bool | None:
        """Two numbers; None where either is not one."""
        gold_number, gold_percent = _number_or_percent(gold)
        if gold_number is None:
            return None
        answer_number, answer_percent = _number_or_percent(answer)
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
        gold_named, answer_named = _name_and_value(gold), _name_and_value(answer)
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
        if not (_PLUS_MINUS.search(gold) or _PLUS_MINUS.search(answer)):
            return None
        return self._any_order(_spread(Leaf(gold)), _spread(Leaf(answer)))


def _number_or_percent(text: str) -> tuple[ExactNumber | None, bool]:
    is_percent = text.endswith("%")
    return read_number(text.rstrip("%").rstrip() if is_percent else text), is_percent


def _unwrapped(text: str) -> str:
    r"""Without one pair of braces or `\text{}` around everything."""
    found = _TEXT.fullmatch(text)
    if found:
        return found.group(1).strip()
    if text.startswith("{") and text.endswith("}") and split_top_level(text[1:-1], "\0") is not None:
        return text[1:-1].strip()
    return text


def _choices(gold: str, answer: str) -> bool | None:
    """Letters of a multiple choice: (C), C, `C) 12`; None where the gold is no letter."""
    gold_choice = _CHOICE.fullmatch(_unwrapped(gold))
    if gold_choice is None:
        return None
    letter = (gold_choice.group(1) or gold_choice.group(2)).upper()
    plain = _TEXT.sub(r"\1", answer).strip()
    answer_choice = _CHOICE.fullmatch(plain) or _CHOICE_THEN_TEXT.fullmatch(plain)
    if answer_choice is None:
        return None if gold_choice.group(2) else False  # a bare capital may be a variable as well
    return letter == (answer_choice.group(1) or answer_choice.group(2)).upper()


def _words(gold: str, answer: str) -> bool | None:
    """Answers in words (`east`, `Evelyn`): the same words, whatever their case."""
    gold_words, answer_words = _TEXT.sub(r"\1", gold).strip(), _TEXT.sub(r"\1", answer).strip()
    if not _WORDS.fullmatch(gold_words) or ("\\text" not in gold and len(gold_words) < 4):
        return None
    return gold_words.casefold() == answer_words.casefold()


def _based(gold: str, answer: str) -> bool | None:
    """`52_8` and `52_{8}` are a numeral in a base: the same digits in the same base."""
    gold_based, answer_based = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if not any(found and found.group(1)[0].isdigit() for found in (gold_based, answer_based)):
        return None
    if gold_based is None or answer_based is None:
        return False
    return key(gold_based.group(1)) == key(answer_based.group(1)) and (gold_based.group(2) or gold_based.group(3)) == (
        answer_based.group(2) or answer_based.group(3)
    )


def _before_approximation(text: str) -> str:
    found = _APPROXIMATELY.search(text)
    return text[: found.start()].strip() if found and text[: found.start()].strip() else text


def _name_and_value(text: str) -> tuple[str, str] | None:
    """(`x`, `5`) of `x = 5`; an empty name where the left side is more than a name; None without an equals sign."""
    parts = _EQUALS.split(text)
    if len(parts) < 2:
        return None
    named = _NAMED.fullmatch(text)
    if named is None:
        return "", text
    return named.group(1), parts[-1].strip()


def _names(items: Sequence[Leaf | Group]) -> list[str]:
    """The names of `x=1, y=2`, or nothing unless every item is named."""
    names = []
    for item in items:
        named = _name_and_value(item.text) if isinstance(item, Leaf) else None
        if not named or not named[0]:
            return []
        names.append(key(named[0]))
    return names


def _without_names(items: Sequence[Leaf | Group]) -> tuple[Leaf | Group, ...]:
    """Drop the name from each named item, so `x=1, x=2` is `1, 2`, and `x=1, 2` too."""
    plain = []
    for item in items:
        named = _name_and_value(item.text) if isinstance(item, Leaf) else None
        plain.append(read_structure(named[1]) if named and named[0] else item)
    return tuple(plain)


def _spread(item: Leaf | Group) -> tuple[Leaf | Group, ...]:
    r"""The two expressions that `a \pm b` stands for, or the item itself."""
    if isinstance(item, Group) or not _PLUS_MINUS.search(item.text):
        return (item,)
    return Leaf(_PLUS_MINUS.sub("+", item.text).lstrip("+")), Leaf(_PLUS_MINUS.sub("-", item.text))


def _same_ends_do_not_matter(gold: Group, answer: Group) -> bool:
    """`[1,2,3]` is the vector (1,2,3): with more than two parts no bracket can be an interval."""
    return len(gold.items) > 2 and {gold.ends, answer.ends} == {"()", "[]"}
