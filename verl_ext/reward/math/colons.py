r"""Times of day (`4:30 \text{ p.m.}`) and ratios (`7:32`): what a colon separates.

`12:30` may be a time or a ratio. As a time it equals no other text of that shape, so that `6:15` is not `12:30`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

from verl_ext.reward.math.exact_number import read_number
from verl_ext.reward.math.structure import split_top_level

_TEXT = re.compile(r"\\text ?\{([^{}]{0,40})\}")
_TIME = re.compile(r"(\d{1,2})(?::(\d\d)(?::(\d\d))?)? ?(?:([ap]) ?\.? ?m\.?|(noon|midnight))?", re.IGNORECASE)
MAX_PARTS = 8


@dataclass(frozen=True)
class TimeOfDay:
    """A time as written; `half` is `a`, `p` or empty."""

    hour: int
    seconds: int
    """Since the full hour."""
    half: str

    @property
    def hours_of_day(self) -> set[int]:
        """The hours from 0 to 23 that it may mean."""
        if self.half:
            return {self.hour % 12 + (12 if self.half == "p" else 0)}
        return {self.hour % 24}


def read_time(text: str) -> TimeOfDay | None:
    """A time of day, or what has the shape of one; None for all else. A bare number is no time."""
    found = _TIME.fullmatch(" ".join(_TEXT.sub(r" \1", text).split()))
    if found is None or not (found.group(2) or found.group(4) or found.group(5)):
        return None
    hour, minute, second = int(found.group(1)), int(found.group(2) or 0), int(found.group(3) or 0)
    half = (found.group(4) or {"noon": "p", "midnight": "a"}.get((found.group(5) or "").lower(), "")).lower()
    if hour > 24 or minute > 59 or second > 59 or (half and not 1 <= hour <= 12):
        return None
    return TimeOfDay(hour, 60 * minute + second, half)


def same_time(gold: str, answer: str) -> bool | None:
    """Whether both are the same time of day; None where neither is one, or where a ratio is the better reading."""
    if not (":" in gold or ":" in answer or "m" in gold.lower()):
        return None
    gold_time, answer_time = read_time(gold), read_time(answer)
    if gold_time and answer_time:
        if gold_time.half and answer_time.half or not (gold_time.half or answer_time.half):
            return gold_time.seconds == answer_time.seconds and gold_time.hours_of_day == answer_time.hours_of_day
        # One leaves out a.m. or p.m., as units may be left out; 16:30 is 4:30 p.m.
        same_hour = gold_time.hour == answer_time.hour or gold_time.hours_of_day == answer_time.hours_of_day
        return gold_time.seconds == answer_time.seconds and same_hour
    time, other = (gold_time, answer) if gold_time else (answer_time, gold)
    if time is None or (":" in other and not time.half):
        return None
    return False if read_number(other) else None


def same_ratio(gold: str, answer: str, same: Callable[[str, str], bool | None]) -> bool | None:
    """Whether both are the same ratio of two or more parts; None where neither is a ratio or parts cannot be told.

    Args:
        same: compares two expressions.
    """
    gold_parts, answer_parts = _parts(gold), _parts(answer)
    if len(gold_parts) == len(answer_parts) == 1:
        return None
    if len(gold_parts) != len(answer_parts):
        shorter, longer = sorted((gold_parts, answer_parts), key=len)
        if len(shorter) > 1 or len(longer) > 2:
            return False
        if _is_zero(longer[1]):
            return False
        return same(f"({longer[0]})/({longer[1]})", shorter[0])
    if any(_is_zero(part) for part in (*gold_parts, *answer_parts)):
        return False if gold != answer else None
    results = [
        same(f"({gold_part})({answer_parts[0]})", f"({answer_part})({gold_parts[0]})")
        if not (numbers := _numbers(gold_part, answer_part, gold_parts[0], answer_parts[0]))
        else numbers[0] * numbers[3] == numbers[1] * numbers[2]
        for gold_part, answer_part in zip(gold_parts[1:], answer_parts[1:], strict=True)
    ]
    if False in results:
        return False
    return None if None in results else True


def _parts(text: str) -> list[str]:
    if ":" not in text:
        return [text]
    parts = split_top_level(text, ":")
    if not parts or len(parts) > MAX_PARTS or not all(part.strip() for part in parts):
        return [text]
    return [part.strip() for part in parts]


def _is_zero(text: str) -> bool:
    number = read_number(text)
    return number is not None and number.value == 0


def _numbers(*texts: str) -> list[Fraction] | None:
    numbers = [read_number(text) for text in texts]
    return None if None in numbers else [number.value for number in numbers if number]
