"""Grading in batches that cannot hang: what needs sympy runs in worker processes with hard limits.

    with GraderPool(workers=4, timeout_s=5.0) as pool:
        grades = pool.grade_many([(response, gold, "math500"), ...])

Works from threads, asyncio (`grade_async`), Ray actors and any start method, because the workers belong to a program of
their own (`host`), with which this module speaks through pipes.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import subprocess
import sys
import threading
from collections.abc import Collection, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import asdict
from typing import Any

from verl_ext.errors import ConfigError
from verl_ext.reward.code.grade import DEFAULTS, shared_code_grader
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.grading import Grade, Undecided, prepare, verdict_of
from verl_ext.reward.policy import GradingPolicy
from verl_ext.reward.scorers import check_names, require_allowed
from verl_ext.reward.sources import rule_for

Item = tuple[str, str | Sequence[str], str]
"""(response, gold, data source)"""

MAX_RESTARTS = 5
"""Times that a dead host is started again without one reply in between, before its answers become errors."""
_ENVIRONMENT = ("PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "SYSTEMROOT")
"""All that a grader process sees of the environment: no key, no token."""


def worker_environment() -> dict[str, str]:
    """The environment of a process that grades."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    environment.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", PYTHONDONTWRITEBYTECODE="1")
    return environment


