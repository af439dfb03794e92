"""Where the final answer of a response is found."""

import pytest

from verl_ext.reward.grading import extract, prepare
from verl_ext.reward.math import extraction
from verl_ext.reward.policy import PUBLISHED, STRICT
from verl_ext.reward.sources import rule_for


def answer(response, source="math", policy=STRICT):
    return extract(response, rule_for(source), policy)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("first \\boxed{1}, then \\boxed{2}.", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1,2\\}}", "\\{1,2\\}"),
        ("\\fbox{7}", "7"),
        ("\\boxed {7}", "7"),
        ("\\boxed 7 is it", "7"),
        ("\\boxed{\\boxed{5}}", "5"),
        ("$\\boxed{1}$, $\\boxed{2}$", "1, 2"),
        ("\\boxed{1} and \\boxed{\\frac{1}{2}}", "1, \\frac{1}{2}"),
        ("\\boxed{3} is wrong, so \\boxed{4}", "4"),
    ],
)
def test_last_box_is_the_answer(response, expected):
    assert answer(response) == expected


@pytest.mark.parametrize("response", ["\\boxed{1} but then \\boxed{\\frac{1}{2}", "\\boxed{", "\\boxed", "\\boxed}{"])
def test_last_box_that_is_never_closed_is_no_answer(response):
    assert answer(response) is None
    assert prepare(response, "1", "math").status == "no_answer"


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("The final answer is $\\frac{1}{2}$. I hope it is correct.", "\\frac{1}{2}"),
        ("So the answer is 42.", "42"),
        ("Final answer: 42", "42"),
        ("the answer is: **42**", "42"),
        ("The answer is 1. No: the final answer is $2$.", "2"),
        ("The final answer is $\\$36$.", "\\$36"),
        ("The answer is \\(x=3\\).", "x=3"),
        ("The answer is 3.5 metres.", "3.5 metres"),
    ],
)
def test_phrase_names_the_answer_where_there_is_no_box(response, expected):
    assert answer(response) == expected


@pytest.mark.parametrize("response", ["It is 42", "", "   ", "the answer", "We get 17 and then 42"])
def test_a_number_alone_is_no_answer_unless_the_published_behaviour_is_asked_for(response):
    assert answer(response) is None
    assert answer(response, policy=PUBLISHED) == ("42" if "42" in response else None)


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("...\nAnswer: 42", "42"),
        ("**Answer:** 42", "42"),
        ("Answer: 1\nAnswer: $2$", "$2$"),
        ("\\boxed{42}", None),
        ("answer 42", None),
    ],
)
def test_dapo_plain_reads_the_answer_line(response, expected):
    assert answer(response, "math_dapo") == expected


def test_dapo_boxed_looks_only_at_the_last_characters():
    box = "\\boxed{42}"
    assert answer(box + "x" * (extraction.STRICT_BOX_TAIL - len(box)), "math_dapo_boxed") == "42"
    assert answer(box + "x" * extraction.STRICT_BOX_TAIL, "math_dapo_boxed") is None
    assert answer(box + "x" * extraction.STRICT_BOX_TAIL) == "42"


@pytest.mark.parametrize(("response", "expected"), [("#### 18", "18"), ("a #### 1\n#### 1,800", "1,800"), ("18", None)])
def test_gsm8k_reads_the_hash_line(response, expected):
    assert answer(response, "gsm8k") == expected


def test_gsm8k_prefers_the_box():
    assert answer("#### 17\n\\boxed{18}", "gsm8k") == "18"


@pytest.mark.parametrize(
    ("response", "correct", "status"),
    [
        ("<think>\\boxed{1}</think>\\boxed{2}", True, "ok"),
        ("<think>\\boxed{2}</think>\\boxed{1}", False, "ok"),
        ("<think>\\boxed{2}", False, "no_answer"),
        ("<think>\\boxed{2}</think> done", False, "no_answer"),
    ],
)
def test_after_think_looks_only_behind_the_thinking(response, correct, status):
    grade = prepare(response, "2", "math", after_think=True)
    assert (grade.correct, grade.status) == (correct, status)


def test_thinking_counts_unless_asked_otherwise():
    assert prepare("<think>\\boxed{2}", "2", "math").correct


def test_reasoning_gym_reads_the_answer_element():
    assert answer("<answer>1</answer> no, <answer> 2 </answer>", "reasoning_gym/leg_counting") == "2"
    assert answer("<answer>1", "reasoning_gym/leg_counting") is None
