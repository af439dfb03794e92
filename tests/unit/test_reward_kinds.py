"""Kinds of answers in two forms: pairs that are the same answer, and near misses that are not; both in both directions.

`shared/cases/grading.jsonl` beside the repository holds further pairs, with whole responses.
"""

import json
from pathlib import Path

import pytest

from verl_ext.reward.grading import Grade, prepare
from verl_ext.reward.worker.confined import decide

HANDED = Path(__file__).resolve().parents[2] / "../shared/cases/grading.jsonl"


def verdict(response, gold, source="math"):
    result = prepare(response, gold, source)
    if isinstance(result, Grade):
        assert result.status == "ok"
        return result.correct
    correct, status, _ = decide(result)
    assert status in ("ok", "unparsable_gold")
    return correct


EQUAL = {
    "words in front": [
        ("\\text{The answer is } 9", "9"),
        ("\\text{Answer: } 9", "9"),
        ("\\text{The final answer is: } \\frac{1}{4}", "0.25"),
        ("\\text{Area: } 9\\text{ cm}^2", "9\\text{ cm}^2"),
        ("\\text{The least value is } 2\\sqrt3", "\\sqrt{12}"),
        ("\\text{exactly } 9", "9"),
        ("\\text{Total } 9", "9"),
        ("\\text{Total} = 9.5", "9.5"),
        ("\\text{Total}: 9", "9"),
        ("\\text{Yes, } x=9", "9"),
        ("\\text{The points are } (1,2),(3,4)", "(1,2),(3,4)"),
        ("So the answer is 9", "9"),
        ("answer: 9", "9"),
    ],
    "decimals": [
        ("0.25x", "\\frac{x}{4}"),
        ("y=1.5x-2", "y=\\frac{3}{2}x-2"),
        ("0.2\\pi", "\\frac{\\pi}{5}"),
        ("x^{1.5}", "x\\sqrt{x}"),
        ("e^{-0.25t}", "e^{-t/4}"),
        ("0.7(x+3)", "0.7x+2.1"),
        ("50(1.02)^n", "50\\left(\\frac{51}{50}\\right)^n"),
        ("\\sin(0.5x)", "\\sin\\frac{x}{2}"),
        ("0.1+0.2x", "\\frac{1+2x}{10}"),
        ("\\frac{0.5}{x}", "\\frac{1}{2x}"),
        ("1.25\\sqrt{2}", "\\frac{5\\sqrt2}{4}"),
        ("0.125^x", "2^{-3x}"),
    ],
    "names": [
        ("a+b = 12", "12"),
        ("CD = 9", "9"),
        ("g(2) = 11", "11"),
        ("\\angle B = 45^\\circ", "45"),
        ("(a,b)=(4,7)", "(4,7)"),
        ("P(B)=\\frac{2}{5}", "\\frac25"),
        ("12+30=42", "42"),
        ("\\sqrt{49}=7", "7"),
        ("|PQ|=8", "8"),
        ("S_{ADE}:S_{ABC}=4:25", "4:25"),
        ("r=3, s=4", "(3,4)"),
        ("s=4, r=3", "(3,4)"),
        ("\\log_3 81 = 4", "4"),
        ("\\sum_{k=1}^{10} k = 55", "55"),
        ("\\text{Area} = 20", "20"),
        ("\\sin A = \\frac{3}{5}", "\\frac35"),
        ("m+n=7", "n+m=7"),
        ("\\sin^2 t+\\cos^2 t=1", "1"),
        ("2+3=5=5", "5"),
        ("a_{n=1} = 6", "6"),
        ("EF = FE = 6", "6"),
    ],
    "thousands": [
        ("45,000 \\text{ people}", "45000"),
        ("2{,}500 \\text{ m}^2", "2500"),
        ("1,440^\\circ", "1440"),
        ("25,000 tickets", "25000"),
        ("x=3,600", "x=3600"),
        ("2{,}000\\pi", "2000\\pi"),
        ("(3{,}000, 4{,}000)", "(3000,4000)"),
        ("(1,200, 3,400)", "(1200,3400)"),
        ("\\frac{1,000}{3}", "\\frac{1000}{3}"),
        ("12,345.5", "12345.5"),
        ("1,000,000 \\text{ cells}", "1000000"),
        ("6,250", "6, 250"),
        ("2\\sqrt{1,001}", "2\\sqrt{1001}"),
    ],
    "matrices": [
        ("\\left[\\begin{array}{cc}5 & 6\\\\7 & 8\\end{array}\\right]", "\\begin{pmatrix}5&6\\\\7&8\\end{pmatrix}"),
        ("\\left(\\begin{array}{c}2\\\\3\\end{array}\\right)", "\\begin{bmatrix}2\\\\3\\end{bmatrix}"),
        ("\\begin{vmatrix}2&1\\\\3&4\\end{vmatrix}", "5"),
        ("\\left|\\begin{array}{cc}2&1\\\\3&4\\end{array}\\right|", "5"),
        (
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}+\\begin{pmatrix}3\\\\4\\end{pmatrix}",
            "\\begin{pmatrix}4\\\\6\\end{pmatrix}",
        ),
        (
            "\\begin{pmatrix}1&0\\\\0&2\\end{pmatrix}\\begin{pmatrix}3\\\\4\\end{pmatrix}",
            "\\begin{pmatrix}3\\\\8\\end{pmatrix}",
        ),
        ("2\\begin{pmatrix}1\\\\x\\end{pmatrix}", "\\begin{pmatrix}2\\\\2x\\end{pmatrix}"),
        ("\\begin{bmatrix}0.5\\\\1\\end{bmatrix}", "\\begin{pmatrix}\\frac12\\\\[4pt]1\\end{pmatrix}"),
        ("\\begin{pmatrix}1&1\\\\0&1\\end{pmatrix}^2", "\\begin{pmatrix}1&2\\\\0&1\\end{pmatrix}"),
        ("A^{-1}=\\begin{pmatrix}1&0\\\\0&2\\end{pmatrix}", "\\begin{pmatrix}1&0\\\\0&2\\end{pmatrix}"),
    ],
    "plain text": [
        ("pi/6", "\\frac{\\pi}{6}"),
        ("3*pi", "3\\pi"),
        ("ln(5)", "\\ln 5"),
        ("y**3", "y^3"),
        ("cos(x)", "\\cos x"),
        ("exp(4)", "e^4"),
        ("sqrt(2)/2", "\\frac{\\sqrt2}{2}"),
        ("2*theta", "2\\theta"),
        ("x^(n+1)", "x^{n+1}"),
        ("x>=2", "x\\ge 2"),
        ("x <= 7", "(-\\infty,7]"),
        ("(-inf, 3) U (5, inf)", "(-\\infty,3)\\cup(5,\\infty)"),
        ("abs(t)", "|t|"),
        ("x^10", "x^{10}"),
    ],
    "sets": [
        ("\\mathbb{R}", "x\\in(-\\infty,\\infty)"),
        ("\\text{all real numbers}", "\\mathbb{R}"),
        ("\\varnothing", "\\{\\}"),
        ("\\text{no solution}", "\\emptyset"),
        ("x\\ne 3", "(-\\infty,3)\\cup(3,\\infty)"),
        ("\\mathbb{R}\\setminus\\{1,-1\\}", "(-\\infty,-1)\\cup(-1,1)\\cup(1,\\infty)"),
        ("-2x<6", "x>-3"),
        ("x^2<9", "(-3,3)"),
        ("x<1 \\text{ or } x>4", "(-\\infty,1)\\cup(4,\\infty)"),
        ("x>1 \\text{ and } x<4", "(1,4)"),
        ("\\{x \\mid x>7\\}", "(7,\\infty)"),
        ("3x+k \\text{ for any constant } k", "3x+k"),
        ("n\\pi, n\\in\\mathbb{Z}", "k\\pi, k\\in\\mathbb{Z}"),
        ("\\frac{2}{7} \\textbf{ miles}", "\\frac27"),
        ("y \\approx 12", "12"),
        ("x+y<1", "2x+2y<2"),
    ],
    "readings": [
        ("0.\\overline{6}", "\\frac23"),
        ("0.1\\overline{6}", "\\frac16"),
        ("1.\\overline{27}", "\\frac{14}{11}"),
        ("{8 \\choose 2}", "28"),
        ("\\lg 1000", "3"),
        ("7:15 AM", "7:15 \\text{ a.m.}"),
        ("16:30", "4:30 \\text{ p.m.}"),
        ("\\frac{dx}{dt}=2x", "x'=2x"),
        ("\\ddot{x}+x", "x''+x"),
        ("\\frac{d^2y}{dx^2}", "y''"),
        (
            "\\begin{cases}x & x\\ge 0\\\\-x & x<0\\end{cases}",
            "\\begin{cases}-x & \\text{if } x<0\\\\x & \\text{otherwise}\\end{cases}",
        ),
        ("\\begin{cases}x=1\\\\y=2\\end{cases}", "x=1, y=2"),
        ("2:3", "4:6"),
        ("2:3:4", "4:6:8"),
    ],
    "units": [
        ("\\$25", "25 \\text{ dollars}"),
        ("60\\text{ mph}", "60\\text{ miles per hour}"),
        ("36\\text{ km/h}", "10\\text{ m/s}"),
        ("100\\sqrt2\\text{ cm}", "\\sqrt2\\text{ m}"),
        ("12\\text{ units}", "12"),
        ("35 percent", "35\\%"),
        ("20\\text{ square units}", "20\\text{ cm}^2"),
    ],
    "braces and words around a number": [
        ("{\\text{Navin}}", "\\text{Navin}"),
        ("{{12}}", "12"),
        ("{\\{1,2\\}}", "\\{2,1\\}"),
        ("{2}^{10}", "1024"),
        ("\\text{58,500}", "58500"),
        ("\\text{\\$\\frac{14}{5}}", "\\frac{14}{5}"),
        ("\\frac{13}{4} \\text{ cm$^2$}", "\\frac{13}{4} \\text{ square centimeters}"),
        ("3\\text{ m$^3$}", "3 \\text{ cubic meters}"),
    ],
    "letters that are no words": [
        ("-bc+ad", "ad-bc"),
        ("a(b-c)", "ab-ac"),
        ("yx-xz", "xy-xz"),
        ("K = ad-bc", "ad-bc"),
        ("(ab)(cd)", "abcd"),
        ("xyzw", "wxyz"),
        ("p q-(p+q)", "pq-p-q"),
        ("\\frac{2xy-2xz}{2}", "xy-xz"),
        ("n(m-k)", "mn-kn"),
        ("a*b*c*d", "abcd"),
    ],
    "numbers in brackets": [
        ("2(3)", "6"),
        ("(3)(4)", "12"),
        ("\\frac12(3)(4)", "6"),
        ("A=\\frac12bh=\\frac12(3)(4)=6", "6"),
        ("\\pi(3)^2", "9\\pi"),
        ("12(x+1)(3)", "36x+36"),
        ("\\binom{4}{2}(5)", "30"),
        ("3(-2)", "-6"),
        ("2\\cdot3(4)", "24"),
        ("f(x)=2(3)x", "f(x)=6x"),
    ],
    "factorials and named values": [
        ("5! = 120", "120"),
        ("3!+2! = 8", "8"),
        ("8! / 2! = 20160", "20160"),
        ("a_1+a_2=2", "2"),
        ("\\frac{S_1}{S_2}=2", "2"),
        ("|z|^2=5", "5"),
        ("\\sigma^2=2", "2"),
        ("\\operatorname{Var}(X)=2", "2"),
        ("x^*=2", "2"),
        ("6 = m+n", "6"),
        ("N \\bmod 5 = 2", "2"),
    ],
    "what shows nothing": [
        ("\\textcolor{red}{6}", "6"),
        ("\\color{blue}6", "6"),
        ("\\large 6", "6"),
        ("6 \\quad \\checkmark", "6"),
        ("6\\hspace{1cm}", "6"),
        ("\\tag{1} 6", "6"),
        ("=6", "6"),
        ("\\therefore x=6", "6"),
        ("`6`", "6"),
        ("６", "6"),
        ("\\#6", "6"),
        ("\\sim 6.28", "6.28"),
        ("\\text{negative }6", "-6"),
        ("\\langle 1,2,3\\rangle", "(1,2,3)"),
        ("\\left(2;4\\right)", "(2,4)"),
        ("P(2,4)", "(2,4)"),
    ],
    "multiples and money": [
        ("1.5\\text{ million}", "1500000"),
        ("2 \\text{ billion}", "2\\times10^9"),
        ("\\$1.2 \\text{ million}", "\\$1,200,000"),
        ("3 hundred", "300"),
        ("2.5 million", "2500000"),
        ("\\text{€}5", "5"),
        ("£5", "5"),
        ("USD 5", "5"),
        ("US\\$5", "5"),
        ("\\text{twenty-one}", "21"),
    ],
    "residues": [
        ("n \\equiv 3 \\pmod{7}", "3 \\pmod 7"),
        ("x\\equiv 2\\ (\\mathrm{mod}\\ 5)", "x\\equiv 2\\pmod 5"),
        ("x\\equiv 7\\pmod 5", "x\\equiv 2\\pmod 5"),
        ("N\\equiv 2\\pmod 5", "2"),
        ("2 \\pmod 5", "2"),
    ],
    "several equations": [
        ("x=5\\lor x=6", "5,6"),
        ("x=5 \\vee x=6", "\\{5,6\\}"),
        ("x=2\\quad y=4", "(2,4)"),
        ("x=2\\\\y=4", "(2,4)"),
        ("x=2\\; y=4", "(2,4)"),
        ("1 \\quad 2 \\quad 3", "1,2,3"),
    ],
}


