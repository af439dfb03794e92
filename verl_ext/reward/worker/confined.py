"""What runs in a worker process: one comparison with sympy, or a reasoning-gym scorer, under the limits of `confine`.

Some of reasoning-gym's scorers evaluate the answer as Python (`reward.scorers`). That is why a worker has no network,
cannot write files, start or reach processes, and has no secrets in its environment.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
import time
from typing import Any

from verl_ext.reward.grading import Status, Undecided
from verl_ext.reward.math.equivalence import Finding
from verl_ext.reward.math.qwen_equal import same_answer
from verl_ext.reward.math.qwen_symbolic import same_mathematics
from verl_ext.reward.math.settle import settle
from verl_ext.reward.math.symbolic import Unparsable
from verl_ext.reward.scorers import evaluates
from verl_ext.sandbox import filters, seccomp

Outcome = tuple[bool, Status, str]

ALARM_GRACE_S = 3.0
_PR_SET_PDEATHSIG = 1
_WRITE_FLAGS = 0o3 | 0o100 | 0o1000 | 0o2000  # O_ACCMODE, O_CREAT, O_TRUNC, O_APPEND
_READ_ONLY_OS_EVENTS = frozenset({"os.listdir", "os.scandir", "os.walk", "os.fwalk", "os.getxattr", "os.listxattr"})
_FORBIDDEN = re.compile(
    r"os\.|subprocess\.|socket\.|shutil\.|ctypes\.|pty\.|fcntl\.|mmap\.|tempfile\.|signal\.|sqlite3\.|webbrowser\.|"
    r"_thread\.start|resource\.|syslog\.|ssl\.|http\.|urllib\.|ftplib\.|smtplib\.|telnetlib\.|poplib\.|imaplib\.|nntplib\."
)
_DUNDER = re.compile(r"__\w")


_kernel_rules = False
"""Whether `confine` has put the kernel's rules on this process."""


def confine(memory_mb: int) -> None:
    """Give up, for the rest of this process, what grading does not need. Called once, after all imports.

    The kernel's limits (memory, file size, core dumps) and its rules about system calls hold for any code, and for root
    as for anybody else. Above them an audit hook stops Python code at the same doors and at others, such as ctypes. CPU
    time is bounded by the time limit of an answer (`run`). Where the machine has no such rules (`host` says so when it
    starts), limits and hook are all there is, and no scorer that evaluates an answer runs.
    """
    global _kernel_rules
    sys.dont_write_bytecode = True
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    memory = memory_mb * 2**20
    for limit, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NPROC, 0),  # of no effect for root
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(limit, (value, value))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if seccomp.why_unavailable() is None:
        seccomp.install(filters.CONFINED | filters.signals_to(os.getpid()))
        _kernel_rules = True
    sys.addaudithook(_deny)


def _deny(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open":
        mode, flags = arguments[1], arguments[2]
        if (isinstance(mode, str) and set(mode) & set("wax+")) or (isinstance(flags, int) and flags & _WRITE_FLAGS):
            raise PermissionError("a grader process does not write files")
    elif _FORBIDDEN.match(event) and event not in _READ_ONLY_OS_EVENTS:
        raise PermissionError(f"a grader process may not use {event}")


def run(undecided: Undecided, timeout_s: float) -> tuple[Outcome, float]:
    """Settle one comparison in a confined process; returns the outcome and the seconds that it took.

    The host kills a worker that exceeds the limit. Should the host be gone, the kernel does, a little later: an alarm
    without a handler also ends a process that is inside one long computation in C.
    """
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, timeout_s + ALARM_GRACE_S)
    started = time.perf_counter()
    outcome = decide(undecided)
    seconds = time.perf_counter() - started
    signal.setitimer(signal.ITIMER_REAL, 0)
    return outcome, seconds


def decide(undecided: Undecided, trace: list[Finding] | None = None) -> Outcome:
    """Settle one comparison. A failure is a status with its kind, never a verdict.

    Args:
        undecided: what to compare.
        trace: gets what each stage found, where our own rules compare.
    """
    try:
        if undecided.task:
            return _score(undecided)
        if undecided.policy.rules == "qwen":
            return bool(same_answer(undecided.prediction, undecided.gold, same_mathematics)), "ok", ""
        return settle(undecided.gold, undecided.prediction, undecided.policy, trace), "ok", ""
    except Unparsable as error:
        return False, "unparsable_gold", f"latex2sympy: {error}"
    except Exception as error:  # noqa: BLE001 - sympy raises whatever it likes; its kind is reported in the grade
        return False, "error", type(error).__name__


def _score(undecided: Undecided) -> Outcome:
    """The verdict of the reasoning-gym task's own scorer; only full marks are correct."""
    if evaluates(undecided.task) and not _kernel_rules:
        return False, "error", "no kernel rules here under which a scorer that evaluates answers could run"
    import reasoning_gym

    if _DUNDER.search(undecided.prediction):
        return False, "ok", "not an answer: it names a Python attribute"
    try:
        entry = json.loads(undecided.gold)
        scorer = reasoning_gym.get_score_answer_fn(undecided.task)
    except (ValueError, KeyError) as error:
        return False, "unparsable_gold", type(error).__name__
    return float(scorer(undecided.prediction, entry)) >= 1.0, "ok", ""
