"""The rules of the metamorphic benchmark: their labels are right, and so is the grader on a sample of what they make."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sympy

from tests.support.latex_values import expression_of, matrix_of, same_value
from verl_ext.reward.pool import GraderPool

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
GOLDS = {
    "math500": (
        "-1", "9", "17", "42", "125", "1440", "58,500", "0.15", ".35625", "3.25", "-\\frac{3}{8}", "\\frac{13}{6}",
        "\\frac{14}{3}", "\\frac{9}{256}", "1\\frac{4}{5}", "\\$36", "106^\\circ", "2\\sqrt{113}", "12\\pi", "18+2\\pi",
        "6 - 5i", "8n^2 + 4n + 1", "x^5 - x^4 + x^3 - x^2 + x - 1", "\\frac{11+9a}{20}", "y = 2x + 3", "(6,31,-1)",
        "\\left( \\frac{3}{2}, -13 \\right)", "(3,4]", "(-\\infty, 2) \\cup (3, \\infty)", "1,-2", "3, 5, 7",
        "\\{1\\pm\\sqrt{5},-2\\}", "\\text{even}", "\\text{(C)}", "52_8", "15\\mbox{ cm}^2",
        "\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}", "\\begin{pmatrix} -1 & 0 \\\\ 0 & -1 \\end{pmatrix}",
    ),
    "olympiadbench": (
        "\\frac{n(n+1)}{2}", "n^{2}-n+1", "2^{k-1}", "\\frac{189 \\sqrt{11}}{11}", "1024-256 \\pi", "m n-\\lfloor m / 2\\rfloor",
        "(1,1), (3,2)", "f(x)=x+1", "\\frac{1}{2 n+2}", "8 \\%", "\\frac{32}{9},\\frac{1}{2}", "k=2 n-1",
    ),
    "minerva_math": ("1.24e-8", "7.6 Z", "\\frac{1}{s+a}", "\\frac{\\cos (2 t)}{15}", "0.49", "\\sqrt{4 \\pi G \\rho_{0} r_{0}^{2}}"),
    "gsm8k": ("2", "18", "72", "300", "1450"),
    "mawps": ("5.0", "43.0", "237.0", "6400.0"),
}  # fmt: skip
SINGLE_VALUES = ("decimals", "thousands", "plain-text", "readings", "typesetting", "rearranged")


@pytest.fixture(scope="module")
def suites():
    sys.path.insert(0, str(BENCHMARKS))
    yield importlib.import_module("grader_suites")
    sys.path.remove(str(BENCHMARKS))


def rewritings(suites, kinds, limit):
    golds = [suites.Gold(text, name, name) for name, texts in GOLDS.items() for text in texts]
    return suites.rewritings_of(golds, kinds, limit, seed=5)


def test_every_kind_makes_answers_of_both_labels(suites):
    made = rewritings(suites, suites.KINDS, 60)
    assert {item.kind for item in made} == set(suites.KINDS)
    assert len(set(made)) == len(made)
    for kind in suites.KINDS:
        labels = Counter(item.equal for item in made if item.kind == kind)
        assert min(labels[True], labels[False]) >= 3, kind


def test_the_same_seed_makes_the_same_answers(suites):
    assert rewritings(suites, ["sets", "names"], 40) == rewritings(suites, ["sets", "names"], 40)


@pytest.mark.parametrize("kind", SINGLE_VALUES)
def test_labels_of_single_values_agree_with_their_values(suites, kind):
    checked = 0
    for item in rewritings(suites, [kind], 400):
        gold, answer = (expression_of(text) for text in (item.gold, item.answer))
        if gold is None or answer is None:
            continue
        assert same_value(gold, answer) == item.equal, item
        checked += 1
    assert checked >= 40


def test_labels_of_matrices_agree_with_their_values(suites):
    made = rewritings(suites, ["matrices"], 400)
    checked = 0
    for item in made:
        gold, answer = (matrix_of(text) if "matrix" in text or "array" in text else expression_of(text)
                        for text in (item.gold, item.answer))  # fmt: skip
        both = isinstance(gold, sympy.MatrixBase), isinstance(answer, sympy.MatrixBase)
        same = both[0] == both[1] and (
            sympy.Matrix([[gold - answer]]).is_zero_matrix if not any(both) else gold == answer
        )
        assert same == item.equal, item
        checked += 1
    assert checked == len(made)


def test_the_grader_is_right_about_what_the_rules_make(suites):
    made = rewritings(suites, suites.KINDS, 45)
    with GraderPool(workers=2, timeout_s=20.0) as pool:
        grades = pool.grade_many([(item.response, item.gold, item.data_source) for item in made])
    wrong = [item for item, grade in zip(made, grades, strict=True) if grade.correct != item.equal]
    assert len(wrong) <= 0.005 * len(made), "\n".join(map(str, wrong))


def test_pairs_are_of_different_golds_of_one_set_and_drawn_once(suites):
    golds = [suites.Gold(text, name, name) for name, texts in GOLDS.items() for text in texts]
    pairs = suites.pairs_of(golds, 200, seed=0)
    assert len(pairs) == len(set(pairs)) == 200
    assert all(one.benchmark == other.benchmark and one.text != other.text for one, other in pairs)
    few = suites.pairs_of(golds[:3], 200, seed=0)
    assert len(few) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kinds", "decimal"], "--kinds: got 'decimal', expected did you mean decimals?"),
        (["--data", "nowhere"], "nowhere: none of aime24.jsonl"),
    ],
)
def test_what_cannot_work_is_one_line(arguments, message):
    ended = subprocess.run(
        [sys.executable, BENCHMARKS / "grader_suites.py", *arguments], capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert message in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
