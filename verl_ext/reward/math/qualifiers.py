r"""What stands behind an answer and does not change it: `k\pi, k\in\mathbb{Z}`, `2x+c \text{ for any constant } c`."""

from __future__ import annotations

import re
from dataclasses import dataclass

_MEMBERSHIP = re.compile(
    r"(?:,| |\()[ ,;(]{0,3}(?:\\text ?\{[ ,(]*(?:where|for|with|and|for all|for any|for some)[ ,]*\})?[ ]?(?:\\forall ?)?"
    r"([a-zA-Z](?:_\w)?(?:,[a-zA-Z]){0,3}) ?\\in ?(\\mathbb ?\{?[ZNQRC]\}?(?:\^?[+*-]|\^\{[+*-]\}|_[+0]|_\{[^{}]{1,8}\})?"
    r"|[ZNQRC](?![a-zA-Z]))\)?$"
)
_IN_WORDS = re.compile(
    r"(?:,| |(?=\\text)|\()[ ,;(]{0,3}\\text ?\{[ ,(]*(?:for|where|with|in which|since|because)\b([^{}]{0,80})\}(.{0,80})$",
    re.DOTALL,
)
_PLAIN_WORDS = re.compile(r"[ ,(]{1,3}(?:for (?:any|all|every|some|each)|where|with) (.{1,200})$", re.DOTALL)
_INTEGER = re.compile(
    r"(?<![a-zA-Z\\])([a-zA-Z])(?![a-zA-Z])[^a-zA-Z]{0,10}(?:is|are|be)? ?(?:\\text ?\{)?[^{}]{0,20}\b(?:an )?integers?\b|\binteger(?:s|)?\b[^a-zA-Z]{0,10}([a-zA-Z])(?![a-zA-Z])"
)
_LETTER = re.compile(r"(?<![a-zA-Z\\])([a-zA-Z])(?![a-zA-Z])")


@dataclass(frozen=True)
class Qualified:
    """An answer and what was said about its letters."""

    text: str
    letter: str = ""
    r"""The letter that ranges over `domain`."""
    domain: str = ""
    r"""`Z`, `N`, ..., empty where it is not a set by name."""
    is_qualified: bool = False


def split_qualifier(text: str) -> Qualified:
    """Separate a normalised answer from a qualifier behind it."""
    if (
        "\\in" not in text
        and "\\text" not in text
        and "for " not in text
        and "where" not in text
        and "with " not in text
    ):
        return Qualified(text)
    if found := _MEMBERSHIP.search(text):
        before = text[: found.start()].strip().rstrip(",;")
        domain = re.sub(r"\\mathbb|[{} ]", "", found.group(2))
        if before and not before.endswith("\\text"):
            return Qualified(before, found.group(1), domain, True)
    found = _IN_WORDS.search(text)
    if found is not None and found.start() > 0:
        said = found.group(1) + found.group(2)
    else:
        found = _PLAIN_WORDS.search(text)
        if found is None or found.start() == 0:
            return Qualified(text)
        said = found.group(1)
    if re.search(r"[<>]|\\[lg]e(?![a-z])", said):
        return Qualified(text)  # a condition on the answer, not a letter's domain
    integer = _INTEGER.search(said)
    letters = _LETTER.findall(re.sub(r"\ba\b", "", said))
    letter = (
        next((part for part in integer.groups() if part), "")
        if integer
        else letters[0]
        if len(set(letters)) == 1
        else ""
    )
    return Qualified(text[: found.start()].strip().rstrip(","), letter, "Z" if integer else "", True)


def without_qualifiers(gold: str, answer: str) -> tuple[str, str] | None:
    """Both answers without their qualifiers, with one name for a letter over one domain.

    Returns:
        None where neither has one, ("", "") where their domains differ.
    """
    gold_part, answer_part = split_qualifier(gold), split_qualifier(answer)
    if not (gold_part.is_qualified or answer_part.is_qualified):
        return None
    if gold_part.domain and answer_part.domain and gold_part.domain != answer_part.domain:
        return "", ""
    other = answer_part.text
    both = len(gold_part.letter) == len(answer_part.letter) == 1
    if both and gold_part.letter != answer_part.letter and gold_part.letter not in _LETTER.findall(other):
        other = re.sub(rf"(?<![a-zA-Z\\]){answer_part.letter}(?![a-zA-Z])", gold_part.letter, other)
    return gold_part.text, other
