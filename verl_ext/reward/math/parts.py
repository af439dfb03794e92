"""Readings of one expression that need no symbols: its name, its percent sign, its letter, its words, its base."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verl_ext.reward.math.exact_number import ExactNumber, read_number
from verl_ext.reward.math.normalise import key
from verl_ext.reward.math.structure import Group, Leaf, read_structure, split_top_level

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


def read_percent(text: str) -> tuple[ExactNumber | None, bool]:
    """The number before a percent sign, or the number, and whether the sign was there."""
    is_percent = text.endswith("%")
    return read_number(text.rstrip("%").rstrip() if is_percent else text), is_percent


def unwrapped(text: str) -> str:
    r"""Without one pair of braces or `\text{}` around everything."""
    found = _TEXT.fullmatch(text)
    if found:
        return found.group(1).strip()
    if text.startswith("{") and text.endswith("}") and split_top_level(text[1:-1], "\0") is not None:
        return text[1:-1].strip()
    return text


def same_choice(gold: str, answer: str) -> bool | None:
    """Letters of a multiple choice: (C), C, `C) 12`; None where the gold is no letter."""
    gold_choice = _CHOICE.fullmatch(unwrapped(gold))
    if gold_choice is None:
        return None
    letter = (gold_choice.group(1) or gold_choice.group(2)).upper()
    plain = _TEXT.sub(r"\1", answer).strip()
    answer_choice = _CHOICE.fullmatch(plain) or _CHOICE_THEN_TEXT.fullmatch(plain)
    if answer_choice is None:
        return None if gold_choice.group(2) else False  # a bare capital may be a variable as well
    return letter == (answer_choice.group(1) or answer_choice.group(2)).upper()


def same_words(gold: str, answer: str) -> bool | None:
    """Answers in words (`east`, `Evelyn`): the same words, whatever their case."""
    gold_words, answer_words = _TEXT.sub(r"\1", gold).strip(), _TEXT.sub(r"\1", answer).strip()
    is_marked = "\\text" in gold or "\\text" in answer
    if not _WORDS.fullmatch(gold_words) or (len(gold_words) < 4 and not is_marked):
        return None
    return gold_words.casefold() == answer_words.casefold()


def same_numeral(gold: str, answer: str) -> bool | None:
    """`52_8` and `52_{8}` are a numeral in a base: the same digits in the same base."""
    gold_based, answer_based = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if not any(found and found.group(1)[0].isdigit() for found in (gold_based, answer_based)):
        return None
    if gold_based is None or answer_based is None:
        return False
    return key(gold_based.group(1)) == key(answer_based.group(1)) and (gold_based.group(2) or gold_based.group(3)) == (
        answer_based.group(2) or answer_based.group(3)
    )


def before_approximation(text: str) -> str:
    found = _APPROXIMATELY.search(text)
    return text[: found.start()].strip() if found and text[: found.start()].strip() else text


def name_and_value(text: str) -> tuple[str, str] | None:
    """(`x`, `5`) of `x = 5`; an empty name where the left side is more than a name; None without an equals sign."""
    parts = _EQUALS.split(text)
    if len(parts) < 2:
        return None
    named = _NAMED.fullmatch(text)
    if named is None:
        return "", text
    return named.group(1), parts[-1].strip()


def names_of(items: Sequence[Leaf | Group]) -> list[str]:
    """The names of `x=1, y=2`, or nothing unless every item is named."""
    names = []
    for item in items:
        named = name_and_value(item.text) if isinstance(item, Leaf) else None
        if not named or not named[0]:
            return []
        names.append(key(named[0]))
    return names


def without_names(items: Sequence[Leaf | Group]) -> tuple[Leaf | Group, ...]:
    """Drop the name from each named item, so `x=1, x=2` is `1, 2`, and `x=1, 2` too."""
    plain = []
    for item in items:
        named = name_and_value(item.text) if isinstance(item, Leaf) else None
        plain.append(read_structure(named[1]) if named and named[0] else item)
    return tuple(plain)


def spread_plus_minus(item: Leaf | Group) -> tuple[Leaf | Group, ...]:
    r"""The two expressions that `a \pm b` stands for, or the item itself."""
    if isinstance(item, Group) or not _PLUS_MINUS.search(item.text):
        return (item,)
    return Leaf(_PLUS_MINUS.sub("+", item.text).lstrip("+")), Leaf(_PLUS_MINUS.sub("-", item.text))


def are_vectors(gold: Group, answer: Group) -> bool:
    """`[1,2,3]` is the vector (1,2,3): with more than two parts no bracket can be an interval."""
    return len(gold.items) > 2 and {gold.ends, answer.ends} == {"()", "[]"}
