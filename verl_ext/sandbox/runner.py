"""The program inside: started as `python -I runner.py ROOT`, it forks a keeper for each job, and that one the program.

A line of JSON in: code, input, fn_name ("" for a program that reads standard input), limits. A line of JSON out: the
fields of `slot.Run`. It never learns what the right output is.
"""

from __future__ import annotations

import ctypes
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
from typing import Any

# The package's own `__init__` prepares verl's registries, which is of no use here and takes longer than all the rest.
_package = types.ModuleType("verl_ext")
_package.__path__ = [os.path.join(sys.argv[1], "verl_ext")]
sys.modules["verl_ext"] = _package

from verl_ext.sandbox import filters, landlock, seccomp

_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io json"
)
_PRELUDE = "\n".join(
    [f"from {name} import *" for name in f"{_MODULES} typing".split()]
    + [f"import {name}" for name in f"{_MODULES} sys".split()]
    + ["from builtins import *"]
)
_READABLE = ("/usr", "/lib", "/lib64", "/etc/localtime", "/dev/null", "/dev/urandom", sys.base_prefix)
_COMPILE_ERROR, _MEMORY, _NO_FUNCTION = 91, 92, 93
_BY_EXIT = {_COMPILE_ERROR: "compile_error", _MEMORY: "memory_limit", _NO_FUNCTION: "no_function"}
_RESULT, _CONFINED = 3, 4
_PR_SET_PDEATHSIG = 1


def serve() -> None:
    """Answer until the host closes the pipe."""
    namespace: dict[str, Any] = {}
    exec(compile(_PRELUDE, "prelude", "exec"), namespace)  # noqa: S102 - our own text
    libc = ctypes.CDLL(None)
    landlock.read_only(_READABLE)
    gc.collect()
    gc.freeze()
    _send({"ready": True})
    while select.select([0], [], []):
        # Another process reads the job, so that a program finds nothing of earlier ones in the memory it starts with.
        keeper = os.fork()
        if keeper == 0:
            status = 1
            try:
                libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
                status = _keep(namespace, libc)
            finally:
                os._exit(status)
        if os.waitpid(keeper, 0)[1]:
            return


def _keep(namespace: dict[str, Any], libc: ctypes.CDLL) -> int:
    """Read one job, see it through and answer; 1 where the host has closed the pipe."""
    parts: list[bytes] = []
    while not parts or not parts[-1].endswith(b"\n"):
        part = os.read(0, 1 << 20)
        if not part:
            return 1
        parts.append(part)
    _send(_run(json.loads(b"".join(parts)), namespace, libc))
    return 0


def _send(answer: dict[str, Any]) -> None:
    view = memoryview(json.dumps(answer).encode() + b"\n")
    while view:
        view = view[os.write(1, view) :]


def _run(job: dict[str, Any], namespace: dict[str, Any], libc: ctypes.CDLL) -> dict[str, Any]:
    limits = job["limits"]
    size = limits["output_kb"] * 1024
    files = [os.memfd_create(name) for name in ("input", "output", "errors", "result")]
    with open(files[0], "wb", closefd=False) as stream:
        stream.write(job["input"].encode("utf-8", "surrogatepass"))
    os.lseek(files[0], 0, os.SEEK_SET)
    # A byte in a pipe says that the child is confined: a program can neither take it back nor pretend that it is not.
    told, tell = os.pipe()
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _be_child(job, namespace, libc, [*files, tell], size)
    os.close(tell)
    descriptor = os.pidfd_open(child)
    late = not select.select([descriptor], [], [], limits["wall_s"])[0]
    if late:
        os.kill(child, signal.SIGKILL)
    _, state, usage = os.wait4(child, 0)
    os.close(descriptor)
    wall = time.monotonic() - started
    sizes = [os.fstat(file).st_size for file in files]
    output, result = (os.pread(files[index], size, 0) for index in (1, 3))
    confined = bool(select.select([told], [], [], 0)[0] and os.read(told, 1))
    for file in (*files, told):
        os.close(file)
    cpu = usage.ru_utime + usage.ru_stime
    code = os.waitstatus_to_exitcode(state)
    if not confined:
        status = "not_confined"
    elif late or code == -signal.SIGXCPU or cpu > limits["cpu_s"]:
        status = "time_limit"
    elif max(sizes[1:]) >= size:
        status = "output_limit"
    else:
        status = _BY_EXIT.get(code, "runtime_error" if code else "ok")
    text = (result if job["fn_name"] else output).decode("utf-8", "replace")
    return {"status": status, "cpu_s": cpu, "wall_s": wall, "output": text if status == "ok" else ""}


