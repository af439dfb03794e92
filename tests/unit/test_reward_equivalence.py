"""Pairs that are the same answer, and near misses that are not; both in both directions."""

import pytest

from verl_ext.reward.grading import Grade, Undecided, prepare
from verl_ext.reward.math.equivalence import equivalent
from verl_ext.reward.policy import PUBLISHED, STRICT, GradingPolicy
from verl_ext.reward.worker.confined import decide


def verdict(gold, answer, policy=STRICT):
    result = prepare(f"So the answer is \\boxed{{{answer}}}.", gold, "math", policy=policy)
    if isinstance(result, Grade):
        assert result.status == "ok"
        return result.correct
    assert isinstance(result, Undecided)
    correct, status, _ = decide(result)
    assert status in ("ok", "unparsable_gold")
    return correct


EQUAL = {
    "integer": [("5", "5"), ("5", "5.0"), ("073", "73"), ("+2", "2"), ("27.0", "27"), ("-5", "−5")],
    "thousands": [
        ("58,500", "58500"),
        ("10,\\!080", "10080"),
        ("11,\\! 111,\\! 111,\\! 100", "11111111100"),
        ("1{,}234", "1,234"),
        ("1\\,234", "1234"),
        ("7,144", "144,7"),
    ],
    "fraction": [
        ("1/2", "\\frac12"),
        ("0.5", "\\dfrac{1}{2}"),
        ("\\frac 59", "5/9"),
        ("-\\frac{35}{9}", "\\frac{-35}{9}"),
        ("\\frac{270}7", "270/7"),
        ("-1./3", "-\\frac13"),
    ],
    "mixed number": [("1\\frac{4}{5}", "9/5"), ("137 \\frac{1}{2}", "137.5"), ("1 4/5", "1.8")],
    "scientific": [("3e8", "3\\times 10^8"), ("1e-3", "0.001"), ("4.5e33", "4.5 \\cdot 10^{33}"), ("10^{3}", "1000")],
    "percent": [("50", "50\\%"), ("50\\%", "0.5"), ("62.5%", "62.5"), ("$8 \\%$", "8")],
    "money": [("\\$36", "36"), ("\\$18.90", "18.9"), ("\\$32,\\!348", "32348")],
    "degrees": [
        ("76^\\circ", "76"),
        ("336^\\circ", "336^{\\circ}"),
        ("45°", "45^\\circ"),
        ("90\\text{ degrees}", "90^\\circ"),
    ],
    "units": [
        ("15\\mbox{ cm}^2", "15"),
        ("15\\mbox{ cm}^2", "15\\text{ cm}^2"),
        ("5.4 \\text{ cents}", "5.4"),
        ("864 \\mbox{ inches}^2", "864\\text{ square inches}"),
        ("5 \\text{ m}", "500\\text{ cm}"),
        ("18", "18 dollars"),
        ("3", "3 \\text{ apples}"),
        ("5 m", "5 \\mathrm{~m}"),
    ],
    "base": [("52_8", "52_{8}"), ("4210_{5}", "4210_5")],
    "choice": [("\\text{(C)}", "C"), ("(C)", "\\textbf{(C)}"), ("C", "(C)")],
    "words": [
        ("\\text{east}", "east"),
        ("\\text{Evelyn}", "evelyn"),
        ("\\text{even}", "\\text{Even}"),
        ("\\text{No}", "no"),
    ],
    "bold": [
        ("12", "**12**"),
        ("12", "\\mathbf{12}"),
        ("\\frac{1}{3}", "\\boldsymbol{\\frac{1}{3}}"),
        ("12", "\\textbf{12}"),
    ],
    "root": [
        ("2\\sqrt{5}", "\\sqrt{20}"),
        ("11\\sqrt2", "11\\sqrt{2}"),
        ("\\frac{\\sqrt{3}}{3}", "\\frac{1}{\\sqrt3}"),
        ("\\sqrt{\\frac1n}", "\\frac{1}{\\sqrt n}"),
        ("5 \\sqrt[3]{4}", "\\sqrt[3]{500}"),
    ],
    "expression": [
        ("p - q", "-q+p"),
        ("\\frac{1}{3} E_{1}+E_2", "E_{2}+E_1/3"),
        ("(a+5)(b+2)", "(b+2)(a+5)"),
        ("x^2+2x+1", "(x+1)^2"),
        ("6 - 5i", "-5i+6"),
        ("6+9i", "9 i + 6"),
        ("\\arcsin x+1", "1+\\operatorname{asin} x"),
        ("\\frac{n(n+1)}{2}", "\\frac{n^2+n}{2}"),
        ("e^{t} / 3", "\\frac{e^t}{3}"),
        ("\\frac{e^{2 i t}}{(2+2 i)}", "\\frac{(1-i)e^{2it}}{4}"),
        ("\\cot x", "\\frac{\\cos x}{\\sin x}"),
        ("$\\binom{2n}{n}$", "\\frac{(2n)!}{n!n!}"),
        ("\\frac{100!}{2^{50}}", "100!/2^{50}"),
    ],
    "constants": [
        ("\\sin(30^\\circ)", "1/2"),
        ("0", "\\sqrt{4}-2"),
        ("e^{i\\pi}", "-1"),
        ("\\ln 2", "\\log_e 2"),
        ("\\sqrt{2+\\sqrt3}", "\\frac{\\sqrt6+\\sqrt2}{2}"),
        ("\\tan^{-1}(1)", "\\frac{\\pi}{4}"),
        ("i", "\\sqrt{-1}"),
        ("\\log_2 8", "3"),
    ],
    "endings": [("7", "7."), ("7", "7 \\\\"), ("5", "5^{\\text{th}}"), ("7", "\\;7\\,")],
    "huge and tiny": [("2^{-99}", "\\frac{1}{2^{99}}"), ("10^{100}", "10^{100}"), ("\\frac{1}{2004!}", "1/2004!")],
    "name": [("x=5", "5"), ("f(x)=x+1", "x+1"), ("y = 2x + 3", "2x+3"), ("n = 3", "n=3")],
    "equation": [("y = 2x + 3", "2x-y+3=0"), ("5x - 7y + 11z + 4 = 0", "-5x+7y-11z=4"), ("x+y=1", "2x+2y=2")],
    "tuple": [
        ("(8,-2)", "\\left( 8, -2 \\right)"),
        ("\\left( 3, \\frac{\\pi}{2} \\right)", "(3,\\pi/2)"),
        ("(6,31,-1)", "[6, 31, -1]"),
        ("(3,4)", "3, 4"),
    ],
    "unordered": [
        ("1,-2", "-2, 1"),
        ("\\{1\\pm\\sqrt{5},-2\\}", "-2,1+\\sqrt5,1-\\sqrt5"),
        ("$8$,$4$", "4, 8"),
        ("1 \\pm \\sqrt{19}", "1-\\sqrt{19}, 1+\\sqrt{19}"),
        ("2,3", "x=3 \\text{ or } x=2"),
        ("1,2,3", "3, 2, and 1"),
        ("a=2, a=-6", "-6, 2"),
        ("(1,2),(3,4)", "(3,4),(1,2)"),
        ("3,-3", "\\pm 3"),
        ("2500,7500", "7500, 2500"),
    ],
    "interval": [
        ("(3,4]", "\\left(3,4\\right]"),
        ("x \\in [-2,7]", "[-2,7]"),
        ("x \\in [1,3]", "1 \\le x \\le 3"),
        ("[1,3]", "3 \\ge x \\ge 1"),
        ("(5,\\infty)", "x>5"),
        ("k \\geqslant 2", "[2,\\infty)"),
        ("(-\\infty, 2) \\cup (3, \\infty)", "(3,\\infty)\\cup(-\\infty,2)"),
        ("(-\\infty, 0) \\cup\\{1\\}.", "\\{1\\} \\cup (-\\infty,0)"),
    ],
    "matrix": [
        ("\\begin{pmatrix} 1/5 \\\\ -18/5 \\end{pmatrix}", "\\begin{bmatrix} 0.2 \\\\ -\\frac{18}{5} \\end{bmatrix}"),
        ("\\begin{pmatrix} -1 & 0 \\\\ 0 & -1 \\end{pmatrix}", "\\begin{pmatrix}-1&0\\\\0&-1\\end{pmatrix}"),
    ],
    "sequence": [("1,2,\\ldots,n", "1, 2, \\dots, n")],
    "approximation": [("\\frac{1}{3}", "\\frac{1}{3} \\approx 0.333"), ("12", "x = 7 + 5 = 12")],
}

