"""From a response to a verdict: its last block of code, run on each test, and compared outside of the sandbox."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from verl_ext.reward.code.compare import same_output, same_value
from verl_ext.reward.code.tests import MalformedTests, Tests, read_tests
from verl_ext.reward.grading import Grade
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.pool import SandboxPool
from verl_ext.sandbox.slot import Job, Run

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


def grade_code(response: str, gold: str, run: Callable[[Job], Run], *, answer_s: float = ANSWER_S) -> Grade:
    """Right exactly if every test passes (arXiv 2505.16400, section 3); stops at the first that does not.

    Args:
        response: what the model wrote.
        gold: the tests, see `tests.read_tests`. They do not enter the sandbox.
        run: runs one job, see `SandboxPool.run`.
        answer_s: wall seconds for all tests.

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
        if not _passes(tests, result.output, expected):
            return Grade(False, prediction, "ok", seconds, "wrong_answer")
    return Grade(True, prediction, "ok", seconds)


class CodeGrader:
    """Grades several answers at a time, each in a slot of its own.

    Args:
        workers: slots.

    Raises:
        ConfigError: no isolation works on this machine.
    """

    def __init__(self, workers: int) -> None:
        self._sandbox = SandboxPool(workers, Limits())
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="code_grader")

    def submit(self, response: str, gold: str) -> Future[Grade]:
        """Start to grade one response; see `grade_code`."""
        return self._threads.submit(grade_code, response, gold, self._sandbox.run)


_shared: dict[tuple[int, int], CodeGrader] = {}
_shared_lock = threading.Lock()


def shared_code_grader(workers: int = 1) -> CodeGrader:
    """A grader kept until this process ends, one for each number of slots; a forked child gets its own."""
    key = (os.getpid(), workers)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = CodeGrader(workers)
        return _shared[key]


def _passes(tests: Tests, output: str, expected: object) -> bool:
    return same_value(output, expected) if tests.fn_name else same_output(output, str(expected))
