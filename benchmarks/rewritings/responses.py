r"""Whole responses: the phrase with a sentence behind it, several boxes, letters of a choice."""

from __future__ import annotations

import random
from collections.abc import Iterator

from rewritings.made import Made
from rewritings.reading import Gold, another, fraction

_PHRASE_SOURCES = ("gsm8k", "mawps")
_PHRASES = (
    "The answer is {v}, in total, so that is what is left.",
    "The final answer is {v} because {a} + {b} is {v}.",
    "The answer is ${v}. She makes ${a} every day.",
    "Therefore the final answer is {v}!",
    "The final answer is {v}, not {w}.",
    "First she has {w}. Then half of it goes. The answer is {v}, which is less than {w}.",
    "So the answer is {v} since we count each of the {a} twice.",
    "The answer is {v} (that is, {a} + {b}).",
    "The final answer is **{v}**, as {a} of {w} are gone.",
    "The answer is: {v}. I checked it with {w} as well.",
    "Final answer: {v}. This took {a} steps.",
    "The answer is {v}; the other {w} are not counted.",
    "The answer is ${v}, while she had ${w} before.",
    "The final answer is ${v}$, so she needs {a} more than {b}.",
    "The answer is {v} so he has enough for {w} days.",
    "The answer is {v} as there are {a} in each of {b} rows.",
    "The answer is \\({v}\\), because \\({a} + {b} = {v}\\).",
    "The answer is {v} - not {w}.",
    "The answer is {v}.\n\nThis is because {w} is too much.",
    "#### {v}, in total",
    "#### {v} (and not {w})",
    "Adding up gives {w} at first.\n#### {v}",
    "#### ${v}",
    "#### {v}.",
)


