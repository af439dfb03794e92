"""The program inside, which forks a child for each job.

It is started as `python -I -S runner.py ROOT ISOLATION PATH ...`; with `landlock` it gives up all files but those below
the paths, with `namespaces` there are no others.

It never learns what the right output is, and it never has a job in its memory, of which every child is a copy: a child
reads its own job from the pipe, and what it wrote is passed on by the kernel. So a program finds nothing of earlier ones.

In come a head of `HEAD_BYTES` (JSON: the sizes of what follows, the limits, `checked`), code, name of the function (empty
for a program that reads standard input) and input; out comes a line of JSON (status, seconds, size) and so many bytes of
output. Where tests are code (`checked`), the program's child is started, said with `{"tests": true}`, and only then are
they sent, behind a head of their own, to another child.
"""

from __future__ import annotations

import _sitebuiltins
import builtins
import ctypes
import fcntl
import gc
import io
import json
import os
import resource
import select
import signal
import sys
import threading
import time
import types
from collections.abc import Callable
from typing import Any

# The package's own `__init__` prepares verl's registries, which is of no use here and takes longer than all the rest.
_package = types.ModuleType("verl_ext")
_package.__path__ = [os.path.join(sys.argv[1], "verl_ext")]
sys.modules["verl_ext"] = _package

from verl_ext.sandbox import filters, landlock, seccomp
from verl_ext.sandbox.candidate import answer_calls, call_once
from verl_ext.sandbox.checker import Dialogue, check
from verl_ext.sandbox.prelude import BY_EXIT, COMPILE_ERROR, GONE, MEMORY, NO_FUNCTION, PRELUDE

_RESULT, _CONFINED, _PIPES = 3, 4, (5, 6)
_ABOVE_ALL = 64
_MACHINE = os.uname().machine
# What the slot itself has to do, and a program must not. All other rules hold for the slot too, so that the kernel takes
# the long list in once, and only this one for each program.
_NEEDED_HERE = (
    "fork",
    "vfork",
    "clone",
    "clone3",
    "memfd_create",
    "pidfd_open",
    "setsid",
    "prctl",
    "setrlimit",
    "prlimit64",
)
_OF_PROGRAMS = {name: filters.CONFINED[name] for name in _NEEDED_HERE}
_OF_THE_SLOT = {name: rule for name, rule in filters.CONFINED.items() if name not in _OF_PROGRAMS}
_LEAVE_S = 5.0  # for a process whose pipe is closed to end
_PR_SET_PDEATHSIG = 1
_CHUNK = 1 << 20
HEAD_BYTES = 1024


def serve() -> None:
    """Answer until the host closes the pipe."""
    namespace: dict[str, Any] = {}
    exec(compile(PRELUDE, "prelude", "exec"), namespace)  # noqa: S102 - our own text
    vars(builtins).update(exit=_sitebuiltins.Quitter("exit", ""), quit=_sitebuiltins.Quitter("quit", ""))
    libc = ctypes.CDLL(None)
    if sys.argv[2] == "landlock":
        landlock.read_only(sys.argv[3:])
    seccomp.install(_OF_THE_SLOT)
    gc.collect()
    gc.freeze()
    _send({"ready": True})
    while head := _read_head():
        (_run_checked if head["checked"] else _run)(head, namespace, libc)


def _read(count: int) -> bytes:
    """The next bytes; fewer where the host has closed the pipe."""
    parts: list[bytes] = []
    while count and (part := os.read(0, min(count, _CHUNK))):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


def _read_head() -> dict[str, Any] | None:
    """The next head; None where the host has closed the pipe."""
    head = _read(HEAD_BYTES)
    return json.loads(head) if len(head) == HEAD_BYTES else None


def _send(answer: dict[str, Any], output: int = -1) -> None:
    """Write a line, and behind it the first `answer["size"]` bytes of a file."""
    view = memoryview(json.dumps(answer).encode() + b"\n")
    while view:
        view = view[os.write(1, view) :]
    done = 0
    while done < answer.get("size", 0):
        done += os.sendfile(1, output, done, answer["size"] - done)


