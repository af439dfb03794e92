r"""Answers made by rule from gold answers, each with what it is: the same answer, or another one.

A rule keeps to the golds for which its label is certain, and says which these are. Nothing here uses the grader.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from rewritings import names, notation, numbers, responses, shapes, wordings, wrong
from rewritings.made import Made
from rewritings.reading import Gold

__all__ = ["KINDS", "Gold", "Rewriting", "rewritings_of"]

Rules = Callable[[Gold, random.Random], Iterator[Made]]
KINDS: dict[str, Rules] = {
    "decimals": numbers.decimals,
    "names": names.named,
    "thousands": numbers.thousands,
    "phrases": responses.phrases,
    "boxes": responses.boxes,
    "matrices": shapes.matrices,
    "plain-text": notation.plain_text,
    "sets": shapes.sets,
    "readings": numbers.readings,
    "false-acceptances": wrong.false_acceptances,
    "choices": responses.choices,
    "typesetting": notation.typesetting,
    "rearranged": notation.rearranged,
    "lists": wordings.lists,
    "units": wordings.units,
}
"""By kind: everything that its rules make of one gold."""


@dataclass(frozen=True)
class Rewriting:
    """One answer to grade."""

    kind: str
    rule: str
    gold: str
    answer: str
    response: str
    equal: bool
    """Whether the answer is the gold."""
    data_source: str


def rewritings_of(golds: Iterable[Gold], kinds: Iterable[str], limit: int, seed: int) -> list[Rewriting]:
    """Rewritings of each kind, at most `limit` a kind, spread over its rules, none twice.

    Args:
        golds: what they are made from.
        kinds: names from `KINDS`.
        limit: most of one kind.
        seed: of the choices that rules make and of the selection.
    """
    golds = sorted(set(golds), key=lambda gold: (gold.benchmark, gold.text))
    return [made for name in kinds for made in _of_kind(golds, name, limit, seed)]


def _of_kind(golds: list[Gold], name: str, limit: int, seed: int) -> list[Rewriting]:
    by_rule: dict[tuple[str, bool], dict[Rewriting, None]] = defaultdict(dict)
    for gold in golds:
        generator = random.Random(f"{seed} {name} {gold.benchmark} {gold.text}")
        for made in KINDS[name](gold, generator):
            response = made.response or f"So the final answer is $\\boxed{{{made.answer}}}$."
            found = Rewriting(name, made.rule, made.gold, made.answer, response, made.equal, made.data_source)
            by_rule[made.rule, made.equal][found] = None
    generator = random.Random(f"{seed} {name}")
    queues = [generator.sample(list(found), len(found)) for _, found in sorted(by_rule.items())]
    chosen: list[Rewriting] = []
    while any(queues) and len(chosen) < limit:
        chosen += [queue.pop() for queue in queues if queue][: limit - len(chosen)]
    return chosen
