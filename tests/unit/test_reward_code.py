"""The reward of a program: every test counts, cheats earn nothing, faults of the data are no verdict."""

from __future__ import annotations

import asyncio
import itertools
import json
import re

import pytest

from tests.support.isolation import LACKS, isolated, require
from verl_ext.errors import ConfigError
from verl_ext.reward.code.compare import same_output, same_value
from verl_ext.reward.code.grade import grade_code, last_block
from verl_ext.reward.code.tests import MalformedTests, read_tests
from verl_ext.reward.grader import grade
from verl_ext.reward.pool import GraderPool
from verl_ext.reward.sources import check_source
from verl_ext.sandbox import landlock, namespaces
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.pool import SandboxPool
from verl_ext.sandbox.slot import Run, Slot

DOUBLES = json.dumps(
    {"form": "stdin", "inputs": [f"{n}\n" for n in range(12)], "outputs": [f"{2 * n}\n" for n in range(12)]}
)
CALLS = json.dumps({"form": "call", "fn_name": "f", "inputs": [[3, 4], [5, 6]], "outputs": [[3, 4], [5, 6]]})


def answer(code: str) -> str:
    return f"Let me think.</think>\n```python\n{code}\n```\nDone."


@pytest.fixture(scope="module", params=list(LACKS))
def run(request):
    """In one slot of each isolation."""
    require(request.param)
    sandbox = SandboxPool(1, Limits(cpu_s=1, wall_s=3, memory_mb=256), request.param)
    yield sandbox.run
    sandbox.close()


@isolated
@pytest.mark.parametrize(
    "code, correct, detail",
    [
        ("print(2 * int(input()))", True, ""),
        ("n = int(input()); print(2 * n if n != 11 else 0)", False, "wrong_answer"),
        ("import sys; sys.exit(0)", False, "wrong_answer"),
        ("import os; os._exit(0)", False, "wrong_answer"),
        (
            "import sys\nf = sys._getframe()\nwhile f: print(f.f_locals.get('expected')); f = f.f_back",
            False,
            "wrong_answer",
        ),
        ("1 / 0", False, "runtime_error"),
        ("def f(:", False, "compile_error"),
    ],
)
def test_right_exactly_if_every_test_passes(run, code, correct, detail):
    grade = grade_code(answer(code), DOUBLES, run)
    assert (grade.correct, grade.status, grade.detail) == (correct, "ok", detail)


@isolated
def test_calls_compare_values(run):
    assert grade_code(answer("def f(a, b): return (a, b)"), CALLS, run).correct
    assert grade_code(answer("def f(a, b): return [3, 4]"), CALLS, run).detail == "wrong_answer"
    assert grade_code(answer("def g(a, b): return [3, 4]"), CALLS, run).detail == "no_function"


@isolated
def test_expected_outputs_are_in_no_byte_sent_to_a_slot(monkeypatch):
    sent = []
    write = Slot._write
    monkeypatch.setattr(Slot, "_write", lambda self, message, late: (sent.append(message), write(self, message, late)))
    sandbox = SandboxPool(1, Limits())
    gold = json.dumps({"inputs": ["1"], "outputs": ["a-secret-output"]})
    assert not grade_code(answer("print(input())"), gold, sandbox.run).correct
    sandbox.close()
    assert any(b"print(input())" in message for message in sent)
    assert not any(b"a-secret-output" in message for message in sent)


def test_what_says_nothing_about_the_answer_is_no_verdict():
    code = answer("print(1)")
    assert grade_code(code, DOUBLES, lambda job: Run("died")).status == "error"
    assert grade_code(code, "{}", lambda job: Run("ok")).status == "unparsable_gold"
    assert grade_code(code, DOUBLES, lambda job: Run("ok", "0"), answer_s=-1.0).status == "timeout"
    assert grade_code("print(1)", DOUBLES, lambda job: Run("ok")).status == "no_answer"


@pytest.mark.parametrize(
    "response, code",
    [
        ("```python\na\n```", "a"),
        ("```py\na\n```\n```\nb\n```", "b"),
        ("```python\na\n```\n```text\nb\n```", "a"),
        ("```python\na\n```\n```python\nunclosed", "a"),
        ("```python\nunclosed", None),
        ("```python\ndraft\n```</think> no block", None),
        ("no block", None),
    ],
)
def test_last_closed_block_behind_the_thinking_is_the_answer(response, code):
    assert last_block(response) == code


@pytest.mark.parametrize(
    "output, expected, same",
    [
        ("1 2\n", "1 2", True),
        (" 1 2 \n3\n\n", "1 2\n3", True),
        ("1  2", "1 2", True),
        ("a  b", "a b", False),
        ("1.0", "1", True),
        ("1e2", "100", True),
        ("0.30000000000000004", "0.3", False),
        ("50000000000000000", "50000000000000001", False),
        ("1\n2", "1 2", False),
        ("1\n\n2", "1\n2", False),
        ("NaN", "NaN", True),
        ("sNaN 1", "1 1", False),
        ("YES", "yes", False),
        ("", "", True),
        ("", "0", False),
    ],
)
def test_outputs_compare_as_livecodebench_compares_them(output, expected, same):
    assert same_output(output, expected) is same