def _run(head: dict[str, Any], namespace: dict[str, Any], libc: ctypes.CDLL) -> None:
    """One program, on one input or with one call."""
    limits = head["limits"]
    files = _files()

    def work(code: str, name: str) -> int:
        def call(module: dict[str, Any]) -> int:
            try:
                # From its beginning, wherever the program has read to.
                arguments = os.pread(0, head["input"], 0).decode("utf-8", "surrogatepass")
                return 0 if call_once(module, name, arguments, _RESULT) else NO_FUNCTION
            except TypeError:
                return 1

        return _execute(code, namespace, call if name else None)

    child = _Child(lambda: _read_program(head, files[0]), work, files, limits, libc)
    started = time.monotonic()
    late = not child.ends_within(limits["wall_s"])
    status, cpu = child.end(late)
    _answer(status, cpu, started, files[3 if head["name"] else 1], limits)
    _close(files)


def _read_program(head: dict[str, Any], input_file: int) -> tuple[str, str]:
    """Code and function of the job in the pipe; its input goes to the file. Of the child."""
    code, name = (_read(head[part]) for part in ("code", "name"))
    left = head["input"]
    while left and (part := _read(min(left, _CHUNK))):
        left -= len(part)
        while part:
            part = part[os.write(input_file, part) :]
    if left or len(code) + len(name) < head["code"] + head["name"]:  # the host is gone
        os._exit(1)
    os.lseek(input_file, 0, os.SEEK_SET)
    return code.decode("utf-8", "surrogatepass"), name.decode("utf-8", "surrogatepass")


def _answer(status: str, cpu: float, started: float, output: int, limits: dict[str, Any]) -> None:
    size = min(os.fstat(output).st_size, limits["output_kb"] * 1024) if status == "ok" else 0
    _send({"status": status, "cpu_s": cpu, "wall_s": time.monotonic() - started, "size": size}, output)


def _run_checked(head: dict[str, Any], namespace: dict[str, Any], libc: ctypes.CDLL) -> None:
    """One program and tests that call it, in two processes.

    The tests are read when the program's process is there already: it has never had them in its memory.
    """
    limits = head["limits"]
    requests, replies = os.pipe(), os.pipe()
    program_files, tests_files = _files(), _files()

    def work(code: str, name: str) -> int:
        def answer(module: dict[str, Any]) -> int:
            answer_calls(module, *_PIPES)
            return 0

        return _execute(code, namespace, answer)

    program = _Child(
        lambda: _read_program(head, program_files[0]),
        work,
        [*program_files, requests[0], replies[1]],
        limits,
        libc,
    )
    _close([requests[0], replies[1]])
    _send({"tests": True})
    tests_head = _read_head()
    if tests_head is None:
        os._exit(1)
    tests = _Child(
        lambda: (json.loads(_read(tests_head["size"])),),
        lambda checker: check(Dialogue(*_PIPES, _RESULT, limits["output_kb"] * 1024), namespace, **checker),
        [*tests_files, requests[1], replies[0]],
        limits,
        libc,
    )
    started = time.monotonic()
    _close([requests[1], replies[0]])
    late = not tests.ends_within(limits["wall_s"])
    tests_status, tests_cpu = tests.end(late)
    gone = tests.code == GONE and program.ends_within(_LEAVE_S)
    status, cpu = program.end(not gone)
    if "not_confined" in (status, tests_status):
        status = "not_confined"
    elif gone:
        status = "runtime_error" if status == "ok" else status
    elif status != "output_limit" and cpu <= limits["cpu_s"]:
        status = tests_status
    _answer(status, cpu + tests_cpu, started, tests_files[3], limits)
    _close([*program_files, *tests_files])