NOT_EQUAL = {
    "letters that are no words": [
        ("bc-ad", "ad-bc"),
        ("a(b+c)", "ab-ac"),
        ("xy-yz", "xy-xz"),
        ("wxy", "wxyz"),
        ("(ab)(cc)", "abcd"),
        ("pq+p-q", "pq-p-q"),
        ("m(n-k)", "mn-kn"),
        ("5", "abcd"),
        ("parabola", "hyperbola"),
        ("ad-bd", "ad-bc"),
    ],
    "numbers in brackets": [
        ("2(3)", "5"),
        ("(3)(4)", "7"),
        ("\\frac12(3)(4)", "\\frac72"),
        ("A=\\frac12(3)(4)=7", "7"),
        ("\\pi(3)^2", "6\\pi"),
        ("12(3)", "123"),
        ("3(-2)", "1"),
        ("\\binom{4}{2}(5)", "11"),
        ("2\\cdot3(4)", "10"),
        ("(3)(4)", "34"),
    ],
    "factorials and named values": [
        ("5! = 121", "121"),
        ("5! = 120", "5"),
        ("3!+2! = 9", "9"),
        ("a_1^2=9", "9"),
        ("x^2=9", "9"),
        ("5 \\ne 120", "120"),
        ("|z|^2=5", "25"),
        ("\\frac{S_1}{S_2}=2", "\\frac12"),
        ("6 = m+n", "m+n"),
        ("x^*=2", "3"),
    ],
    "multiples and money": [
        ("6\\text{ thousand}", "6"),
        ("6\\text{ million}", "6"),
        ("6\\text{ hundred}", "6"),
        ("1.5\\text{ million}", "1.5"),
        ("£5", "\\$5"),
        ("\\text{€}5", "6"),
        ("2 billion", "2000000"),
        ("\\text{twenty-one}", "22"),
        ("\\$1.2 \\text{ million}", "\\$12,000,000"),
        ("\\text{negative }6", "6"),
    ],
    "residues": [
        ("x\\equiv 3\\pmod 5", "x\\equiv 2\\pmod 5"),
        ("x\\equiv 2\\pmod 7", "x\\equiv 2\\pmod 5"),
        ("3 \\pmod 5", "2"),
        ("2 \\pmod 5", "5"),
        ("17 \\bmod 5", "17"),
    ],
    "several equations": [
        ("x=5\\lor x=6", "6"),
        ("x=5 \\vee x=6", "5"),
        ("x=5 \\quad x=6", "6"),
        ("x=5 \\\\ x=6", "6"),
        ("x=5\\text{ but not }x=6", "6"),
        ("x=5\\text{ if }y=6", "6"),
        ("a=1 b=6", "6"),
        ("x=2\\; y=6", "6"),
        ("x=5 \\wedge y=6", "6"),
    ],
    "braces and words around a number": [
        ("{5}{6}", "5"),
        ("{\\text{Navin}}", "\\text{Nav}"),
        ("\\text{Total} = 9.5", "9"),
        ("\\text{58,500}", "58"),
        ("\\text{58,500}", "58501"),
        ("\\text{\\$\\frac{14}{5}}", "\\frac{14}{3}"),
        ("\\frac{13}{4} \\text{ cm$^2$}", "\\frac{13}{4} \\text{ cm$^3$}"),
        ("3\\text{ m$^3$}", "3 \\text{ square meters}"),
    ],
    "words in front": [
        ("\\text{The answer is } 8", "9"),
        ("\\text{The answer is not } 9", "9"),
        ("\\text{Answer: } \\frac{1}{3}", "0.25"),
        ("\\text{at least: } 9", "9"),
        ("\\text{more than } 9", "9"),
        ("\\text{Case } 9", "9"),
        ("\\text{between: } 9", "9"),
        ("\\text{The answer is } -9", "9"),
        ("\\text{The points are } (2,1)", "(1,2)"),
        ("answer: 8", "9"),
    ],
    "decimals": [
        ("0.5x", "\\frac{x}{4}"),
        ("0.333x", "\\frac{x}{3}"),
        ("0.14x", "\\frac{x}{7}"),
        ("x^{0.3}", "\\sqrt[3]{x}"),
        ("e^{-0.1t}", "e^{0.1t}"),
        ("0.3(x+2)", "0.3x+0.2"),
        ("100(0.8)^n", "100(0.08)^n"),
        ("1.414", "\\sqrt2"),
        ("3.14159r", "\\pi r"),
        ("0.1000000000000000001x", "\\frac{x}{10}"),
        ("2.0x", "x^2"),
    ],
    "names": [
        ("2+4=5", "5"),
        ("x^2=16", "16"),
        ("x^2=16", "4"),
        ("AB = 6", "7"),
        ("f(3)=6", "f(2)=6"),
        ("3+4=8=8", "8"),
        ("x = 7+5 = 13", "13"),
        ("2x=10", "10"),
        ("(x,y)=(1,2)", "(2,1)"),
        ("q=2,p=5", "(2,5)"),
        ("AB=5", "AC=5"),
        ("\\sum_{k=1}^{10} k = 54", "54"),
        ("\\sqrt{x}=3", "3"),
        ("x^2+y^2=25", "25"),
    ],
    "thousands": [
        ("45,000 \\text{ people}", "45, 0"),
        ("32, 349", "32349"),
        ("5, 100", "5100"),
        ("(100,200)", "100200"),
        ("1,440^\\circ", "440"),
        ("2{,}000\\pi", "2\\pi"),
        ("70,000 dollars", "70"),
        ("x=3,600", "x=36"),
        ("1, 2, 345", "12345"),
        ("12,000", "1200"),
        ("3.000", "3,000"),
    ],
    "matrices": [
        ("\\left[\\begin{array}{cc}5 & 6\\\\7 & 8\\end{array}\\right]", "\\begin{pmatrix}5&6\\\\7&9\\end{pmatrix}"),
        ("\\begin{vmatrix}2&1\\\\3&4\\end{vmatrix}", "6"),
        ("\\begin{vmatrix}2&1\\\\3&4\\end{vmatrix}", "\\begin{pmatrix}2&1\\\\3&4\\end{pmatrix}"),
        (
            "\\begin{pmatrix}1\\\\2\\end{pmatrix}+\\begin{pmatrix}3\\\\4\\end{pmatrix}",
            "\\begin{pmatrix}4\\\\7\\end{pmatrix}",
        ),
        (
            "\\begin{pmatrix}1&0\\\\0&2\\end{pmatrix}\\begin{pmatrix}3\\\\4\\end{pmatrix}",
            "\\begin{pmatrix}3\\\\4\\end{pmatrix}",
        ),
        ("2\\begin{pmatrix}1\\\\x\\end{pmatrix}", "\\begin{pmatrix}1\\\\x\\end{pmatrix}"),
        ("\\begin{pmatrix}1&2\\end{pmatrix}", "\\begin{pmatrix}1&2&3\\end{pmatrix}"),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "\\begin{pmatrix}1&3\\\\2&4\\end{pmatrix}"),
        ("\\begin{pmatrix}1&2\\\\3&4\\end{pmatrix}", "10"),
        ("\\begin{pmatrix}0.33\\\\1\\end{pmatrix}", "\\begin{pmatrix}\\frac13\\\\1\\end{pmatrix}"),
    ],
    "plain text": [
        ("pi/6", "\\frac{\\pi}{3}"),
        ("3*pi", "3\\pi^2"),
        ("ln(5)", "\\ln 6"),
        ("y**3", "3y"),
        ("cos(x)", "\\sin x"),
        ("exp(4)", "4e"),
        ("sqrt(2)/2", "\\sqrt{2}"),
        ("x>=2", "x>2"),
        ("x<=7", "x\\ge 7"),
        ("(-inf, 3) U (5, inf)", "(3,5)"),
        ("east", "seat"),
    ],
    "sets": [
        ("\\mathbb{R}", "(0,\\infty)"),
        ("\\mathbb{R}", "\\mathbb{Q}"),
        ("\\emptyset", "\\{0\\}"),
        ("x\\ne 3", "(-\\infty,3)"),
        ("x\\ne 3", "x=3"),
        ("-2x<6", "x<-3"),
        ("x^2<9", "(0,3)"),
        ("x<1 \\text{ or } x>4", "(1,4)"),
        ("x>1 \\text{ or } x<4", "x>1 \\text{ and } x<4"),
        ("n\\pi, n\\in\\mathbb{Z}", "n\\pi, n\\in\\mathbb{N}"),
        ("n\\pi, n\\in\\mathbb{Z}", "2n\\pi, n\\in\\mathbb{Z}"),
        ("y\\approx 12", "13"),
    ],
    "readings": [
        ("0.\\overline{6}", "0.6"),
        ("0.\\overline{3}", "0.333"),
        ("{8 \\choose 2}", "27"),
        ("\\lg 1000", "\\ln 1000"),
        ("7:15 AM", "7:15 PM"),
        ("7:15 AM", "7:16 AM"),
        ("\\frac{dx}{dt}", "x''"),
        ("y'", "y"),
        ("A^T", "A"),
        ("\\begin{cases}x & x\\ge 0\\\\-x & x<0\\end{cases}", "\\begin{cases}x & x\\le 0\\\\-x & x>0\\end{cases}"),
        ("1+2+\\ldots+10", "13"),
        ("1:2:3", "1:3:2"),
    ],
    "undefined and colons": [
        ("3:00", "12:00"),
        ("1:00", "12:00"),
        ("6:15", "12:30"),
        ("12:30", "\\frac{2}{5}"),
        ("\\frac{2}{0}", "\\frac{1}{0}"),
        ("\\frac{x}{0}", "\\frac{y}{0}"),
        ("\\frac{1}{0}", "\\infty"),
        ("0^{-1}", "\\frac10"),
        ("\\tan\\frac{\\pi}{2}", "\\frac{1}{0}"),
        ("\\ln 0", "\\frac{3}{0}"),
        ("\\infty-\\infty", "0"),
    ],
    "units": [
        ("\\$25", "25 \\text{ cm}"),
        ("\\text{\\$25}", "25 \\text{ kilograms}"),
        ("\\textbf{\\$25}", "25 \\text{ cm}"),
        ("25\\%", "25 \\text{ cm}"),
        ("\\text{25\\%}", "25 \\text{ dollars}"),
        ("60\\text{ mph}", "60\\text{ km/h}"),
        ("100\\sqrt2\\text{ cm}", "\\sqrt2\\text{ km}"),
        ("3 \\text{ apples}", "3 \\text{ oranges}"),
        ("20\\text{ square units}", "20\\text{ mph}"),
    ],
}


