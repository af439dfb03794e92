"""Every gold answer of the public evaluation sets against itself in several renderings, and against its neighbour.

The data is not part of the project: name its folder in VERL_EXT_DATA, or put it into `shared/data` beside the
repository.
"""

import json
import os
from pathlib import Path

import pytest

from verl_ext.reward.grading import gold_answer
from verl_ext.reward.pool import GraderPool
from verl_ext.reward.sources import rule_for

pytestmark = pytest.mark.timeout(300)

DATA = Path(os.environ.get("VERL_EXT_DATA") or Path(__file__).resolve().parents[2] / "../shared/data")
GOLD_FIELD = {
    "math500": "answer",
    "aime24": "answer",
    "aime25": "answer",
    "amc23": "answer",
    "minerva_math": "solution",
    "olympiadbench": "final_answer",
    "gsm8k": "answer",
}
SAME_AS_NEIGHBOUR = {("math500", "5", "x=5")}
"""Neighbours whose golds are the same answer in another form."""
UNPARSABLE = {
    "np.arcsin(10/13)",
    "$t(0,4]$",
    r"$f(x)=a x+b$, where $b$ is an arbitrary integer, and $a$ is an arbitrary positive integer with $\mho(a)=0$",
}
"""Golds that are no expression for the symbolic comparison; only their own text is correct."""


@pytest.fixture(scope="module")
def pool():
    with GraderPool(workers=2, timeout_s=30.0) as pool:
        yield pool


def golds_of(name):
    path = DATA / f"{name}.jsonl"
    if not path.is_file():
        pytest.skip(f"no evaluation data at {path} (set VERL_EXT_DATA to the folder that holds it)")
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    golds = [row[GOLD_FIELD[name]] for row in rows]
    return [gold if isinstance(gold, str) else json.dumps(gold) if isinstance(gold, float) else gold for gold in golds]


def plain(gold):
    """Without dollar signs, unless they are money."""
    return gold if "\\$" in gold else gold.replace("$", "")


RENDERINGS = {
    "boxed": lambda gold: f"We compute. Thus the answer is \\boxed{{{gold}}}.",
    "boxed in display style": lambda gold: (
        "\\[\\boxed{"
        + plain(gold).replace("\\frac", "\\dfrac").replace("\\left", "\\bigl").replace("\\right", "\\bigr")
        + "}\\]"
    ),
    "boxed with blanks": lambda gold: f"$$\\boxed{{ \\displaystyle {plain(gold)} \\, }}$$",
    "phrase": lambda gold: f"The final answer is ${plain(gold).strip()}$. I hope it is correct.",
    "bold": lambda gold: f"\\boxed{{**{plain(gold)}**}}",
}


@pytest.mark.parametrize("name", GOLD_FIELD)
def test_every_gold_is_correct_in_every_rendering(pool, name):
    golds = golds_of(name)
    texts = [gold_answer(gold, rule_for(name)) for gold in golds]
    for rendering, render in RENDERINGS.items():
        grades = pool.grade_many([(render(text), gold, name) for text, gold in zip(texts, golds, strict=True)])
        wrong = [(rendering, text, grade) for text, grade in zip(texts, grades, strict=True) if not grade.correct]
        assert wrong == []


@pytest.mark.parametrize("name", GOLD_FIELD)
def test_no_gold_is_correct_for_its_neighbour_and_none_fails_to_be_compared(pool, name):
    golds = golds_of(name)
    texts = [gold_answer(gold, rule_for(name)) for gold in golds]
    neighbours = [*texts[1:], texts[0]]
    items = [
        (gold, text, neighbour)
        for gold, text, neighbour in zip(golds, texts, neighbours, strict=True)
        if text != neighbour and (name, text, neighbour) not in SAME_AS_NEIGHBOUR
    ]
    for swap in (False, True):
        pairs = [(neighbour, text) if swap else (text, neighbour) for _, text, neighbour in items]
        grades = pool.grade_many([(f"\\boxed{{{answer}}}", gold, name) for gold, answer in pairs])
        problems = [
            (gold, answer, grade)
            for (gold, answer), grade in zip(pairs, grades, strict=True)
            if grade.correct
            or (grade.status != "ok" and not (grade.status == "unparsable_gold" and gold in UNPARSABLE))
        ]
        assert problems == []