def phrases(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """A sentence around the answer, for the sets of word problems: of every positive gold integer of these."""
    if gold.benchmark not in _PHRASE_SOURCES or gold.value is None or gold.value.denominator != 1 or gold.value <= 0:
        return
    value = int(gold.value)
    other = value + generator.choice((1, 2, 7, 12, 48))
    text = str(value)
    for template in generator.sample(_PHRASES, 4):
        part = generator.randint(1, value)
        right = template.format(v=value, w=other, a=part, b=value - part)
        yield Made("the gold in a sentence", text, str(value), True, right, gold.data_source)
        wrong = template.format(v=other, w=value, a=part, b=other - part)
        yield Made("another in a sentence", text, str(other), False, wrong, gold.data_source)


_TWICE = (
    "\\boxed{{{a}}}\n\\boxed{{{a}}}",
    "$\\boxed{{{a}}}$, $\\boxed{{{a}}}$",
    "\\boxed{{{a}}} and \\boxed{{{a}}}",
    "\\[ \\boxed{{{a}}} \\]\n\nSo the final answer is $\\boxed{{{a}}}$.",
    "The value is $\\boxed{{{a}}}$. **Final answer:** $\\boxed{{{a}}}$",
    "\\(\\boxed{{{a}}}\\)\n\n\\(\\boxed{{{a}}}\\)",
    "$$\\boxed{{{a}}}$$\n\n# Answer\n\n\\boxed{{{a}}}",
    "I get \\boxed{{{a}}}, \\boxed{{{a}}}.",
)
_CORRECTED = (
    "At first I thought $\\boxed{{{b}}}$. But that leaves one out, so the answer is $\\boxed{{{a}}}$.",
    "\\boxed{{{b}}}\n\nWait, I have to check this. The answer is \\boxed{{{a}}}.",
    "Step 1: $\\boxed{{{b}}}$\n\nStep 2: we double it.\n\nFinal answer: $\\boxed{{{a}}}$",
)
_JOINED = (
    "\\boxed{{{a}}} and \\boxed{{{b}}}",
    "$\\boxed{{{a}}}$ and $\\boxed{{{b}}}$",
    "\\(\\boxed{{{a}}}\\) and \\(\\boxed{{{b}}}\\)",
    "$\\boxed{{{a}}}, \\boxed{{{b}}}$",
    "$\\boxed{{{a}}}$, $\\boxed{{{b}}}$",
    "$\\boxed{{{a}}} \\text{{ and }} \\boxed{{{b}}}$",
    "$\\boxed{{{a}}} \\quad \\boxed{{{b}}}$",
    "The solutions are $\\boxed{{{a}}}$, and $\\boxed{{{b}}}$.",
    "\\[\\boxed{{{a}}},\\quad \\boxed{{{b}}}\\]",
)
_HEDGED = (
    "\\boxed{{{a}}} or \\boxed{{{b}}}",
    "$\\boxed{{{b}}}$ or $\\boxed{{{a}}}$",
    "\\boxed{{{a} \\text{{ or }} {b}}}",
    "\\boxed{{{b} \\text{{ or }} {a}}}",
    "$\\boxed{{{a}}} \\text{{ or }} \\boxed{{{b}}}$",
    "\\(\\boxed{{{b}}}\\) or \\(\\boxed{{{a}}}\\)",
    "\\boxed{{{a} or {b}}}",
    "\\boxed{{{a}}}, or perhaps \\boxed{{{b}}}",
)


def boxes(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """Boxes one after the other: twice the same, a corrected one, several that are one answer, hedges.

    Of every gold number without separators; hedges and joined boxes need two numbers that differ.
    """
    if gold.value is None or "," in gold.text:
        return
    value, text = gold.value, gold.text
    wrong = another(value, generator)
    other = fraction(wrong)
    for response in generator.sample(_TWICE, 2):
        yield Made("twice", text, text, True, response.format(a=text))
        yield Made("twice", text, other, False, response.format(a=other))
    corrected = generator.choice(_CORRECTED)
    yield Made("corrected", text, text, True, corrected.format(a=text, b=other))
    yield Made("corrected", text, other, False, corrected.format(a=other, b=text))
    joined = generator.choice(_JOINED)
    yield Made("joined", f"{other}, {text}", f"{text}, {other}", True, joined.format(a=text, b=other))
    third = another(value, generator) + 5
    if third not in (wrong, value):
        yield Made(
            "joined", f"{text}, {other}", f"{text}, {fraction(third)}", False, joined.format(a=text, b=fraction(third))
        )
    yield Made("joined", text, f"{text}, {other}", False, joined.format(a=other, b=text))
    for hedge in generator.sample(_HEDGED, 2):
        yield Made("hedged", text, f"{text} or {other}", False, hedge.format(a=text, b=other))


_CHOSEN = (
    "Answer: {L}",
    "The answer is {L}.",
    "The answer is ({L}).",
    "Answer: {l}",
    "The answer is ({l})",
    "The answer is {L} - {t}",
    "Answer: {L}) {t}",
    "Answer: ({L}) {t}",
    "Answer: {L}. {t}",
    "The answer is {L}: {t}",
    "Therefore the answer is \\boxed{{{L}}}.",
    "$\\boxed{{\\text{{{L}}}}}$",
    "$\\boxed{{\\text{{({L})}}}}$",
    "$\\boxed{{\\textbf{{({L})}}\\ {t}}}$",
    "$\\boxed{{\\mathrm{{{L}}}}}$",
    "$\\boxed{{({l})}}$",
    "$\\boxed{{{L}) {t}}}$",
    "The answer is Option {L}.",
    "Option {L}",
    "The correct answer is **{L}**.",
    "Since $\\boxed{{{x}}}$ is the largest.\nAnswer: {L}",
    "The answer is option ({L}).",
    "Answer: {L}, although {M} is close",
    "**Answer: {L}**",
    "Final answer: {L}",
)


def choices(gold: Gold, generator: random.Random) -> Iterator[Made]:
    """A letter from A to E in the ways of models, with the gold as the text of the choice.

    Of golds that are one number: other texts could hold a letter of their own.
    """
    if gold.value is None:
        return
    letter, other = generator.sample("ABCDE", 2)
    for template in generator.sample(_CHOSEN, 4):
        for chosen, remaining in ((letter, other), (other, letter)):
            response = template.format(L=chosen, l=chosen.lower(), M=remaining, t=gold.text, x=gold.text)
            yield Made("letter", letter, chosen, chosen == letter, response, "multiple_choice")