def both_directions(groups):
    return [
        pytest.param(one, other, id=f"{kind}: {one} | {other}")
        for kind, pairs in groups.items()
        for pair in pairs
        for one, other in (pair, pair[::-1])
    ]


@pytest.mark.parametrize(("gold", "answer"), both_directions(EQUAL))
def test_the_same_answer_in_another_form_is_correct(gold, answer):
    assert verdict(f"So \\boxed{{{answer}}}.", gold)


@pytest.mark.parametrize(("gold", "answer"), both_directions(NOT_EQUAL))
def test_a_near_miss_is_not_correct(gold, answer):
    assert not verdict(f"So \\boxed{{{answer}}}.", gold)


@pytest.mark.parametrize("text", ["\\frac{1}{0}", "1:00", "\\tan\\frac{\\pi}{2}"])
def test_what_is_undefined_equals_its_own_text(text):
    assert verdict(f"\\boxed{{{text}}}", text)


PHRASES = [
    ("The answer is 36, in total, so he sold 36.", "36", "48"),
    ("The final answer is 36 because 12 + 24 is 36.", "36", "12"),
    ("The answer is $25. He spends $30 a week.", "25", "30"),
    ("Therefore the final answer is 36!", "36", "37"),
    ("The final answer is 36, not 48.", "36", "48"),
    ("The answer is 36 (that is, 12 + 24).", "36", "24"),
    ("The answer is **36**, as 12 of 48 are gone.", "36", "48"),
    ("#### 36, in total", "36", "63"),
    ("The answer is 1,200 since each costs 12.", "1200", "12"),
    ("The answer is $3$ and $4$.", "3, 4", "3"),
    ("The answer is 36 - not 48.", "36", "-12"),
    ("#### 72 clips in April and May", "72", "73"),
    ("#### 18 dollars every day at the farmers' market", "18", "81"),
    ("#### 20 cups of feed for the final meal", "20", "2"),
    ("The answer is therefore 17.", "17", "7"),
    ("So the answer is equal to 17.", "17", "71"),
    ("The answer is approximately 72.", "72", "7"),
    ("Answer: 3/4 of the cake", "3/4", "3"),
    ("The answer is 12 km from town.", "12", "21"),
    ("The answer is 3.5 (rounded).", "3.5", "3"),
    ("#### = 5", "5", "6"),
    ("The answer is `5`.", "5", "6"),
    ("The answer is 2.5 million.", "2500000", "2.5"),
]