NOT_EQUAL = {
    "number": [("5", "6"), ("5", "-5"), ("1/2", "1/3"), ("0.5", "0.05"), ("073", "74"), ("1\\frac{4}{5}", "4/5")],
    "mixed number": [("1 4/5", "14/5"), ("1 2", "12"), ("1 \\frac{4}{5}", "\\frac{14}{5}")],
    "thousands": [("1234", "1,2,3,4"), ("7,144", "144,8"), ("58,500", "58.5")],
    "rounding": [("1/3", "0.333"), ("\\frac{1}{3}", "0.3333333"), ("\\sqrt{2}", "1.41421")],
    "percent": [("50", "0.5"), ("0.5", "0.5\\%"), ("50\\%", "5\\%"), ("50", "5000")],
    "units": [
        ("5\\text{ m}", "5\\text{ cm}"),
        ("5 m", "5 cm"),
        ("15\\text{ cm}^2", "15\\text{ cm}^3"),
        ("5", "5x"),
        ("5\\text{ m}", "5\\text{ kg}"),
        ("6m", "6"),
        ("3\\text{ apples}", "3\\text{ pears}"),
    ],
    "base": [("52_8", "52"), ("52_8", "52_9"), ("52_8", "53_8"), ("52_8", "42")],
    "choice": [("\\text{(C)}", "D"), ("(C)", "(B)")],
    "words": [("east", "west"), ("\\text{even}", "odd"), ("\\text{Evelyn}", "\\text{Evelyn and Navin}")],
    "bold": [("12", "**13**"), ("12", "\\mathbf{21}")],
    "digits": [
        ("1+10^{-25}", "1"),
        ("10^{100}+1", "10^{100}"),
        ("100!", "100!+1"),
        ("10^{-700}", "0"),
        ("10^{30}", "10^{30}+1"),
    ],
    "angle": [("\\sin 1", "\\sin 1^\\circ"), ("30^\\circ", "60^\\circ")],
    "factorials": [("\\frac{1}{2004!}", "\\frac{1}{2006!}"), ("2^{-99}", "2^{-98}"), ("10^{100}", "10^{101}")],
    "expression": [
        ("x", "|x|"),
        ("\\sqrt{x^2}", "x"),
        ("\\frac{a}{b}", "\\frac{b}{a}"),
        ("2n", "2^n"),
        ("3R^2", "3R^3"),
        ("x+1", "x-1"),
        ("x", "y"),
        ("6-5i", "6+5i"),
        ("\\sin x", "\\cos x"),
        ("n!", "(n-1)!"),
        ("\\sqrt{5}", "\\sqrt{6}"),
    ],
    "case": [("R", "r"), ("2N", "2n"), ("\\Delta+1", "1+\\delta"), ("e^{-t/T}", "e^{-T/t}")],
    "name": [("x=1", "y=1"), ("f(n)=n", "f(n)=n+1")],
    "equation": [("y=2x+3", "y=2x+4"), ("2x+3y=6", "2x+3y=7"), ("2x+3y=6", "3x+2y=6"), ("2x+3y=6", "2x+3y")],
    "tuple": [("(1,2)", "\\{1,2\\}"), ("(1,2)", "(2,1)"), ("(1,2)", "(1,2,3)"), ("(1,2)", "2,1"), ("(1,2)", "[1,2]")],
    "unordered": [
        ("1,2", "1,2,3"),
        ("1,2", "1,1"),
        ("1,2", "1"),
        ("1 \\pm \\sqrt{19}", "1 \\pm \\sqrt{17}"),
        ("(1,2),(3,4)", "(1,3),(2,4)"),
        ("x=1, y=2", "x=2, y=1"),
    ],
    "interval": [
        ("[1,3]", "(1,3)"),
        ("x\\in[1,3]", "1<x\\le 3"),
        ("x>5", "x\\ge 5"),
        ("x>5", "x<5"),
        ("x>5", "y>5"),
        ("(5,\\infty)", "(-\\infty,5)"),
        ("(-\\infty,2)\\cup(3,\\infty)", "(-\\infty,2)\\cup(4,\\infty)"),
    ],
    "matrix": [
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 2 \\\\ 1 \\end{pmatrix}"),
        ("\\begin{pmatrix} 1 \\\\ 2 \\end{pmatrix}", "\\begin{pmatrix} 1 & 2 \\end{pmatrix}"),
        ("\\begin{pmatrix} 1 & 2 \\\\ 3 & 4 \\end{pmatrix}", "\\begin{vmatrix} 1 & 2 \\\\ 3 & 4 \\end{vmatrix}"),
    ],
    "sequence": [("1,2,\\ldots,n", "1,3,5,\\ldots,2n-1"), ("1,2,\\ldots,n", "1,2,n")],
}


