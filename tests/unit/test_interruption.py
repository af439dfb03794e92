"""Signals: the first is noted, a second Ctrl-C ends the process at once, and a repeated first is no second."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from itertools import chain, repeat

import pytest

from verl_ext.trainer.run import interruption
from verl_ext.trainer.run.interruption import Interruption

pytestmark = pytest.mark.timeout(60)

START = """
import ctypes, os, sys
from verl_ext.trainer.run.interruption import Interruption
told = lambda: os.write(1, b"told\\n")  # in one piece, whatever the main thread writes
interruption = Interruption(told)
print("ready", flush=True)
"""
HANGS = """
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
libc.pthread_mutex_lock(mutex)  # for ever, without a look at Python's signal handlers: as in a collective
"""
SAVES = """
sys.stdin.readline()
os.write(1, f"{interruption.received}\\n".encode())
os._exit(75)
"""


class Run:
    """A process that handles signals as trainers do."""

    def __init__(self, then: str, **environment: str) -> None:
        clean = {name: value for name, value in os.environ.items() if name != "TORCHELASTIC_RUN_ID"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", START + then],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**clean, **environment},
        )
        assert self.process.stdout.readline() == "ready\n"

    def press(self, signals, *, seconds: float) -> int | None:
        """Send one signal after the other, twenty times a second, until the process ends or time is over."""
        until = time.monotonic() + seconds
        for number in signals:
            self.process.send_signal(number)
            if time.monotonic() > until:
                return self.process.poll()
            try:
                return self.process.wait(timeout=0.05)
            except subprocess.TimeoutExpired:
                continue
        return self.process.poll()

    def save(self) -> tuple[int, str]:
        """Let it come to its end: (exit code, the signal that it saw)."""
        out, _ = self.process.communicate("\n", timeout=30)
        return self.process.returncode, next(line for line in out.splitlines() if line != "told")


@pytest.fixture
def start():
    runs = []

    def _start(then: str, **environment: str) -> Run:
        runs.append(Run(then, **environment))
        return runs[-1]

    yield _start
    for run in runs:
        run.process.kill()
        run.process.communicate()


def test_a_second_ctrl_c_ends_a_run_that_hangs(start):
    run = start(HANGS)
    assert run.press(repeat(signal.SIGINT), seconds=interruption.SECOND_WITHIN_S) == 130
    assert "ended at once, without saving" in run.process.stderr.read()


def test_torchrun_passes_the_second_ctrl_c_on_as_sigterm(start):
    run = start(HANGS, TORCHELASTIC_RUN_ID="x")
    signals = chain([signal.SIGINT], repeat(signal.SIGTERM))
    assert run.press(signals, seconds=interruption.SECOND_WITHIN_S) == 130


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_that_is_repeated_is_no_second(start, number):
    run = start(SAVES, TORCHELASTIC_RUN_ID="x")
    for _ in range(3):
        run.process.send_signal(number)
    assert run.save() == (75, number.name)


@pytest.mark.parametrize("signals", [repeat(signal.SIGTERM), chain([signal.SIGINT], repeat(signal.SIGTERM))])
def test_a_scheduler_that_insists_lets_the_run_save(start, signals):
    run = start(SAVES)
    assert run.press(signals, seconds=2 * interruption.REPEATED_WITHIN_S) is None
    assert run.save() == (75, "SIGTERM")


def test_whoever_listens_is_told_once_while_the_main_thread_hangs(start):
    run = start(HANGS)
    run.press([signal.SIGTERM] * 3, seconds=1)
    assert run.process.stdout.readline() == "told\n"
    run.process.kill()
    assert run.process.stdout.read() == ""


def test_handlers_are_those_of_the_run():
    before = {number: signal.getsignal(number) for number in interruption.SIGNALS}
    try:
        run = Interruption()
        assert run.received is None
        signal.raise_signal(signal.SIGTERM)
        assert run.received == "SIGTERM"
    finally:
        signal.set_wakeup_fd(-1)
        for number, handler in before.items():
            signal.signal(number, handler)