@pytest.mark.parametrize(("response", "gold", "wrong"), PHRASES)
def test_what_follows_the_answer_in_its_sentence_is_no_part_of_it(response, gold, wrong):
    assert verdict(response, gold, "gsm8k")
    assert not verdict(response, wrong, "gsm8k")


BOXES = [
    ("$\\boxed{8}$, $\\boxed{8}$", "8", "8, 8"),
    ("\\boxed{8}\n\\boxed{8}", "8", "88"),
    ("\\boxed{\\frac12} and \\boxed{0.75}", "\\frac12, \\frac34", "\\frac34"),
    ("$\\boxed{2}$ and $\\boxed{-3}$", "-3, 2", "-3"),
    ("\\(\\boxed{2}\\) and \\(\\boxed{-3}\\)", "2, -3", "2"),
    ("\\boxed{2}\\quad\\boxed{5}", "2, 5", "5"),
    ("\\boxed{2} \\text{ and } \\boxed{5}", "5, 2", "5"),
    ("\\boxed{2} or \\boxed{5}", "2, 5", "5"),
    ("x=\\boxed{2} or x=\\boxed{5}", "2, 5", "5"),
    ("\\boxed{\\frac{1}{3}} or \\boxed{\\frac{2}{3}}", "\\frac13, \\frac23", "\\frac23"),
    ("First \\boxed{2}.\n\nBut no: \\boxed{5}.", "5", "2"),
    ("\\boxed{5}, \\boxed{100}", "5, 100", "5100"),
    ("$\\boxed{3}$ (or $\\boxed{4}$)", "3, 4", "4"),
    ("$\\boxed{3}$ (or perhaps $\\boxed{4}$)", "3, 4", "4"),
    ("$\\boxed{4}$ and/or $\\boxed{5}$", "4, 5", "5"),
    ("$\\boxed{3}$ or, $\\boxed{4}$", "3, 4", "4"),
    ("It could be $\\boxed{3}$ or it could be $\\boxed{4}$.", "3, 4", "4"),
]


