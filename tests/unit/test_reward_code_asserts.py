"""Tests that are code: a pass is theirs to say, and the program can neither read, end nor replace them."""

from __future__ import annotations

import asyncio
import base64
import json
import pickle
import zlib

import pytest

from tests.support.isolation import LACKS, isolated, require
from verl_ext.errors import ConfigError
from verl_ext.reward.code import store
from verl_ext.reward.code.compare import same_text, same_tokens
from verl_ext.reward.code.formats import (
    humaneval_tests,
    kodcode_tests,
    livecodebench_tests,
    mbpp_tests,
    taco_tests,
    unpacked,
)
from verl_ext.reward.code.grade import grade_code
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.code.tests import MalformedTests, read_tests
from verl_ext.reward.grader import grade
from verl_ext.reward.metrics import program_metrics
from verl_ext.reward.options import RewardOptions
from verl_ext.reward.score import reward_of
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.plain import decode, encode
from verl_ext.sandbox.pool import SandboxPool
from verl_ext.sandbox.slot import Checker, Job, Slot

HUMANEVAL = {
    "prompt": "def helper(x):\n    return x + 1\n\ndef f(x: int) -> int:\n    '''Double x.'''\n",
    "entry_point": "f",
    "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(helper(2)) == 6\n",
}


@pytest.fixture(scope="module", params=list(LACKS))
def run(request):
    """In one slot of each isolation."""
    require(request.param)
    sandbox = SandboxPool(1, Limits(cpu_s=1, wall_s=3, memory_mb=256), request.param)
    yield sandbox.run
    sandbox.close()


def verdict(run, code: str, tests: dict) -> tuple[bool, str, str]:
    found = grade_code(f"```python\n{code}\n```", json.dumps(tests), run)
    return found.correct, found.status, found.detail


WRONG = {
    "returns nothing": ("def f(x): return None", "wrong_answer"),
    "wrong on the last": ("def f(x): return 4", "wrong_answer"),
    "ends the process at once": ("import sys; sys.exit(0)", "runtime_error"),
    "ends the process in the call": ("def f(x):\n    import sys; sys.exit(0)", "runtime_error"),
    "ends it for good": ("def f(x):\n    import os; os._exit(0)", "runtime_error"),
    "an object that equals everything": (
        "class E(int):\n    def __eq__(self, other): return True\n    __hash__ = int.__hash__\ndef f(x): return E()",
        "runtime_error",
    ),
    "patched builtins": (
        (
            "import builtins\nbuiltins.AssertionError = type('A', (Exception,), {})\nbuiltins.isinstance = lambda *_: True\n"
            "builtins.len = builtins.abs = lambda x: 0\ndef f(x): return 0"
        ),
        "runtime_error",
    ),
    "replaces the helper of the tests": ("def helper(x): return 2\ndef f(x): return 4", "wrong_answer"),
    "replaces check": ("def check(candidate): pass\ndef f(x): return 0", "wrong_answer"),
    "replaces the module of the tests": (
        (
            "import sys\nfor m in list(sys.modules.values()):\n    for n in ('check', 'helper', 'conclude'):\n"
            "        if hasattr(m, n): setattr(m, n, lambda *a, **k: None)\ndef f(x): return 0"
        ),
        "wrong_answer",
    ),
    "reads its callers' frames": (
        (
            "import sys, gc\ndef f(x):\n    frame, seen = sys._getframe(), []\n    while frame:\n"
            "        seen.append(str(frame.f_locals) + str(frame.f_globals.keys())); frame = frame.f_back\n"
            "    texts = [t for t in gc.get_objects() if isinstance(t, str)]\n"
            "    return 2 * x if any('candidate(2) ' + '== 4' in t for t in seen + texts) else 0"
        ),
        "wrong_answer",
    ),
    "writes a verdict to every descriptor": (
        (
            'import os\nfor d in range(64):\n    try: os.write(d, b\'{"verdict": "passed", "detail": ""}\\n\')\n'
            "    except OSError: pass\ndef f(x): return 0"
        ),
        "runtime_error",
    ),
    "answers with nesting": ("def f(x):\n    y = []\n    for _ in range(900): y = [y]\n    return y", "runtime_error"),
    "answers at length": ("def f(x): return 'x' * 2**22", "runtime_error"),
    "closes its pipes": ("import os; os.closerange(0, 64)\ndef f(x): return 4", "runtime_error"),
    "loops": ("def f(x):\n    while True: pass", "time_limit"),
    "sleeps": ("import time\ndef f(x): time.sleep(60)", "time_limit"),
    "takes memory": ("def f(x): return len(bytearray(2**31))", "memory_limit"),
    "prints without end": ("def f(x):\n    while True: print('x' * 1000)", "output_limit"),
    "does not compile": ("def f(:", "compile_error"),
    "has no such function": ("def g(x): return 2 * x", "no_function"),
    "raises": ("def f(x): return 1 / 0", "runtime_error"),
}


