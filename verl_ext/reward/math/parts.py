"""Readings of one expression that need no symbols: its name, its percent sign, its letter, its words, its base."""

from __future__ import annotations

import re
from collections.abc import Sequence

from verl_ext.reward.math.equations import in_usual_order, is_constant, names_a_quantity, read_equation
from verl_ext.reward.math.exact_number import read_number
from verl_ext.reward.math.normalise import key
from verl_ext.reward.math.structure import Group, Leaf, read_structure, split_top_level

_APPROXIMATELY = re.compile(r"\\approx|\\doteq|\\dot=|\\cong(?![a-z])")
_WORDS = re.compile(r"(?:[A-Za-z]{2,}|[A-Za-z](?= ))(?:[ -][A-Za-z]+)*")
_CHOICE = re.compile(r"\(?([A-Ja-j])\)|([A-J])")
_CHOICE_THEN_TEXT = re.compile(
    r"(?:\(([A-Ja-j])\)|([A-J])[).:]|([a-e])\)|([A-J]) ?[-–—] ?(?=[a-zA-Z]{2})) ?.{1,500}", re.DOTALL
)
_TWO_CHOICES = re.compile(r"\(?[A-J]\)?[ ,/&;]*(?:or|and)?[ ,]*\(?[A-J]\)?\.?")
_LABELLED = re.compile(
    r"\\text ?\{ ?\(([A-J])\) ?:? ?(?:\} ?(.{1,500})|([^{}]{1,200})\}(.{0,300}))|\(([A-J])\) ?((?=[-\d$\\]).{1,500})",
    re.DOTALL,
)
_LABELLED_POINT = re.compile(r"(?<![a-zA-Z\\}_])[A-Z]'?(?:_\{?\d\}?)? ?(?=\([^()]{1,80},[^()]{1,80}\))")
_MODULUS = re.compile(
    r"(.{1,300}?) ?\(?(?:\\pmod|\\mod|\\bmod|\\text ?\{ ?mod ?\}|(?<![a-z\\])mod(?![a-z])|\\text ?\{ ?mod ?(?=\d)) ?\{?(\d{1,9})\}?\)?",
    re.DOTALL,
)
_CONGRUENT = re.compile(r".{0,60}?(?:\\equiv(?![a-z])|≡|=) ?")
_OPTION = re.compile(r"(?:(?:option|choice|answer) ?:? ?)\(?([A-Ja-j])\)?", re.IGNORECASE)
_ARTICLE = re.compile(r"(?:the|an?) (?=[a-z]{2})", re.IGNORECASE)
_UNITS_IN_WORDS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
_TENS_IN_WORDS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_NUMBER_WORDS = {
    **{word: str(number) for number, word in enumerate(_UNITS_IN_WORDS)},
    **{word: str(10 * tens) for tens, word in enumerate(_TENS_IN_WORDS, 2)},
    **{f"{word}-{unit}": str(10 * tens + number) for tens, word in enumerate(_TENS_IN_WORDS, 2)
       for number, unit in enumerate(_UNITS_IN_WORDS[:10]) if number},
    "a hundred": "100", "one hundred": "100", "a thousand": "1000", "one thousand": "1000",
}  # fmt: skip
_BASE_WORDS = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
               "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16"}  # fmt: skip
_SAME_WORDS = {
    "no solutions": "no solution", "there is no solution": "no solution", "there are no solutions": "no solution",
    "does not exist": "dne",
}  # fmt: skip
_NO_SOLUTION = "no solution"
_BASE = re.compile(r"([0-9A-Za-z,]{1,100})_(?:\{(?:\\text\{)?(\d{1,2}|[a-z]{2,12})\}?\}|(\d{1,2}))")
_SINGLE = re.compile(r"(?:[a-zA-Z]|\\[a-z]{2,7})(?:_\{?\w{1,3}\}?)?")
_PLUS_MINUS = re.compile(r"\\pm(?![a-z]) ?")
_TEXT = re.compile(r"\\text ?\{([^{}]*)\}")


def unwrapped(text: str) -> str:
    r"""Without one pair of braces or `\text{}` around everything."""
    found = _TEXT.fullmatch(text)
    if found:
        return found.group(1).strip()
    if text.startswith("{") and text.endswith("}") and split_top_level(text[1:-1], "\0") is not None:
        return text[1:-1].strip()
    return text


def same_choice(gold: str, answer: str) -> bool | None:
    """Letters of a multiple choice: (C), C, c), `C) 12`, `Option C`; None where the gold is no letter."""
    gold_choice = _CHOICE.fullmatch(unwrapped(gold))
    if gold_choice is None:
        return None
    letter = (gold_choice.group(1) or gold_choice.group(2)).upper()
    plain = _TEXT.sub(r"\1", answer).strip()
    if _TWO_CHOICES.fullmatch(plain):
        return False
    answer_choice = _CHOICE.fullmatch(plain) or _OPTION.fullmatch(plain) or _CHOICE_THEN_TEXT.fullmatch(plain)
    if answer_choice is None:
        return None if gold_choice.group(2) else False  # a bare capital may be a variable as well
    return letter == next(group for group in answer_choice.groups() if group).upper()


def labelled_choice(gold: str) -> tuple[str, str] | None:
    r"""Letter and text of a gold such as `\text{(C) }42`, which either answers; None where the gold is no such."""
    found = _LABELLED.fullmatch(gold)
    if found is None:
        return None
    letter, behind, inside, rest, bare_letter, bare = found.groups()
    if bare_letter:
        return bare_letter, bare
    return letter, (behind or f"\\text{{{inside}}}{rest}").strip()


def without_point_labels(answer: str, other: str) -> str:
    """The answer with `P(2,4)` as `(2,4)`, where the other is points without names."""
    return _LABELLED_POINT.sub("", answer) if other.startswith("(") else answer