class GraderPool:
    """Worker processes that decide what text and number comparison cannot.

    Args:
        workers: number of worker processes.
        timeout_s: wall time for one answer, counted from when its own work starts. A worker that exceeds it is killed
            and replaced; its answer has status `timeout`.
        memory_mb: address space of one worker; an answer that needs more has status `error`.
        evaluating_scorers: reasoning-gym tasks that are graded although their scorer runs text as Python.
        code: how programs are run; they have slots of their own, as many as workers.

    A caller may cancel what it waits for, time out, or be gone: its answer is given up, and nobody else's suffers.
    The first answer that needs a worker starts them (about two seconds). Thread-safe. A context manager.
    """

    def __init__(
        self,
        workers: int = 4,
        timeout_s: float = 5.0,
        memory_mb: int = 2048,
        evaluating_scorers: Collection[str] = (),
        code: CodeOptions = DEFAULTS,
    ) -> None:
        if workers < 1:
            raise ConfigError("reward.workers", given=workers, expected="1 or more worker processes")
        if not 0 < timeout_s < float("inf"):
            raise ConfigError("reward.timeout_s", given=timeout_s, expected="a positive number of seconds")
        if memory_mb < 512:
            raise ConfigError("reward.memory_mb", given=memory_mb, expected="512 or more (sympy alone needs 300)")
        check_names(evaluating_scorers)
        self._workers = workers
        self._evaluating_scorers = frozenset(evaluating_scorers)
        self._code = code
        self._command = [
            *(sys.executable, "-m", "verl_ext.reward.worker.host", "--workers", str(workers)),
            *("--timeout-s", str(timeout_s), "--memory-mb", str(memory_mb)),
        ]
        self._lock = threading.RLock()
        self._numbers = itertools.count()
        self._waiting: dict[int, tuple[str, Undecided, Future[Grade]]] = {}
        self._host: subprocess.Popen[str] | None = None
        self._restarts = 0
        self._closed = False
        self._has_reasoning_gym = False

    def __enter__(self) -> GraderPool:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def grade_many(
        self, items: Iterable[Item], *, policy: GradingPolicy | None = None, after_think: bool = False
    ) -> list[Grade]:
        """Grade a batch; the result is in the order of `items`.

        Raises:
            ConfigError: one of the data sources is unknown.
        """
        futures = [
            self.submit(response, gold, data_source, policy=policy, after_think=after_think)
            for response, gold, data_source in items
        ]
        return [future.result() for future in futures]

    async def grade_async(
        self,
        response: str,
        gold: str | Sequence[str],
        data_source: str,
        *,
        policy: GradingPolicy | None = None,
        after_think: bool = False,
    ) -> Grade:
        """Grade one response without blocking the event loop for longer than a text comparison."""
        return await asyncio.wrap_future(
            self.submit(response, gold, data_source, policy=policy, after_think=after_think)
        )

    def submit(
        self,
        response: str,
        gold: str | Sequence[str],
        data_source: str,
        *,
        policy: GradingPolicy | None = None,
        after_think: bool = False,
    ) -> Future[Grade]:
        """Start to grade one response; what text comparison can decide is decided on return."""
        if rule_for(data_source).extraction == "code":
            return shared_code_grader(self._workers, self._code).submit(response, str(gold))
        result = prepare(response, gold, data_source, policy=policy, after_think=after_think)
        if isinstance(result, Undecided):
            return self.send(result)
        future: Future[Grade] = Future()
        future.set_result(result)
        return future

    def decide(self, undecided: Undecided) -> Grade:
        """The grade of an answer that `grader.prepare` could not decide."""
        return self.send(undecided).result()

    def close(self) -> None:
        """End the workers. Answers that still wait get status `error`."""
        with self._lock:
            self._closed = True
            host, self._host = self._host, None
            if host is not None:
                host.stdin.close()
            self._give_up("the pool was closed")
        if host is not None:
            try:
                host.wait(timeout=5)
            except subprocess.TimeoutExpired:
                host.kill()
                host.wait()

    def send(self, undecided: Undecided) -> Future[Grade]:
        """Start to decide what `grader.prepare` could not.

        Raises:
            ConfigError: a reasoning-gym task whose scorer runs text as Python, and that was not allowed by name.
        """
        require_allowed(undecided.task, self._evaluating_scorers)
        number, future = next(self._numbers), Future()
        message = {"id": number, "undecided": asdict(undecided)}
        line = json.dumps(message) + "\n"
        with self._lock:
            if self._closed:
                raise RuntimeError("the GraderPool is closed")
            self._waiting[number] = (line, undecided, future)
            needs_reasoning_gym = bool(undecided.task) and not self._has_reasoning_gym
            if needs_reasoning_gym:
                self._has_reasoning_gym = True
            if self._host is None:
                self._start_host()
            elif needs_reasoning_gym:
                self._host.kill()  # its successor has the library loaded, and is handed everything that waits
            else:
                self._write([line])
        return future

    def _start_host(self) -> None:
        """Start the host and hand it everything that is waited for. The lock is held."""
        self._waiting = {number: entry for number, entry in self._waiting.items() if not entry[2].cancelled()}
        host = subprocess.Popen(
            [*self._command, *(["--reasoning-gym"] if self._has_reasoning_gym else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=worker_environment(),
            encoding="ascii",
            start_new_session=True,  # a terminal's Ctrl-C is for the caller, who then ends the host
        )
        try:  # an interrupted caller must not leave a host behind whose replies nobody reads
            threading.Thread(target=self._read, args=(host,), name="grader-replies", daemon=True).start()
            self._host = host
        except BaseException:
            host.kill()
            raise
        self._write([line for line, _, _ in self._waiting.values()])

    def _write(self, lines: list[str]) -> None:
        try:
            self._host.stdin.writelines(lines)
            self._host.stdin.flush()
        except (BrokenPipeError, ConnectionResetError):
            pass  # the host died; the reading thread sees its end and sends everything that waits to the next one

    def _read(self, host: subprocess.Popen[str]) -> None:
        for line in host.stdout:
            if not line.endswith("\n"):
                break  # cut off by the death of the host; the answer still waits
            reply = json.loads(line)
            with self._lock:
                self._restarts = 0
                waiting = self._waiting.pop(reply["id"], None)
            if waiting is not None:
                _, undecided, future = waiting
                _settle(future, verdict_of(undecided, tuple(reply["outcome"]), reply["seconds"]))
        host.wait()
        with self._lock:
            if self._closed or host is not self._host:
                return
            self._host = None
            self._restarts += 1
            if not any(not future.cancelled() for _, _, future in self._waiting.values()):
                self._waiting = {}
                return
            if self._restarts > MAX_RESTARTS:
                self._give_up(f"the grader host ended {self._restarts} times, last with code {host.returncode}")
            else:
                self._start_host()

    def _give_up(self, why: str) -> None:
        waiting, self._waiting = list(self._waiting.values()), {}
        for _, undecided, future in waiting:
            _settle(future, verdict_of(undecided, (False, "error", why), 0.0))


def _settle(future: Future[Grade], result: Grade) -> None:
    """Hand over the grade, unless whoever waited has given it up; from here on it can no longer do so."""
    if future.set_running_or_notify_cancel():
        future.set_result(result)


_shared: dict[tuple[Any, ...], GraderPool] = {}
_shared_lock = threading.Lock()


def shared_pool(
    workers: int = 1,
    timeout_s: float = 5.0,
    memory_mb: int = 2048,
    evaluating_scorers: Collection[str] = (),
    code: CodeOptions = DEFAULTS,
) -> GraderPool:
    """A pool kept until this process ends, one for each set of arguments; a forked child gets its own."""
    arguments = (workers, timeout_s, memory_mb, frozenset(evaluating_scorers), code)
    key = (os.getpid(), *arguments)
    with _shared_lock:
        if key not in _shared:
            _shared[key] = GraderPool(*arguments)
        return _shared[key]
