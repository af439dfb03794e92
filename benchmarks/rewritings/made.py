"""What a rule yields."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True)
class Made:
    """A gold, an answer to it, and whether they are the same."""

    rule: str
    gold: str
    answer: str
    equal: bool
    response: str = ""
    """The whole response; empty where it is the answer in a box."""
    data_source: str = "math"


def both_ways(generator: random.Random, rule: str, one: str, other: str, equal: bool) -> Made:
    """A pair whose label holds in both directions, in one of them."""
    gold, answer = (one, other) if generator.random() < 0.5 else (other, one)
    return Made(rule, gold, answer, equal)
