"""Programs in the sandbox: what each ends with, that none reaches out, and that the next one is right."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest

from verl_ext.errors import ConfigError
from verl_ext.sandbox import landlock, pool, seccomp
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.pool import SandboxPool
from verl_ext.sandbox.slot import Job

LIMITS = Limits(cpu_s=0.5, wall_s=1.0, memory_mb=256, output_kb=64)
lacking = landlock.why_unavailable() or seccomp.why_unavailable()
isolated = pytest.mark.skipif(lacking is not None, reason=f"no isolation works here: {lacking}")

PROGRAMS = {
    "loop": ("while True: pass", "time_limit"),
    "sleep": ("import time; time.sleep(60)", "time_limit"),
    "allocation": ("x = bytearray(2**31)", "memory_limit"),
    "growing list": ("x = []\nwhile True: x.append(bytes(2**24))", "memory_limit"),
    "endless output": ("while True: print('x' * 1000)", "output_limit"),
    "fork": ("import os; os.fork()", "runtime_error"),
    "threads": (
        "import threading, time\nfor _ in range(10**5): threading.Thread(target=time.sleep, args=(30,)).start()",
        "runtime_error",
    ),
    "kill the parent": ("import os; os.kill(os.getppid(), 9)", "runtime_error"),
    "kill all": ("import os; os.kill(-1, 9)", "runtime_error"),
    "socket": ("import socket; socket.socket()", "runtime_error"),
    "read the machine's files": ("open('/etc/passwd').read()", "runtime_error"),
    "list folders": ("import os; os.listdir('/')", "runtime_error"),
    "read the runner": ("import os; open(f'/proc/{os.getppid()}/maps').read()", "runtime_error"),
    "write a file": ("open('/tmp/written_by_a_program', 'w')", "runtime_error"),
    "shell": ("import subprocess; subprocess.run(['/bin/sh', '-c', 'id'])", "runtime_error"),
    "segmentation fault": ("import ctypes; ctypes.string_at(0)", "runtime_error"),
    "raise limits": ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))", "runtime_error"),
    "deep nesting": ("x = " + "(" * 10**5 + ")" * 10**5, "compile_error"),
    "no Python": ("def f(:", "compile_error"),
    "lone surrogate": ("print('\\ud800')", "runtime_error"),
    "closed files": ("import os; os.closerange(0, 100); os.abort()", "runtime_error"),
    "exit code": ("import sys; sys.exit(3)", "runtime_error"),
    "exit code 94 at once": ("import os; os._exit(94)", "runtime_error"),
    "many files": ("import os\nwhile True: os.dup(0)", "runtime_error"),
}


@pytest.fixture(scope="module")
def sandbox():
    running = SandboxPool(1, LIMITS)
    yield running
    running.close()


@isolated
@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_program_ends_with_its_status_and_the_next_is_right(sandbox, name):
    code, status = PROGRAMS[name]
    assert sandbox.run(Job(code, "")).status == status
    assert sandbox.run(Job("print(int(input()) * 2)", "21")).output == "42\n"


@isolated
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_another_user_is_confined_as_well():
    """With the system's interpreter and a copy of the package, since the checkout may be readable for root alone."""
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no interpreter that another user can start")
    script = (
        "import json, sys\n"
        "from verl_ext.sandbox.pool import SandboxPool\n"
        "from verl_ext.sandbox.limits import Limits\n"
        "from verl_ext.sandbox.slot import Job\n"
        "sandbox = SandboxPool(1, Limits(cpu_s=0.5, wall_s=1.0, memory_mb=256, output_kb=64))\n"
        "programs = json.load(sys.stdin)\n"
        "bad = {n: r for n, (c, s) in programs.items() if (r := sandbox.run(Job(c, '')).status) != s}\n"
        "print(bad, sandbox.run(Job('print(6 * 7)', '')).output.strip())\n"
    )
    source = Path(pool.__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:  # below /tmp, which all users reach
        os.chmod(folder, 0o755)
        package = Path(folder, "verl_ext")
        shutil.copytree(source / "sandbox", package / "sandbox", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(source / "errors.py", package)
        (package / "__init__.py").touch()
        for path in (package, *package.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        done = subprocess.run(
            [python, "-c", script],
            check=False,
            input=json.dumps(PROGRAMS),
            user=65534,
            group=65534,
            extra_groups=[],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=120,
            env={"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"},
        )
    assert done.stdout == "{} 42\n", done.stderr


@isolated
def test_programs_of_competitions_work(sandbox):
    deep = (
        "import threading, sys\nthreading.stack_size(64 * 2**20)\nsys.setrecursionlimit(10**6)\n"
        "def f(n): return 0 if n == 0 else 1 + f(n - 1)\n"
        "t = threading.Thread(target=lambda: print(f(20000)))\nt.start()\nt.join()"
    )
    assert sandbox.run(Job(deep, "")).output == "20000\n"
    assert sandbox.run(Job("if __name__ == '__main__':\n    print(open(0).read())\n    exit(0)", "x")).output == "x\n"
    assert sandbox.run(Job("import sys; print(sys.stdin.buffer.readline())", "ab\ncd")).output == "b'ab\\n'\n"


@isolated
def test_function_and_method_are_called_and_only_plain_values_return(sandbox):
    assert sandbox.run(Job("def f(a, b): return (a, [b])", '1\n"x"', "f")).output == '[1, ["x"]]'
    assert sandbox.run(Job("class Solution:\n    def f(self, a): return a + 1", "1", "f")).output == "2"
    assert sandbox.run(Job("def g(): pass", "1", "f")).status == "no_function"
    equal = "class E(int):\n    def __eq__(self, o): return True\ndef f(a): return E()"
    assert sandbox.run(Job(equal, "1", "f")).status == "runtime_error"
    for leave in ("import sys; sys.exit(0)", "import os; os._exit(0)"):
        assert sandbox.run(Job(f"def f(a): {leave}", "1", "f")).output == ""


@isolated
def test_secrets_of_the_host_are_not_in_a_program_s_environment(sandbox, monkeypatch):
    monkeypatch.setenv("A_SECRET_OF_THE_HOST", "x")
    running = SandboxPool(1, LIMITS)
    assert "A_SECRET" not in running.run(Job("import os; print(dict(os.environ))", "")).output
    running.close()


@isolated
def test_programs_start_as_copies_of_a_process_that_has_read_no_other_job(sandbox):
    parents = {sandbox.run(Job("import os; print(os.getppid())", "")).output for _ in range(3)}
    assert len(parents) == 3


@isolated
def test_job_is_run_again_when_its_slot_is_killed():
    running = SandboxPool(1, Limits(cpu_s=1, wall_s=5))
    running.run(Job("", ""))
    slot, used = running._slots.get()
    running._slots.put((slot, used))
    killer = threading.Timer(0.3, os.kill, (slot.pid, signal.SIGKILL))
    killer.start()
    answer = running.run(Job("import time; time.sleep(1); print('done')", ""))
    killer.join()
    assert answer.output == "done\n"
    running.close()


def test_no_isolation_is_refused_with_what_is_lacking(monkeypatch):
    monkeypatch.setattr(pool.landlock, "why_unavailable", lambda: "the kernel has no Landlock (ENOSYS)")
    with pytest.raises(ConfigError, match="no Landlock"):
        SandboxPool(1, LIMITS)


@pytest.mark.parametrize("name, value", [("cpu_s", 0), ("wall_s", 1), ("memory_mb", 63), ("output_kb", 0)])
def test_limits_that_cannot_work_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"limits.{name}"):
        Limits(**{name: value})