def split_modulus(text: str) -> tuple[str, int | None]:
    r"""`3` and 7 of `n \equiv 3 \pmod{7}`, `3 \pmod 7` and `3 (\text{mod }7)`; a `17 \bmod 5` is a computation."""
    if "mod" not in text:
        return text, None
    found = _MODULUS.fullmatch(text)
    if found is None or "\\bmod" in text and "\\equiv" not in text:
        return text, None
    named = _CONGRUENT.match(found.group(1))
    return found.group(1)[named.end() if named else 0 :], int(found.group(2))


def same_words(gold: str, answer: str) -> bool | None:
    """Answers in words (`east`, `Evelyn`, `five`): the same words, whatever their case; None where the gold has none."""
    gold_words, answer_words = _TEXT.sub(r"\1", gold).strip(), _TEXT.sub(r"\1", answer).strip()
    if gold_words.casefold() in _NUMBER_WORDS or answer_words.casefold() in _NUMBER_WORDS:
        gold_number, answer_number = (
            read_number(_NUMBER_WORDS.get(words.casefold(), words)) for words in (gold_words, answer_words)
        )
        return None if None in (gold_number, answer_number) else gold_number.value == answer_number.value
    gold_plain, answer_plain = _plain_words(gold_words), _plain_words(answer_words)
    if _NO_SOLUTION in (gold_plain, answer_plain) and any(_is_empty(text) for text in (gold, answer)):
        return True
    is_marked = "\\text" in gold or "\\text" in answer
    if not _WORDS.fullmatch(gold_words) or not (is_marked or _is_surely_words(gold_words, answer_words)):
        return None
    if isinstance(read_structure(gold), Group) and not _WORDS.fullmatch(answer_words):
        return None  # words for a set: all real numbers
    return gold_plain == answer_plain


def _is_surely_words(gold: str, answer: str) -> bool:
    """Whether bare letters are words and no product of variables, as in `ad-bc` and `wxyz`."""
    if len(gold) < 4 or min(map(len, re.split("[ -]", gold))) < 3 and " " not in gold:
        return False
    return bool(_WORDS.fullmatch(answer)) and not {"a", "e", "i", "o", "u"}.isdisjoint(gold.casefold())


def _plain_words(words: str) -> str:
    plain = _ARTICLE.sub("", " ".join(words.split()).strip(" .!")).casefold()
    return _SAME_WORDS.get(plain, plain)


def _is_empty(text: str) -> bool:
    shape = read_structure(text)
    return isinstance(shape, Group) and shape.kind == "set" and not shape.items


def same_numeral(gold: str, answer: str) -> bool | None:
    """`52_8` and `52_{8}` are a numeral in a base: the same digits in the same base."""
    gold_based, answer_based = _BASE.fullmatch(gold), _BASE.fullmatch(answer)
    if not any(found and found.group(1)[0].isdigit() for found in (gold_based, answer_based)):
        return None
    if gold_based is None or answer_based is None:
        return False
    gold_base, answer_base = (found.group(2) or found.group(3) for found in (gold_based, answer_based))
    same_base = _BASE_WORDS.get(gold_base, gold_base) == _BASE_WORDS.get(answer_base, answer_base)
    return same_base and key(gold_based.group(1)) == key(answer_based.group(1))


def before_approximation(text: str) -> str:
    r"""The exact value of `\frac{1}{3} \approx 0.333`, and `x = 11` for `x \approx 11`, where nothing exact is said."""
    found = _APPROXIMATELY.search(text)
    if found is None:
        return text
    before, after = text[: found.start()].strip(), text[found.end() :].strip()
    if not before:
        return after or text
    equation = read_equation(before)
    last = equation.value if equation else before
    if after and not is_constant(last) and names_a_quantity(last):
        return _APPROXIMATELY.sub("=", text)
    return before


def names_of(items: Sequence[Leaf | Group]) -> list[str]:
    """The names of `x=1, y=2`, or nothing unless every item is named."""
    equations = [read_equation(item.text) if isinstance(item, Leaf) else None for item in items]
    names = [equation.name if equation else "" for equation in equations]
    return [key(name) for name in names] if all(names) else []


def without_names(items: Sequence[Leaf | Group]) -> tuple[Leaf | Group, ...]:
    """Drop the name from each named item, so `x=1, x=2` is `1, 2`, and `x=1, 2` too."""
    plain = []
    for item in items:
        equation = read_equation(item.text) if isinstance(item, Leaf) else None
        plain.append(read_structure(equation.value) if equation and equation.name else item)
    return tuple(plain)


def in_order_of_names(items: Sequence[Leaf | Group]) -> tuple[Leaf | Group, ...]:
    """The values of `p=5, q=2`, in the order in which a tuple lists such names (p before q, whatever came first)."""
    names = names_of(items)
    values = without_names(items)
    if len(set(names)) < len(names) or not all(_SINGLE.fullmatch(name) for name in names):
        return values
    return tuple(values[position] for position in in_usual_order(names))


def spread_plus_minus(item: Leaf | Group) -> tuple[Leaf | Group, ...]:
    r"""The two expressions that `a \pm b` stands for, or the item itself."""
    if isinstance(item, Group) or not _PLUS_MINUS.search(item.text):
        return (item,)
    return Leaf(_PLUS_MINUS.sub("+", item.text).lstrip("+")), Leaf(_PLUS_MINUS.sub("-", item.text))


def are_vectors(gold: Group, answer: Group) -> bool:
    """`[1,2,3]` is the vector (1,2,3): with more than two parts no bracket can be an interval."""
    return len(gold.items) > 2 and {gold.ends, answer.ends} == {"()", "[]"}
