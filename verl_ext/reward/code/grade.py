"""From a response to a verdict: its last block of code, run on each test, and compared outside of the sandbox."""

from __future__ import annotations

import json
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from verl_ext.reward.code import store
from verl_ext.reward.code.compare import COMPARISONS, same_output, same_value
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.code.tests import Asserts, MalformedTests, read_tests, require_place
from verl_ext.reward.grading import Grade
from verl_ext.sandbox.checker import NOT_A_VERDICT
from verl_ext.sandbox.pool import SandboxPool
from verl_ext.sandbox.remote import REMOTE
from verl_ext.sandbox.slot import Job, Run

DEFAULTS = CodeOptions()
ANSWER_S = 300.0
"""Wall seconds for all tests of one answer; more is no verdict."""
MAX_PREDICTION_CHARS = 200
_FENCE = re.compile(r"^[ \t]*```[ \t]*(\S*)[ \t]*$")
_LANGUAGES = ("", "python", "py", "python3")


def last_block(response: str) -> str | None:
    """The last closed block of Python behind the last `</think>`; None where there is none."""
    found, block, language = None, None, ""
    for line in response.rsplit("</think>", 1)[-1].split("\n"):
        fence = _FENCE.match(line.rstrip("\r"))
        if block is None and fence:
            block, language = [], fence[1].lower()
        elif block is not None and fence and not fence[1]:
            if language in _LANGUAGES:
                found = "\n".join(block)
            block = None
        elif block is not None:
            block.append(line)
    return found


def grade_code(
    response: str,
    gold: str,
    run: Callable[[Job], Run],
    *,
    answer_s: float = ANSWER_S,
    same: Callable[[str, str], bool] = same_output,
) -> Grade:
    """Right exactly if every test passes (arXiv 2505.16400, section 3); stops at the first that does not.

    Args:
        response: what the model wrote.
        gold: the tests, see `tests.read_tests`. What is right does not enter the program's process.
        run: runs one job, see `SandboxPool.run`.
        answer_s: wall seconds for all tests.
        same: whether a standard output is the expected one, see `compare.COMPARISONS`.

    Returns:
        `seconds` is the CPU time of all runs. Why a program is wrong is in `detail`; `unparsable_gold`, `timeout` and
        `error` say nothing about the answer.
    """
    try:
        tests = read_tests(gold)
    except MalformedTests as error:
        return Grade(False, None, "unparsable_gold", 0.0, str(error))
    code = last_block(response)
    if code is None:
        return Grade(False, None, "no_answer")
    prediction = code[:MAX_PREDICTION_CHARS]
    if isinstance(tests, Asserts):
        return _grade_by_asserts(prediction, run(Job(code, checker=tests.checker)))
    deadline = time.monotonic() + answer_s
    seconds = 0.0
    for text, expected in zip(tests.inputs, tests.expected, strict=True):
        if time.monotonic() > deadline:
            return Grade(False, prediction, "timeout", seconds, "all tests together took too long")
        result = run(Job(code, text, tests.fn_name))
        seconds += result.cpu_s
        if result.status == "died":
            return Grade(False, prediction, "error", seconds, "the sandbox died over it")
        if result.status != "ok":
            return Grade(False, prediction, "ok", seconds, result.status)
        if not (same_value(result.output, expected) if tests.fn_name else same(result.output, str(expected))):
            return Grade(False, prediction, "ok", seconds, "wrong_answer")
    return Grade(True, prediction, "ok", seconds)


def _grade_by_asserts(prediction: str, run: Run) -> Grade:
    if run.status == "died":
        return Grade(False, prediction, "error", run.cpu_s, "the sandbox died over it")
    if run.status != "ok":
        return Grade(False, prediction, "ok", run.cpu_s, run.status)
    outcome = json.loads(run.output) if run.output else {"verdict": "gone"}  # the tests ended their own process
    verdict = outcome["verdict"]
    if verdict == NOT_A_VERDICT:
        return Grade(False, prediction, "unparsable_gold", run.cpu_s, f"tests: {outcome['detail']}")
    if verdict == "passed":
        return Grade(True, prediction, "ok", run.cpu_s)
    return Grade(False, prediction, "ok", run.cpu_s, "runtime_error" if verdict == "gone" else verdict)


class CodeGrader:
    """Grades several answers at a time, each in a slot of its own.

    Args:
        workers: slots.
        options: limits and comparison.

    Raises:
        ConfigError: no isolation works on this machine.
    """

    def __init__(self, workers: int, options: CodeOptions = DEFAULTS) -> None:
        self._sandbox = SandboxPool(workers, options.limits, options.sandbox, options.url)
        self._options = options
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="code_grader")

    def submit(self, response: str, gold: str) -> Future[Grade]:
        """Start to grade one response; see `grade_code`. The gold may also be the id of stored tests (`store`)."""
        return self._threads.submit(self._grade, response, gold)

    def _grade(self, response: str, gold: str) -> Grade:
        try:
            tests = store.get(gold, self._options.tests_dirs)
            if self._options.sandbox == REMOTE:
                require_place(read_tests(tests), REMOTE)
        except MalformedTests as error:
            return Grade(False, None, "unparsable_gold", 0.0, str(error), is_program=True)
        found = grade_code(response, tests, self._sandbox.run, same=COMPARISONS[self._options.comparison])
        return replace(found, is_program=True)


_shared: dict[tuple[int, int, CodeOptions], CodeGrader] = {}
_shared_lock = threading.Lock()


def shared_code_grader(workers: int = 1, options: CodeOptions = DEFAULTS) -> CodeGrader:
    """A grader kept until this process ends, one for each number of slots and options; a forked child gets its own."""
    key = (os.getpid(), workers, options)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = CodeGrader(workers, options)
        return _shared[key]