@isolated
@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_compute_is_wrong_and_the_next_program_is_right(run, name):
    code, detail = WRONG[name]
    tests = humaneval_tests(HUMANEVAL)
    assert verdict(run, code, tests) == (False, "ok", detail)
    assert verdict(run, "def f(x): return 2 * x", tests) == (True, "ok", "")


@isolated
def test_program_s_process_is_started_before_the_tests_are_sent(monkeypatch, run):
    """What the program's memory can hold is what was sent before the slot said that its process is there."""
    events = []
    write, read = Slot._write, Slot._read_line

    def writing(self, message, deadline):
        events.append(("sent", message.decode()))
        write(self, message, deadline)

    def reading(self, timeout_s):
        line = read(self, timeout_s)
        events.append(("read", line.decode()))
        return line

    monkeypatch.setattr(Slot, "_write", writing)
    monkeypatch.setattr(Slot, "_read_line", reading)
    run(Job("def f(x): return 2 * x", checker=Checker("", "assert f('in') == 'a-secret-value'", ("f",), False)))
    kinds = [(kind, "a-secret-value" in text) for kind, text in events]
    assert kinds[-4:] == [("sent", False), ("read", False), ("sent", True), ("read", False)]
    assert json.loads(events[-3][1]) == {"tests": True}


@isolated
def test_forms_of_tests(run):
    double = "def f(x, by=2): return x * by"
    tests = {"form": "asserts", "setup": "", "entry_point": "f"}
    assert verdict(run, double, {**tests, "test": "assert f(2) == 4\nassert f(2, by=3) == 6"})[0]
    pytest_style = (
        "import pytest\nfrom solution import f\ndef test_one():\n    assert f([1, (2,)]) == [1, (2,), 1, (2,)]\n"
        "@pytest.mark.parametrize('x, y', [(1, 2), (3, 6)])\ndef test_two(x, y):\n    assert f(x) == y\n"
        "def test_three():\n    with pytest.raises(TypeError, match='NoneType'):\n        f(None)\n"
    )
    assert verdict(run, double, {**tests, "test": pytest_style})[0]
    assert verdict(run, "def f(x): return x", {**tests, "test": pytest_style})[2] == "wrong_answer"
    unittest_style = (
        "import unittest\nfrom solution import f\nclass TestF(unittest.TestCase):\n"
        "    def test_it(self):\n        self.assertEqual(f(2), 4)\n"
    )
    assert verdict(run, double, {**tests, "test": unittest_style})[0]
    assert verdict(run, "def f(x): return 5", {**tests, "test": unittest_style})[2] == "wrong_answer"
    in_place = {**tests, "test": "x = [3, 1]\nassert f(x) is None\nassert x == [1, 3]"}
    assert verdict(run, "def f(x): x.sort()", in_place)[0]
    both = {**tests, "test": "x = [3, 1]\nassert f(x) == sorted(x)"}
    assert not verdict(run, "def f(x):\n    x.clear()\n    return []", both)[0], "emptied what it is compared with"
    assert verdict(run, "class Solution:\n    def f(self, x): return 2 * x", {**tests, "test": "assert f(1) == 2"})[0]


@isolated
def test_names_without_setup_are_the_program_s_and_with_it_are_not(run):
    code = "def helper(x): return x + 1\ndef f(x): return 2 * x"
    open_tests = {"form": "asserts", "test": HUMANEVAL["test"], "entry_point": "f"}
    assert verdict(run, code, open_tests) == (True, "ok", "")
    assert verdict(run, code, {**open_tests, "setup": ""}) == (False, "ok", "wrong_answer")


