r"""Whether two answers are the same answer: cheap and exact first, symbols only where nothing else decides.

Each comparison is True, False or None. True is a proof and False a refutation: two numbers that differ, another length,
another unit, an ordered pair in another order, values that differ at a point. None is neither, and goes to the next
stage; what this process leaves open, a process that may be killed compares with symbols (see `settle`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from verl_ext.reward.math.colons import same_ratio, same_time
from verl_ext.reward.math.equations import (
    Equation,
    are_plain_names,
    is_constant,
    is_operation,
    is_worded,
    may_be_computed,
    read_equation,
    same_name,
)
from verl_ext.reward.math.exact_number import has_thousands_separators, read_number
from verl_ext.reward.math.normalise import key, normalise
from verl_ext.reward.math.numbers import same_number, same_percent, same_quantity
from verl_ext.reward.math.parts import (
    before_approximation,
    labelled_choice,
    same_choice,
    same_numeral,
    same_words,
    split_modulus,
    spread_plus_minus,
    unwrapped,
    without_point_labels,
)
from verl_ext.reward.math.qualifiers import without_qualifiers
from verl_ext.reward.math.shapes import ShapeComparison, all_of
from verl_ext.reward.math.structure import Leaf, read_structure
from verl_ext.reward.policy import GradingPolicy

Symbolic = Callable[[str, str, str], bool | None]
"""(gold, answer, "expression", "equation", "relation" or "set") -> whether they are equal, None where it cannot tell."""

LAST_STAGE = "math-verify under guards"
"""The stage that decides what the others leave open (`settle`)."""

_RELATION = re.compile(r"[<>]|\\(?:le|ge|ne)(?![a-z])")


@dataclass(frozen=True)
class Finding:
    """What one stage found about one pair of normalised texts."""

    stage: str
    gold: str
    answer: str
    equal: bool | None


def equivalent(
    gold: str,
    answer: str,
    policy: GradingPolicy,
    symbolic: Symbolic | None = None,
    trace: list[Finding] | None = None,
) -> bool | None:
    """Whether `answer` is `gold`.

    Args:
        gold: the right answer, as the data has it.
        answer: what was extracted from the response.
        policy: the choices where the field disagrees.
        symbolic: decides what text and numbers cannot; without it such a pair gives None.
        trace: gets a `Finding` for each rule that had something to say, in the order of their conclusions.
    """
    return _Comparison(policy, symbolic, trace).texts(normalise(gold), normalise(answer))


class _Comparison(ShapeComparison):
    def __init__(self, policy: GradingPolicy, symbolic: Symbolic | None, trace: list[Finding] | None) -> None:
        self.policy = policy
        self.symbolic = symbolic
        self.trace = trace

    def found(self, stage: str, gold: str, answer: str, equal: bool | None) -> bool | None:
        """`equal`, written down."""
        if self.trace is not None:
            self.trace.append(Finding(stage, gold, answer, equal))
        return equal

    def ask(self, gold: str, answer: str, kind: str) -> bool | None:
        if self.symbolic is None:
            return None
        return self.found(f"symbols ({kind})", gold, answer, self.symbolic(gold, answer, kind))

    def texts(self, gold: str, answer: str) -> bool | None:
        """Two normalised answers, before anything is known about their shape."""
        if not gold or not answer:
            return self.found("text", gold, answer, False)
        if key(gold) == key(answer):
            return self.found("text", gold, answer, True)
        numbers = same_number(gold, answer, self.policy)
        if numbers is not None:
            return self.found("numbers", gold, answer, numbers or self._list_with_bare_commas(gold, answer))
        if labelled := labelled_choice(gold):
            letter, text = labelled
            as_letter = same_choice(f"({letter})", answer)
            return self.found("choice", gold, answer, as_letter) if as_letter else self.texts(text, answer)
        congruent = self._congruent(gold, answer)
        if congruent is not None:
            return self.found("congruence", gold, answer, congruent)
        for stage, rule in (("words", same_words), ("choice", same_choice), ("time", same_time)):
            result = rule(gold, answer)
            if result is not None:
                return self.found(stage, gold, answer, result)
        plain = without_qualifiers(gold, answer)
        if plain is not None:
            return self.found("qualifier", gold, answer, self.texts(*plain))
        sides = without_point_labels(gold, answer), without_point_labels(answer, gold)
        result = self.shapes(*(read_structure(unwrapped(side)) for side in sides))
        return self.found("structure", gold, answer, result)

    def _congruent(self, gold: str, answer: str) -> bool | None:
        """Residues of one modulus; where one side says none, its number is the residue that the other names."""
        (gold_residue, gold_modulus), (residue, modulus) = split_modulus(gold), split_modulus(answer)
        if gold_modulus is None and modulus is None:
            return None
        if None in (gold_modulus, modulus):
            return self.texts(gold_residue, residue)
        if gold_modulus != modulus:
            return False
        numbers = read_number(gold_residue), read_number(residue)
        if modulus and None not in numbers:
            return (numbers[0].value - numbers[1].value) % modulus == 0
        return self.texts(gold_residue, residue)

    def _list_with_bare_commas(self, gold: str, answer: str) -> bool | None:
        """`7,144` was read as a number: where the other side is `144,7`, both are lists."""
        if has_thousands_separators(gold) and "," in answer or has_thousands_separators(answer) and "," in gold:
            return self.shapes(read_structure(gold), read_structure(answer))
        return False

    def leaves(self, gold: str, answer: str) -> bool | None:
        gold, answer = before_approximation(gold), before_approximation(answer)
        if key(gold) == key(answer):
            return True
        for stage, rule in (
            ("equation", self._equations),
            ("numbers", self._numbers),
            ("numeral", same_numeral),
            ("words", same_words),
            ("time", same_time),
            ("ratio", self._ratios),
            ("quantity", self._quantities),
            ("percent", self._percents),
            ("plus-minus", self._plus_minus),
            ("relation", self._relations),
        ):
            result = rule(gold, answer)
            if result is not None:
                return self.found(stage, gold, answer, result)
        return self.ask(gold, answer, "expression")

    def _numbers(self, gold: str, answer: str) -> bool | None:
        return same_number(gold, answer, self.policy)

    def _ratios(self, gold: str, answer: str) -> bool | None:
        return same_ratio(gold, answer, self._expressions)

    def _percents(self, gold: str, answer: str) -> bool | None:
        return same_percent(gold, answer, self._expressions)

    def _quantities(self, gold: str, answer: str) -> bool | None:
        return same_quantity(gold, answer, self.policy, self.texts, self._expressions)

    def _expressions(self, gold: str, answer: str) -> bool | None:
        return self.ask(gold, answer, "expression")

    def _plus_minus(self, gold: str, answer: str) -> bool | None:
        gold_spread, answer_spread = spread_plus_minus(Leaf(gold)), spread_plus_minus(Leaf(answer))
        return None if len(gold_spread) == len(answer_spread) == 1 else self._any_order(gold_spread, answer_spread)

    def _relations(self, gold: str, answer: str) -> bool | None:
        """Inequalities: proportional, or satisfied by the same numbers."""
        is_relation = bool(_RELATION.search(gold)), bool(_RELATION.search(answer))
        if is_relation == (True, True):
            proportional = self.ask(gold, answer, "relation")
            return proportional or self.ask(gold, answer, "set")
        return False if any(is_relation) and any(read_number(text) for text in (gold, answer)) else None

    # Equations

    def _equations(self, gold: str, answer: str) -> bool | None:
        """`x = 5` is 5; `y = 2x + 3` is a line, compared as one; None where neither has an equals sign."""
        gold_equation, answer_equation = read_equation(gold), read_equation(answer)
        if gold_equation and answer_equation:
            return self._two_equations(gold_equation, answer_equation, gold, answer)
        if gold_equation:
            return self._value(gold_equation, lambda value: self.texts(value, answer))
        if answer_equation:
            return self._value(answer_equation, lambda value: self.texts(gold, value))
        return None

    def _value(self, equation: Equation, same: Callable[[str], bool | None]) -> bool | None:
        """Whether the value that an equation names or restates is `same`; x^2 = 9 has none, and 2+4 = 5 is not true."""
        if any("\\text" in side for side in equation.sides[1:-1]):
            return False  # `x = 5 \\text{ if } y = 6` names two values
        if equation.name or is_constant(equation.sides[0]):
            value = same(equation.value)
            return False if value is False else all_of((value, self._is_true(equation)))
        if len(equation.sides) == 2 and (identity := self.ask(equation.sides[0], equation.value, "expression")):
            return same(equation.value) and identity
        return False if self.symbolic else self._open(equation)

    def _open(self, equation: Equation) -> bool | None:
        """An equation may be an identity, sin^2 x + cos^2 x = 1, unless it says what a letter is."""
        return False if read_number(equation.value) and not equation.is_composed else None

    def _is_true(self, equation: Equation) -> bool | None:
        """Whether each side that can be computed has the last one's value; what cannot be computed counts as true."""
        if not is_constant(equation.value) and not any(is_operation(side) for side in equation.sides[:-1]):
            return True
        results = [
            self.texts(equation.value, side)
            for side in equation.restated
            if may_be_computed(side) and (is_constant(equation.value) or is_operation(side))
        ]
        result = all_of(results)
        return True if result is None and self.symbolic else result

    def _two_equations(self, gold: Equation, answer: Equation, gold_text: str, answer_text: str) -> bool | None:
        true = self._is_true(answer)
        if true is False:
            return False
        gold_restates, answer_restates = is_constant(gold.sides[0]), is_constant(answer.sides[0])
        if gold.name and answer.name and not (gold_restates or answer_restates):
            same = same_name(gold.name, answer.name) or self._same_sum(gold.name, answer.name)
            if same or is_worded(gold.name) != is_worded(answer.name):
                return all_of((self.texts(gold.value, answer.value), true))
            constants = is_constant(gold.value) and is_constant(answer.value)
            if constants and are_plain_names(gold.name, answer.name):
                return False  # another name for its value
        elif (gold.name or gold_restates) and (answer.name or answer_restates):
            return all_of((self.texts(gold.value, answer.value), true))
        return self.ask(gold_text, answer_text, "equation")

    def _same_sum(self, gold: str, answer: str) -> bool:
        """`m+n` and `n+m`, without symbols."""
        return "+" in gold and sorted(key(gold).split("+")) == sorted(key(answer).split("+"))
