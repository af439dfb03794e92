"""One slot: a confined process that runs programs one after another, each in a child of its own."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from verl_ext.sandbox import namespaces
from verl_ext.sandbox.limits import Limits

RunStatus = Literal[
    "ok", "runtime_error", "time_limit", "memory_limit", "output_limit", "compile_error", "no_function", "died"
]
HEAD_BYTES = 1024
"""As in the runner."""
START_S = 30.0
GRACE_S = 10.0
_RUNNER = Path(__file__).with_name("runner.py")
_ROOT = Path(__file__).parents[2]
READABLE = ("/usr", "/lib", "/lib64", "/etc/localtime", "/dev/null", "/dev/urandom", sys.base_prefix)
"""What a program may read of the machine: what Python is made of."""


class SlotError(RuntimeError):
    """The slot could not start, died, or did not answer in time."""


@dataclass(frozen=True)
class Checker:
    """Tests that are code; they run in a process of their own, see `checker.check`."""

    setup: str
    test: str
    names: tuple[str, ...]
    ask: bool


@dataclass(frozen=True)
class Job:
    """A program and one input; nothing in it but `checker`, which the program's process never gets, says what is right."""

    code: str
    input: str = ""
    """Standard input; for a call one JSON value a line, the arguments."""
    fn_name: str = ""
    """The function, or method of `Solution()`, to call; empty for a program that reads standard input."""
    checker: Checker | None = None


@dataclass(frozen=True)
class Run:
    """What became of one job."""

    status: RunStatus
    output: str = ""
    """Standard output, or the returned value as JSON, or what the checker concluded (`{"verdict", "detail"}`); empty
    unless `status` is `ok`. Untrusted, but for a checker's."""
    cpu_s: float = 0.0
    wall_s: float = 0.0


class Slot:
    """Starts the process; `close` ends it.

    Args:
        isolation: what keeps it from files: `landlock`, or `namespaces`, in which it is started.

    Raises:
        SlotError: it does not start.
    """

    def __init__(self, isolation: Literal["landlock", "namespaces"] = "landlock") -> None:
        program = [os.path.realpath(sys.executable), "-I", "-S", str(_RUNNER), str(_ROOT), isolation, *READABLE]
        if isolation == "namespaces":
            program = namespaces.command(program, (*READABLE, str(_RUNNER.parent)))
        self._process = subprocess.Popen(
            program,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
            cwd="/",
            start_new_session=True,
        )
        self.pid = self._process.pid
        self._came = b""
        try:
            self._read_line(START_S)
            _die_first(self.pid)
        except SlotError:
            os.kill(self.pid, signal.SIGKILL)
            lines = self._process.stderr.read().decode(errors="replace").strip().splitlines()
            self.close()
            raise SlotError(lines[-1] if lines else "no answer") from None

    def run(self, job: Job, limits: Limits) -> Run:
        """Run one job.

        Raises:
            SlotError: the slot died or is late; it is of no use any more.
        """
        checked = job.checker is not None
        code, name, text = (part.encode("utf-8", "surrogatepass") for part in (job.code, job.fn_name, job.input))
        head = {"code": len(code), "name": len(name), "input": len(text), "checked": checked}
        self._write(_head({**head, "limits": asdict(limits)}) + code + name + text, time.monotonic() + GRACE_S)
        if checked:
            self._read_line(GRACE_S)  # the program's process is there: from now on it can no longer get the tests
            tests = json.dumps(asdict(job.checker)).encode()
            self._write(_head({"size": len(tests)}) + tests, time.monotonic() + GRACE_S)
        answer = json.loads(self._read_line(limits.wall_s + GRACE_S))
        if answer["status"] == "not_confined":
            raise SlotError("a child could not give up its rights")
        output = self._read(answer.pop("size"), GRACE_S).decode("utf-8", "replace")
        return Run(**answer, output=output)

    def close(self) -> None:
        """Kill the process; its child dies with it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.stderr.close()

    def _write(self, message: bytes, deadline: float) -> None:
        pipe = self._process.stdin.fileno()
        os.set_blocking(pipe, False)
        view = memoryview(message)
        while view:
            if not select.select([], [pipe], [], max(0.0, deadline - time.monotonic()))[1]:
                raise SlotError("the slot does not read")
            try:
                view = view[os.write(pipe, view) :]
            except BrokenPipeError:
                raise SlotError("the slot died") from None

    def _read_line(self, timeout_s: float) -> bytes:
        """Up to the next newline."""
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._came:
            self._await(deadline)
        line, _, self._came = self._came.partition(b"\n")
        return line

    def _read(self, count: int, timeout_s: float) -> bytes:
        """So many bytes."""
        deadline = time.monotonic() + timeout_s
        while len(self._came) < count:
            self._await(deadline)
        output, self._came = self._came[:count], self._came[count:]
        return output

    def _await(self, deadline: float) -> None:
        if not select.select([self._process.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise SlotError("the slot is late")
        part = os.read(self._process.stdout.fileno(), 1 << 20)
        if not part:
            raise SlotError("the slot died")
        self._came += part


def _die_first(pid: int) -> None:
    """Where memory runs out, the kernel is to end a program, the largest first, and not who waits for it.

    What is started from now on below the process inherits this.
    """
    with contextlib.suppress(OSError):  # a kernel without such files, or a process that has just ended
        Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            _die_first(int(child))


def _head(values: dict[str, Any]) -> bytes:
    """A head as the runner reads it: JSON, as long as every other."""
    return json.dumps(values).encode().ljust(HEAD_BYTES)