def _by_hand(line: str) -> list[tuple[int, int]] | None:
    """The numbers of a line as integer and power of ten, without zeros at the end; None where a word is no number."""
    numbers = []
    for word in line.split():
        found = re.fullmatch(r"([+-]?)(\d*)\.?(\d*)(?:[eE]([+-]?\d+))?", word)
        if not found or not found[2] + found[3]:
            return None
        digits, power = int(found[2] + found[3]), int(found[4] or 0) - len(found[3])
        while digits and digits % 10 == 0:
            digits, power = digits // 10, power + 1
        numbers.append((-digits if found[1] == "-" else digits, power if digits else 0))
    return numbers


def _rules_of_livecodebench(output: str, expected: str) -> bool:
    ours, theirs = (list(map(str.strip, text.strip().split("\n"))) for text in (output, expected))
    for our, their in itertools.zip_longest(ours, theirs):
        if our is None or their is None:
            return False
        if our != their and (_by_hand(our) is None or _by_hand(our) != _by_hand(their)):
            return False
    return True


def test_comparison_is_that_of_an_implementation_with_whole_numbers_on_all_pairs():
    words = [
        "1",
        "1.0",
        "+1",
        "-1",
        "01",
        "1e0",
        "10e-1",
        ".5",
        "0.50",
        "5E-1",
        "0",
        "-0",
        "0.0",
        "1.",
        ".",
        "e5",
        "1,0",
        "a",
        "A",
        "1/1",
        "0x1",
        "12345678901234567890.0",
    ]
    lines = [*words, "12345678901234567891", "12345678901234567890", "", " 1", "1 ", "1 .5", "1.0\t0.5", "1  a", "1 a"]
    texts = [*lines, "1\n.5", "1\n0.5\n", "1\n\n.5", "\n1\n", "1 \r\n.5", "a\n1.0", "a \n 1", "A\n1"]
    verdicts = {pair: same_output(*pair) for pair in itertools.product(texts, repeat=2)}
    assert verdicts == {pair: _rules_of_livecodebench(*pair) for pair in verdicts}
    assert 0.05 < sum(verdicts.values()) / len(verdicts) < 0.5


def test_values_compare_as_json_and_broken_ones_are_wrong():
    assert same_value("[1, [2.0]]", [1, [2]])
    for broken in ("", "[" * 10**5, "9" * 10**5, '"1"'):
        assert not same_value(broken, 1)


@pytest.mark.parametrize(
    "gold, message",
    [
        ("x", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"form": "prose", "test": ""}', "unknown form 'prose'"),
        ('{"form": "asserts", "test": ""}', "none"),
        ('{"form": "asserts", "test": "assert f()", "entry_point": ["f()"]}', "entry_point is the name"),
        ('{"form": "call", "inputs": [], "outputs": []}', "form call with fn_name ''"),
        ('{"inputs": [], "outputs": []}', "none"),
        ('{"inputs": ["1"], "outputs": []}', "1 inputs and 0 outputs"),
        ('{"inputs": [1], "outputs": ["1"]}', "text, not int"),
        ('{"fn_name": "f", "inputs": [1], "outputs": [1]}', "a list, not int"),
    ],
)
def test_malformed_tests_are_one_line(gold, message):
    with pytest.raises(MalformedTests, match=message):
        read_tests(gold)


def test_apps_wraps_returned_values_in_a_list_of_one():
    tests = read_tests('{"fn_name": "f", "inputs": [[1]], "outputs": [[[2, 3]]]}')
    assert (tests.inputs, tests.expected) == (("1",), ([2, 3],))


@isolated
@pytest.mark.parametrize("source", ["code", "livecodebench"])
def test_every_door_grades_programs(source):
    right, wrong = answer("print(2 * int(input()))"), answer("print(input())")
    assert grade(right, DOUBLES, data_source=source).correct
    with GraderPool(1) as pool:
        grades = [pool.submit(text, DOUBLES, source).result() for text in (right, wrong)]
    assert [each.correct for each in grades] == [True, False]


@isolated
def test_reward_manager_grades_programs():
    from omegaconf import OmegaConf

    from verl_ext.reward.manager import MathVerifyPoolRewardManager

    manager = MathVerifyPoolRewardManager(OmegaConf.create({"reward": {"reward_kwargs": {"workers": 1}}}), None)
    row = {"data_source": "code", "reward_model": {"ground_truth": DOUBLES}}

    async def both():
        return [await manager._grade(row, answer(code)) for code in ("print(2 * int(input()))", "print(0)")]

    right, wrong = asyncio.run(both())
    assert right.correct
    assert (wrong.correct, wrong.status, wrong.detail) == (False, "ok", "wrong_answer")


def test_source_of_code_is_refused_where_nothing_isolates(monkeypatch):
    monkeypatch.setattr(landlock, "why_unavailable", lambda: "the kernel has no Landlock (ENOSYS)")
    monkeypatch.setattr(namespaces, "why_unavailable", lambda: "bubblewrap is not installed")
    with pytest.raises(ConfigError, match="no Landlock"):
        check_source("code", has_judge=False, evaluating_scorers=())