def _be_child(job: dict[str, Any], namespace: dict[str, Any], libc: ctypes.CDLL, files: list[int], size: int) -> None:
    status = 1
    try:
        _confine(job["limits"], libc, files, size)
        sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
        sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding="utf-8")
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), encoding="utf-8", write_through=True)
        sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr
        status = _execute(job["code"], job["fn_name"], job["input"], namespace)
        sys.stdout.flush()
    except BaseException:  # noqa: BLE001 - whatever a program does, it must not go on as the runner
        status = status or 1  # what a program was to print and could not is an error
    finally:
        os._exit(status & 255)


def _confine(limits: dict[str, Any], libc: ctypes.CDLL, files: list[int], size: int) -> None:
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.setsid()
    copies = [os.dup(file) for file in files]
    for number, file in enumerate(copies):
        os.dup2(file, number)
    os.closerange(_CONFINED + 1, 4096)
    memory = limits["memory_mb"] << 20
    seconds = int(limits["cpu_s"]) + 1
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
    seccomp.install(filters.CONFINED | filters.signals_to(os.getpid()))
    os.write(_CONFINED, b"1")
    os.close(_CONFINED)


def _execute(code: str, fn_name: str, arguments: str, prelude: dict[str, Any]) -> int:
    namespace = {**prelude, "__name__": "solution" if fn_name else "__main__"}
    try:
        compiled = compile(code, "solution.py", "exec")
    except (SyntaxError, ValueError, RecursionError):
        return _COMPILE_ERROR
    except MemoryError:
        return _MEMORY
    try:
        exec(compiled, namespace)  # noqa: S102 - what this process is for, confined
        if fn_name:
            return _call(namespace, fn_name, arguments)
        for thread in threading.enumerate():
            if thread is not threading.main_thread() and not thread.daemon:
                thread.join()
    except SystemExit as error:
        if fn_name:
            return 1  # a function that ends the process has returned nothing
        return error.code if isinstance(error.code, int) else 0 if error.code is None else 1
    except MemoryError:
        return _MEMORY
    except BaseException as error:  # noqa: BLE001 - the program's own error
        sys.stderr.write(type(error).__name__)
        return 1
    return 0


def _call(namespace: dict[str, Any], name: str, arguments: str) -> int:
    function = namespace.get(name)
    if not callable(function):
        solution = namespace.get("Solution")
        function = getattr(solution(), name, None) if isinstance(solution, type) else None
    if not callable(function):
        return _NO_FUNCTION
    values = [json.loads(line) for line in arguments.split("\n") if line.strip()]
    try:
        text = json.dumps(_plain(function(*values)))
    except TypeError:
        return 1
    with open(_RESULT, "w", closefd=False) as stream:
        stream.write(text)
    return 0


def _plain(value: Any) -> Any:
    """Plain values alone: an object that equals everything is not one."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    if type(value) in (list, tuple):
        return [_plain(entry) for entry in value]
    if type(value) is dict:
        return {key if type(key) is str else json.dumps(_plain(key)): _plain(entry) for key, entry in value.items()}
    raise TypeError(type(value).__name__)


if __name__ == "__main__":
    serve()