@isolated
@pytest.mark.parametrize(
    "test, why",
    [
        ("def check(candidate): pass", "do not call the program"),
        ("def check(candidate:", "do not compile"),
        ("import pytest\npytest.approx(1)", "AttributeError before they call"),
        ("def check(candidate): candidate(object())", "hand over an object of type object"),
        ("def test_it(fixture): pass", "TypeError before they call"),
    ],
)
def test_faults_of_the_tests_are_no_verdict(run, test, why):
    tests = {"form": "asserts", "setup": "", "test": test, "entry_point": "f"}
    correct, status, detail = verdict(run, "def f(x): return 0", tests)
    assert (correct, status) == (False, "unparsable_gold") and why in detail


@isolated
@pytest.mark.parametrize("source", ["humaneval", "mbpp", "kodcode"])
def test_sources_of_asserts_are_graded(source):
    gold = json.dumps({"form": "asserts", "test": "def check(g):\n    assert g(1) == 2", "entry_point": "f"})
    assert grade("```python\ndef f(x): return 2 * x\n```", gold, data_source=source).correct
    assert not grade("```python\ndef f(x): return x\n```", gold, data_source=source).correct


def test_plain_values_keep_their_types():
    values = [None, True, 2**70, -(2**70), 0.1, float("inf"), "ä\ud800", [1, (2, {3})], {1: [2], (1, 2): "x"}, 1j]
    values += [range(1, 9, 2), b"\x00x", frozenset({1}), {}, set()]
    again = decode(json.loads(json.dumps(encode(values))))
    assert again == values and [type(a) for a in again] == [type(v) for v in values]
    for other in (object(), type("E", (str,), {})("x"), [iter([])]):
        with pytest.raises(TypeError):
            encode(other)


def packed(text: object) -> str:
    return base64.b64encode(zlib.compress(pickle.dumps(text))).decode()


def test_livecodebench_rows_are_read():
    public = json.dumps([{"input": "1\n", "output": "2", "testtype": "stdin"}])
    private = packed(json.dumps([{"input": "3\n", "output": "6", "testtype": "stdin"}]))
    row = {"public_test_cases": public, "private_test_cases": private, "metadata": "{}"}
    assert livecodebench_tests(row) == {"form": "stdin", "inputs": ["1\n", "3\n"], "outputs": ["2", "6"]}
    calls = json.dumps([{"input": "[1, 2]\n3", "output": "[4]", "testtype": "functional"}])
    row = {"public_test_cases": calls, "private_test_cases": packed("[]"), "metadata": '{"func_name": "f"}'}
    assert livecodebench_tests(row) == {"form": "call", "fn_name": "f", "inputs": [[[1, 2], 3]], "outputs": [[4]]}
    with pytest.raises(MalformedTests, match="func_name None"):
        livecodebench_tests({**row, "metadata": "{}"})


class Runs:
    def __reduce__(self):
        return print, ("unpickled",)


@pytest.mark.parametrize(
    "blob, why",
    [
        (packed(Runs()), "asks for builtins.print"),
        (packed(["a"]), "unpickle to list"),
        (packed(b"a"), "asks for|unpickle to bytes"),
        ("no base64!", "not base64"),
        (base64.b64encode(b"no zlib").decode(), "not base64 of zlib"),
        (base64.b64encode(zlib.compress(b"no pickle")).decode(), "not base64 of zlib"),
        (base64.b64encode(zlib.compress(b"")).decode(), "not base64 of zlib"),
    ],
)
def test_private_tests_that_are_no_text_are_refused_and_nothing_runs(blob, why, capsys):
    with pytest.raises(MalformedTests, match=why):
        unpacked(blob)
    assert capsys.readouterr().out == ""


def test_mbpp_kodcode_and_taco_rows_are_read():
    row = {"code": "def helper(x): return x\ndef f(x): return x", "test_list": ["assert f(1) == 1"]}
    assert mbpp_tests(row)["entry_point"] == ["f"]
    with pytest.raises(MalformedTests, match="none of the functions"):
        mbpp_tests({**row, "test_list": ["assert g(1)"]})
    row = {"solution": "def f(x): return x\nclass C: pass", "test": "from solution import f\ndef test_f(): assert f(1)"}
    assert kodcode_tests(row)["entry_point"] == ["f"]
    with pytest.raises(MalformedTests, match="they use C, of which"):
        kodcode_tests({**row, "test": "from solution import C"})
    assert kodcode_tests({**row, "test": "from solution import *"})["entry_point"] == ["f"]
    assert taco_tests({"input_output": '{"inputs": ["1"], "outputs": ["2"]}'}) == {"inputs": ["1"], "outputs": ["2"]}
    read_tests(json.dumps(taco_tests({"input_output": '{"inputs": ["1"], "outputs": ["2"]}'})))