@pytest.mark.parametrize(("response", "gold", "wrong"), BOXES)
def test_boxes_are_parts_alternatives_or_two_answers(response, gold, wrong):
    assert verdict(response, gold)
    assert not verdict(response, wrong)


CHOICES = [
    "The answer is B - none of them.",
    "Option B",
    "Answer: b",
    "Since $\\boxed{x^3}$ is largest.\nAnswer: B",
    "\\boxed{B}",
    "\\boxed{\\text{(B)}}",
    "The correct answer is (B) 12.",
    "Answer: B, although D is close",
    "**Answer: B**",
    "b)",
    "The answer is B. Option D is too large.",
    "So the correct option is B.",
    "The correct choice is (B).",
    "The correct option is: (B)",
    "So, (B) is correct.",
    "The correct answer would be (B).",
    "Answer: `B`",
    "<answer>B</answer>",
    "Answer: D is wrong, so the answer is B",
]
HEDGES = ["B or D", "B, D", "B/D", "(B) or (D)", "(B)(D)", "B and D", "B or D? Let me think."]


@pytest.mark.parametrize("answer", HEDGES)
def test_two_letters_are_no_choice(answer):
    for letter in "BD":
        assert not prepare(f"Answer: {answer}", letter, "multiple_choice").correct


@pytest.mark.parametrize(
    "response", ["Answer: A careful look shows C.", "The answer: I am not sure.", "Answer: I'd say"]
)
def test_an_article_is_no_choice(response):
    for letter in "AI":
        assert not verdict(response, letter, "multiple_choice")