class _Child:
    """A confined process that does one thing; there when it has read its job and given up its rights.

    Args:
        read: takes its job out of the pipe, before it is confined.
        work: what it does with it; its exit code.
        files: standard input, output, errors, the result, and pipes; its descriptors 0 to 3, and `_PIPES`.
        limits: see `limits.Limits`.
    """

    def __init__(
        self,
        read: Callable[[], tuple[Any, ...]],
        work: Callable[..., int],
        files: list[int],
        limits: dict[str, Any],
        libc: ctypes.CDLL,
    ) -> None:
        self.code = 0
        self._limits = limits
        self._written = files[1:4]
        # A byte in a pipe says that the child is confined: a program can neither take it back nor pretend that it is not.
        told, tell = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            _be_child(read, work, limits, libc, [*files[:4], tell, *files[4:]])
        os.close(tell)
        self._ended = os.pidfd_open(self._pid)
        self._confined = bool(os.read(told, 1))  # nothing where it ended before
        os.close(told)

    def ends_within(self, seconds: float) -> bool:
        """Wait so long at most; where the host is gone meanwhile, nobody wants to know, and all ends here."""
        ready = select.select([self._ended, 0], [], [], seconds)[0]  # the host says nothing more until it is answered
        if ready == [0]:
            os._exit(1)
        return bool(ready)

    def end(self, kill: bool) -> tuple[str, float]:
        """Its status and CPU seconds; with `kill` it counts as late."""
        if kill:
            os.kill(self._pid, signal.SIGKILL)
        _, state, usage = os.wait4(self._pid, 0)
        os.close(self._ended)
        size = self._limits["output_kb"] * 1024
        cpu = usage.ru_utime + usage.ru_stime
        self.code = code = os.waitstatus_to_exitcode(state)
        if not self._confined:
            return "not_confined", cpu
        if max(os.fstat(file).st_size for file in self._written) >= size:
            return "output_limit", cpu
        if kill or code == -signal.SIGXCPU or cpu > self._limits["cpu_s"]:
            return "time_limit", cpu
        if code == -signal.SIGKILL:  # the kernel's, which has the program die first where memory is short
            return "memory_limit", cpu
        return BY_EXIT.get(code, "runtime_error" if code else "ok"), cpu


def _files() -> list[int]:
    return [os.memfd_create(name) for name in ("input", "output", "errors", "result")]


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def _be_child(
    read: Callable[[], tuple[Any, ...]],
    work: Callable[..., int],
    limits: dict[str, Any],
    libc: ctypes.CDLL,
    files: list[int],
) -> None:
    status = 1
    try:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        job = read()
        _confine(limits, libc, files)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True)
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
        status = work(*job)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - whatever a program does, it must not go on as the runner
        status = status or 1  # what a program was to print and could not is an error
    finally:
        os._exit(status & 255)


def _confine(limits: dict[str, Any], libc: ctypes.CDLL, files: list[int]) -> None:
    os.setsid()
    copies = [fcntl.fcntl(file, fcntl.F_DUPFD, _ABOVE_ALL) for file in files]
    for number, file in enumerate(copies):
        os.dup2(file, number)
    os.closerange(len(files), 4096)
    memory = limits["memory_mb"] << 20
    seconds = int(limits["cpu_s"]) + 1
    size = limits["output_kb"] * 1024
    for kind, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_NOFILE, 64),
    ):
        resource.setrlimit(kind, (value, value))
    hard = resource.getrlimit(resource.RLIMIT_STACK)[1]
    resource.setrlimit(resource.RLIMIT_STACK, (hard, hard))
    seccomp.install_code(seccomp.assemble(_OF_PROGRAMS | filters.signals_to(os.getpid()), _MACHINE))
    os.write(_CONFINED, b"1")
    os.close(_CONFINED)


def _execute(code: str, prelude: dict[str, Any], then: Callable[[dict[str, Any]], int] | None) -> int:
    """Run a program; with `then` as a module, which it is handed to."""
    namespace = prelude  # this process's own; copying it would touch, and so copy, the memory of all that is in it
    namespace["__name__"] = "solution" if then else "__main__"
    try:
        compiled = compile(code, "solution.py", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return COMPILE_ERROR
    except MemoryError:
        return MEMORY
    try:
        exec(compiled, namespace)  # noqa: S102 - what this process is for, confined
        if then:
            return then(namespace)
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join()
    except SystemExit as error:
        if then:
            return 1  # a function that ends the process has returned nothing
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except MemoryError:
        return MEMORY
    except BaseException as error:  # noqa: BLE001 - the program's own error
        sys.stderr.write(type(error).__name__)
        return 1
    return 0


if __name__ == "__main__":
    serve()