@pytest.mark.parametrize(
    "output, expected, tokens, text",
    [
        ("1 2\n", "1  2", True, False),
        ("1\n2", "1 2", True, False),
        ("0.3333333", "0.333333", True, False),
        ("1.00001", "1.0", False, False),
        ("3", "3.0", True, False),
        ("3.0", "3", False, False),
        ("2e3", "2000.0", True, False),
        ("nan", "1.0", False, False),
        ("50000000000000001", "50000000000000000", False, False),
        ("x\n\n", "x", True, True),
    ],
)
def test_other_comparisons(output, expected, tokens, text):
    assert (same_tokens(output, expected), same_text(output, expected)) == (tokens, text)


@pytest.mark.parametrize(
    "options, key",
    [
        ({"comparison": "fuzzy"}, "code.comparison"),
        ({"sandbox": "none"}, "code.sandbox"),
        ({"cpu_s": 0}, "code.cpu_s"),
        ({"cpu_s": 3, "wall_s": 2}, "code.wall_s"),
        ({"memory_mb": 63}, "code.memory_mb"),
    ],
)
def test_options_that_cannot_work_are_refused_by_name(options, key):
    with pytest.raises(ConfigError, match=key):
        CodeOptions(**options)


def test_options_of_the_reward_manager_are_named_in_full():
    options = RewardOptions(code={"cpu_s": 2, "comparison": "tokens", "tests_dirs": ["a"]}).code_options(["b"])
    assert (options.limits.cpu_s, options.limits.wall_s, options.comparison) == (2, 8, "tokens")
    assert options.tests_dirs == ("a", "b")
    with pytest.raises(ConfigError, match="reward.reward_kwargs.code.cpus: .*code.cpu_s"):
        RewardOptions(code={"cpus": 2})
    with pytest.raises(ConfigError, match="reward.reward_kwargs.code.memory_mb: got 1"):
        RewardOptions(code={"memory_mb": 1})


def test_run_metrics_of_programs_are_shares_and_cpu_time():
    metrics = program_metrics(["passed", "wrong_answer", "", "time_limit", "timeout"], [0.1, 0.1, 9.0, 0.2, 0.0])
    assert metrics["reward/code/wrong_answer"] == metrics["reward/code/time_limit"] == 0.25
    assert metrics["reward/code/no_function"] == 0.0
    assert metrics["reward/code/cpu_seconds_per_1000"] == pytest.approx(100.0)
    assert program_metrics(["", ""], [1.0, 1.0]) == {}


@isolated
def test_reward_of_a_program_says_what_became_of_it():
    gold = json.dumps({"form": "stdin", "inputs": ["1"], "outputs": ["2"]})
    for code, outcome in (("print(2)", "passed"), ("print(1)", "wrong_answer"), ("1 / 0", "runtime_error")):
        response = f"```python\n{code}\n```"
        assert (
            reward_of(grade(response, gold, data_source="code"), response, 1, RewardOptions())["grade_program"]
            == outcome
        )
    assert reward_of(grade("\\boxed{5}", "5"), "", 1, RewardOptions())["grade_program"] == ""


@isolated
def test_reward_manager_takes_options_and_tests_beside_its_data(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq
    from omegaconf import OmegaConf

    from verl_ext.reward.manager import MathVerifyPoolRewardManager

    gold = store.put({"form": "stdin", "inputs": ["1"], "outputs": ["0.5"]}, tmp_path / "tests")
    row = {"data_source": "code", "reward_model": {"ground_truth": gold}}
    path = str(tmp_path / "train.parquet")
    pq.write_table(pa.Table.from_pylist([row]), path)
    found = []
    for comparison in ("tokens", "lcb"):
        kwargs = {"workers": 1, "code": {"comparison": comparison, "cpu_s": 2}}
        config = {"reward": {"reward_kwargs": kwargs}, "data": {"train_files": path}}
        manager = MathVerifyPoolRewardManager(OmegaConf.create(config), None)
        found.append(asyncio.run(manager._grade(row, "```python\nprint(0.5 + 1e-9)\n```")))
    assert [(each.correct, each.status) for each in found] == [(True, "ok"), (False, "ok")]