HEDGED = [
    "5; or 6",
    "5 (or 6)",
    "5 (or maybe 6)",
    "5 - or 6",
    "5, possibly 6",
    "5, but it could be 6",
    "5 hours and 6 minutes",
]


@pytest.mark.parametrize("answer", HEDGED)
def test_a_hedge_behind_the_answer_counts(answer):
    for gold in ("5", "6"):
        assert not verdict(f"The answer is {answer}.", gold, "gsm8k")


def test_a_verb_behind_a_bare_number_is_no_amount():
    assert not verdict("The answer is 5 is wrong.", "5", "gsm8k")
    assert verdict("#### 18 dollars will be left", "18", "gsm8k")


@pytest.mark.parametrize("gold", ["\\textbf{(C) } 42", "\\text{(C) }42", "\\textbf{(C)}~42"])
def test_a_gold_with_its_letter_is_answered_by_either(gold):
    assert verdict("\\boxed{C}", gold) and verdict("\\boxed{42}", gold) and verdict(f"\\boxed{{{gold}}}", gold)
    assert not (verdict("\\boxed{B}", gold) or verdict("\\boxed{43}", gold))


@pytest.mark.parametrize("response", CHOICES)
def test_the_letter_that_is_named_last_as_the_answer_is_the_choice(response):
    assert verdict(response, "B", "multiple_choice")
    assert not verdict(response, "D", "multiple_choice")


@pytest.mark.skipif(not HANDED.is_file(), reason=f"no pairs at {HANDED}")
def test_handed_pairs_have_the_right_verdict():
    cases = [json.loads(line) for line in HANDED.read_text(encoding="utf-8").splitlines()]
    wrong = [case for case in cases if verdict(case["response"], case["gold"], case["data_source"]) != case["correct"]]
    assert wrong == []
