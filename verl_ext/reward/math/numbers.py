"""Numbers and quantities as a policy compares them: exactly, within its tolerances, with percent signs and units."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

from verl_ext.reward.math.exact_number import ExactNumber, read_number
from verl_ext.reward.math.units import ANY_LENGTH, Quantity, split_unit
from verl_ext.reward.policy import GradingPolicy

Same = Callable[[str, str], bool | None]


def read_percent(text: str) -> tuple[ExactNumber | None, bool]:
    """The number before a percent sign, or the number, and whether the sign was there."""
    is_percent = text.endswith("%")
    return read_number(text.rstrip("%").rstrip() if is_percent else text), is_percent


def same_number(gold: str, answer: str, policy: GradingPolicy) -> bool | None:
    """Two numbers; None where either is not one."""
    gold_number, gold_percent = read_percent(gold)
    if gold_number is None:
        return None
    answer_number, answer_percent = read_percent(answer)
    if answer_number is None:
        return None
    if policy.percent == "any":
        factors = (Fraction(1), Fraction(100), Fraction(1, 100))
        return any(_close(gold_number, answer_number, factor, policy) for factor in factors)
    if gold_percent == answer_percent:
        return _close(gold_number, answer_number, Fraction(1), policy)
    percent = gold_number if gold_percent else answer_number
    # Problems that ask for a percentage have golds such as 50 and answers such as 50%. Up to 1 the sign
    # is never left out, or 0.5% would pass for 0.5.
    sign_left_out = abs(percent.value) > 1 and _close(gold_number, answer_number, Fraction(1), policy)
    as_value = Fraction(1, 100) if answer_percent else Fraction(100)
    return sign_left_out or _close(gold_number, answer_number, as_value, policy)


def _close(gold: ExactNumber, answer: ExactNumber, factor: Fraction, policy: GradingPolicy) -> bool:
    distance = abs(gold.value - answer.value * factor)
    if distance == 0:
        return True
    if policy.absolute_tolerance and distance <= Fraction(policy.absolute_tolerance):
        return True
    if not policy.relative_tolerance:
        return False
    is_measured = policy.tolerance_for == "all" or gold.is_decimal
    return is_measured and distance <= abs(gold.value) * Fraction(policy.relative_tolerance)


def same_percent(gold: str, answer: str, same: Same) -> bool | None:
    """Expressions of which one or both have a percent sign; None where neither has, or where they cannot be told."""
    if not (gold.endswith("%") or answer.endswith("%")):
        return None
    plain_gold, plain_answer = gold.rstrip("% "), answer.rstrip("% ")
    if not plain_gold or not plain_answer:
        return False
    if gold.endswith("%") and answer.endswith("%"):
        return same(plain_gold, plain_answer)
    if same(plain_gold, plain_answer):
        return True
    if gold.endswith("%"):
        return same(plain_gold, f"100({plain_answer})")
    return same(f"100({plain_gold})", plain_answer)


def same_quantity(gold: str, answer: str, policy: GradingPolicy, same: Same, symbolic: Same) -> bool | None:
    """Two expressions of which at least one has a unit; None where neither has.

    Args:
        same: compares what is left without the units.
        symbolic: compares two expressions that need symbols.
    """
    gold_quantity, answer_quantity = split_unit(gold), split_unit(answer)
    if gold_quantity.loose and not (answer_quantity.name and not answer_quantity.loose):
        gold_quantity = Quantity(gold)
    if answer_quantity.loose and not gold_quantity.name:
        answer_quantity = Quantity(answer)
    if not gold_quantity.name and not answer_quantity.name:
        changed = (gold_quantity.text, answer_quantity.text) != (gold, answer)
        return same(gold_quantity.text, answer_quantity.text) if changed else None
    if not gold_quantity.name or not answer_quantity.name:
        if policy.units == "required" and gold_quantity.name:
            return False
        measured, plain = sorted((gold_quantity, answer_quantity), key=lambda quantity: not quantity.name)
        if measured.dimension is not None and plain.text.endswith("%"):
            return False  # a share is no length
        return same(gold_quantity.text, answer_quantity.text)
    if _are_units_of_a_figure(gold_quantity, answer_quantity):
        return same(gold_quantity.text, answer_quantity.text)
    if gold_quantity.dimension != answer_quantity.dimension:
        return False
    if gold_quantity.dimension is None or gold_quantity.scale == answer_quantity.scale:
        unknown_units_differ = gold_quantity.dimension is None and gold_quantity.name != answer_quantity.name
        return False if unknown_units_differ else same(gold_quantity.text, answer_quantity.text)
    scale = answer_quantity.scale / gold_quantity.scale
    gold_number, answer_number = read_number(gold_quantity.text), read_number(answer_quantity.text)
    if gold_number is None or answer_number is None:
        return symbolic(
            gold_quantity.text, rf"({answer_quantity.text})\cdot\frac{{{scale.numerator}}}{{{scale.denominator}}}"
        )
    return _close(gold_number, answer_number, scale, policy)


def _are_units_of_a_figure(gold: Quantity, answer: Quantity) -> bool:
    """Whether one is in `units` (or square units) and the other in a length (or area) of any unit."""
    dimensions = [quantity.dimension for quantity in (gold, answer)]
    if None in dimensions or dimensions[0][1] != dimensions[1][1]:
        return False
    measured = {dimension[0] for dimension in dimensions}
    return measured == {ANY_LENGTH, "length"}