def both_directions(groups):
    return [
        pytest.param(one, other, id=f"{rule}: {one} | {other}")
        for rule, pairs in groups.items()
        for pair in pairs
        for one, other in (pair, pair[::-1])
    ]


@pytest.mark.parametrize(("gold", "answer"), both_directions(EQUAL))
def test_same_answer_in_another_form_is_correct(gold, answer):
    assert verdict(gold, answer)


@pytest.mark.parametrize(("gold", "answer"), both_directions(NOT_EQUAL))
def test_near_miss_is_not_correct(gold, answer):
    assert not verdict(gold, answer)


@pytest.mark.parametrize("gold", ["(C)", "\\text{(C)}"])
@pytest.mark.parametrize(("answer", "correct"), [("(C) 12", True), ("C) 12", True), ("(B) 12", False), ("12", False)])
def test_choice_may_be_followed_by_its_text(gold, answer, correct):
    assert verdict(gold, answer) is correct


@pytest.mark.parametrize(
    ("gold", "answer", "strict", "published"),
    [
        ("1/3", "0.33333", False, True),
        ("1/3", "0.333", False, False),
        ("0.5", "50", False, True),
        ("50", "0.5", False, True),
        ("50", "5", False, False),
    ],
)
def test_published_behaviour_accepts_rounding_and_factors_of_100_and_strict_does_not(gold, answer, strict, published):
    assert verdict(gold, answer) is strict
    assert verdict(gold, answer, PUBLISHED) is published


def test_absolute_tolerance_is_in_the_unit_of_the_gold():
    policy = GradingPolicy(absolute_tolerance=0.1)
    assert verdict("4.2", "4.3", policy)
    assert not verdict("4.2", "4.31", policy)


def test_relative_tolerance_for_decimals_leaves_integers_exact():
    policy = GradingPolicy(relative_tolerance=1e-2)
    assert verdict("1.60", "1.61", policy)
    assert not verdict("1.60", "1.62", policy)
    assert not verdict("1000", "1001", policy)


def test_required_units_refuse_an_answer_without_one():
    policy = GradingPolicy(units="required")
    assert verdict("5\\text{ cm}", "5 cm", policy)
    assert not verdict("5\\text{ cm}", "5", policy)


@pytest.mark.parametrize("gold", ["\\frac{3}{4}", "(1,2)", "12", "x=5"])
def test_cheap_pairs_are_decided_without_symbols(gold):
    assert equivalent(gold, gold + " ", STRICT) is True
    assert equivalent(gold, "77", STRICT) is False


def test_symbols_are_asked_only_where_text_and_numbers_cannot_tell():
    assert equivalent("\\sqrt{20}", "2\\sqrt{5}", STRICT) is None
