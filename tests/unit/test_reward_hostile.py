"""Hostile and random responses: graded without a crash, without sympy in this process, and in linear time."""

import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from verl_ext.reward.grading import Grade, prepare
from verl_ext.reward.math.equivalence import equivalent
from verl_ext.reward.math.normalise import normalise
from verl_ext.reward.math.structure import read_structure
from verl_ext.reward.policy import PUBLISHED, QWEN, STRICT

MEGABYTE = 10**6
HOSTILE = {
    "100,000 boxes": "\\boxed{7}" * 100_000,
    "open boxes": "\\boxed{" * (MEGABYTE // 7),
    "nested braces": "\\boxed{" + "{" * 400_000 + "}" * 400_000 + "}",
    "digits": "\\boxed{" + "9" * MEGABYTE + "}",
    "dollars": "$" * MEGABYTE,
    "half a delimiter": "answer is " + "$\\" * (MEGABYTE // 2),
    "phrases": "final answer is " * (MEGABYTE // 16),
    "hashes": "####" * (MEGABYTE // 4),
    "answer lines": "Answer:" * (MEGABYTE // 7),
    "blank answer": "Answer:" + " " * MEGABYTE,
    "nul": "\\boxed{" + "\0" * MEGABYTE + "}",
    "surrogates": "\\boxed{\ud800\udfff}" * 1000,
    "nested fractions": "\\boxed{" + "\\frac{1}{" * 200 + "2" + "}" * 200 + "}",
    "nested tuples": "\\boxed{" + "(1," * 600 + "2" + ")" * 600 + "}",
    "nested styles": "\\boxed{" + "\\mathbf{" * 200 + "7" + "}" * 200 + "}",
    "bold marks": "\\boxed{" + "**" * 900 + "}",
    "words": "\\boxed{5 " + "ab " * 600 + "}",
    "inequalities": "\\boxed{" + "x<" * 900 + "}",
    "unions": "\\boxed{" + "(1,2)\\cup" * 200 + "}",
    "commas": "\\boxed{1" + ",000" * 480 + "}",
    "plus minus": "\\boxed{" + ",".join(["\\pm1"] * 390) + "}",
    "backslashes": "\\boxed{" + "\\" * 1999 + "}",
    "closing thoughts": "</think>" * 100_000,
    "huge exponents": "\\boxed{1e99999}",
}
GOLDS = ["5", "\\frac{1}{2}", "(1,2)", "1,2,3", "x=5", "\\text{(C)}", "5\\text{ cm}", "[1,3]", "1\\pm\\sqrt2", "y=2x+3",
         "\\begin{pmatrix}1\\\\2\\end{pmatrix}", "1,2,\\ldots,n", "52_8", "(-\\infty,2)\\cup(3,\\infty)"]  # fmt: skip


@pytest.mark.timeout(60)
@pytest.mark.parametrize("response", HOSTILE.values(), ids=HOSTILE)
@pytest.mark.parametrize("source", ["math", "gsm8k", "math_dapo", "math_dapo_boxed", "multiple_choice"])
def test_hostile_response_is_never_correct_and_never_crashes(response, source):
    for gold in GOLDS:
        for policy in (STRICT, PUBLISHED, QWEN):
            result = prepare(response, gold, source, policy=policy)
            if isinstance(result, Grade) and policy is not QWEN:  # which takes `5 ab ab ab` for 5
                assert not result.correct


alphabet = st.sampled_from(
    ["\\", "{", "}", "(", ")", "[", "]", "$", "^", "_", "&", ",", ";", ".", "=", "<", ">", "+", "-", "*", "/", "%", "!",
     "|", " ", "\n", "\0", "1", "2", "9", "x", "e", "i", "\\frac", "\\sqrt", "\\text", "\\boxed{", "\\left", "\\le ",
     "\\pm", "\\cup", "\\infty", "\\circ", "\\begin{pmatrix}", "\\end{pmatrix}", "**", " and ", "cm", "\\{", "\\}", "#"]
)  # fmt: skip
soup = st.lists(alphabet, max_size=60).map("".join)
anything = soup | st.text(max_size=200)


@settings(max_examples=600, deadline=None)
@given(anything, anything)
def test_random_answers_are_compared_without_a_crash(gold, answer):
    assert equivalent(gold, answer, STRICT) in (True, False, None)
    assert equivalent(gold, answer, PUBLISHED) in (True, False, None)
    assert prepare(f"\\boxed{{{answer}}}", f"1{gold}", "math", policy=QWEN)


@settings(max_examples=300, deadline=None)
@given(anything)
def test_every_text_is_itself(text):
    if normalise(text):
        assert equivalent(text, text, STRICT) is True


@settings(max_examples=300, deadline=None)
@given(soup, soup)
def test_text_comparison_never_contradicts_itself(one, other):
    """One direction may leave to symbols what the other decides, but never decides the opposite."""
    assert {equivalent(one, other, STRICT), equivalent(other, one, STRICT)} != {True, False}


@settings(max_examples=300, deadline=None)
@given(anything)
def test_random_responses_are_prepared_without_a_crash(response):
    for source in ("math", "gsm8k", "math_dapo", "math_dapo_boxed", "multiple_choice"):
        prepare(response, "5", source, after_think=False)
        prepare(response, "5", source, after_think=True)
    read_structure(normalise(response))


def test_importing_the_grader_loads_nothing_heavy():
    code = (
        "import sys; from verl_ext.reward.grader import grade; from verl_ext.reward import pool, score, judge; "
        "assert grade('\\\\boxed{\\\\frac{1}{2}}', '0.5').correct; "
        "print([name for name in ('torch', 'ray', 'verl', 'sympy', 'math_verify', 'pebble') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")
