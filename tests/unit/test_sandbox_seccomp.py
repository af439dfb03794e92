"""Rules about system calls: what the kernel then does, for root and for another user, and what still works."""

from __future__ import annotations

import errno
import os
import re
import signal
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from verl_ext.sandbox import filters, seccomp
from verl_ext.sandbox.seccomp import Condition, SeccompError, assemble
from verl_ext.sandbox.system_calls import ARCHITECTURES, NUMBERS

ALLOW, KILL, EPERM = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM
AUDIT = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
ALL = filters.NO_PROCESSES | filters.NO_NETWORK | filters.NO_OTHER_PROCESSES | filters.LIMITS_STAY
ALL |= filters.NO_ADMINISTRATION | filters.FILES_STAY | filters.signals_to(1234)

kernel_rules = pytest.mark.skipif(seccomp.why_unavailable() is not None, reason="the kernel keeps no rules here")
USERS = [
    None,
    pytest.param(65534, marks=pytest.mark.skipif(os.geteuid() != 0, reason="only root becomes somebody else")),
]


def verdict(code: bytes, call: int, arguments: tuple[int, ...] = (), audit: int = AUDIT["x86_64"]) -> int:
    """What a program of classic BPF returns for a call; arguments are 64 bits wide."""
    data = struct.pack("<iIQ6Q", call, audit, 0, *arguments, *[0] * (6 - len(arguments)))
    place = accumulator = 0
    while True:
        operation, on_true, on_false, value = struct.unpack_from("<HBBI", code, 8 * place)
        place += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
            continue
        holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[operation]
        place += on_true if holds else on_false


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_rule_is_an_error_number_and_every_other_call_is_allowed(architecture):
    code = assemble({"socket": errno.EPERM, "clone3": errno.ENOSYS}, architecture)
    column = ARCHITECTURES.index(architecture)
    refused = {NUMBERS["socket"][column]: EPERM, NUMBERS["clone3"][column]: 0x50000 | errno.ENOSYS}
    for call in range(500):
        assert verdict(code, call, audit=AUDIT[architecture]) == refused.get(call, ALLOW)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_call_by_the_numbers_of_another_architecture_ends_the_process(architecture):
    code = assemble(ALL, architecture)
    for audit in (*(value for name, value in AUDIT.items() if name != architecture), 0x40000003, 0x40000028):
        assert verdict(code, 0, audit=audit) == KILL
    x32 = verdict(code, 0x40000000 + 59, audit=AUDIT[architecture])
    assert x32 == (KILL if architecture == "x86_64" else ALLOW)


@pytest.mark.parametrize(
    ("conditions", "allowed", "refused"),
    [
        ((Condition(0, "==", 7),), [(7,), (7 + 2**32,)], [(0,), (8,), (2**32 - 7,)]),
        ((Condition(1, "!=", 7),), [(7, 0), (7, 8)], [(0, 7), (0, 7 + 2**40)]),
        ((Condition(2, "has", 0b110),), [(0, 0, 2), (0, 0, 5)], [(0, 0, 0), (0, 0, 9), (6, 6, 2**33)]),
        ((Condition(5, "lacks", 0b110),), [(6, 6, 6, 6, 6, 8)], [(0, 0, 0, 0, 0, 4), (0, 0, 0, 0, 0, 6)]),
        ((Condition(3, "==", 0), Condition(3, "==", 0, "high")), [(9, 9, 9, 0)], [(0, 0, 0, 2**32), (0, 0, 0, 1)]),
        ((Condition(0, "==", -1),), [(2**32 - 1,), (2**64 - 1,)], [(1,)]),
        (tuple(Condition(0, "!=", n) for n in range(20)), [(20,)], [(0,), (7,), (19,)]),
    ],
)
def test_a_call_goes_through_where_all_conditions_hold(conditions, allowed, refused):
    code = assemble({"kill": conditions}, "x86_64")
    kill = NUMBERS["kill"][0]
    assert [verdict(code, kill, arguments) for arguments in allowed] == [ALLOW] * len(allowed)
    assert [verdict(code, kill, arguments) for arguments in refused] == [EPERM] * len(refused)
    assert verdict(code, kill + 1, refused[0]) == ALLOW


def test_a_rule_for_an_unknown_call_is_an_error():
    with pytest.raises(KeyError, match="sokcet"):
        assemble({"sokcet": errno.EPERM}, "x86_64")


def test_a_machine_without_a_table_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(seccomp.os, "uname", lambda: SimpleNamespace(machine="riscv64"))
    assert seccomp.why_unavailable() == "no table of system calls for riscv64, 64 bits"
    with pytest.raises(SeccompError, match="riscv64"):
        seccomp.install(ALL)


@pytest.mark.parametrize(
    ("column", "header"),
    [(0, "/usr/include/x86_64-linux-gnu/asm/unistd_64.h"), (1, "/usr/include/asm-generic/unistd.h")],
)
def test_numbers_are_those_of_the_kernels_headers(column, header):
    if not Path(header).is_file():
        pytest.skip(f"no {header}")
    stated = {
        name: int(number)
        for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", Path(header).read_text())
    }
    known = {name: numbers[column] for name, numbers in NUMBERS.items() if name in stated}
    assert len(known) > 100
    assert known == {name: stated[name] for name in known}


ATTEMPTS = """
import ctypes, errno, fcntl, os, resource, signal, socket, sys, termios, threading
sys.addaudithook = lambda hook: None  # the kernel alone
from verl_ext.reward.worker import confined, preload
from verl_ext.sandbox.system_calls import number_of
import platform

user, path = sys.argv[1], sys.argv[2]
if user:
    os.setgid(int(user)), os.setuid(int(user))
confined.confine(4096)
libc = ctypes.CDLL(None, use_errno=True)

def raw(name, *arguments):
    number = number_of(name, platform.machine())
    if libc.syscall(number, *arguments) < 0:
        raise OSError(ctypes.get_errno(), name)

two = ctypes.create_string_buffer(16)
attempts = {
    "fork": os.fork,
    "clone without a thread": lambda: raw("clone", signal.SIGCHLD, 0, 0, 0, 0),
    "execve": lambda: os.execv("/bin/true", ["true"]),
    "execveat": lambda: raw("execveat", -100, b"/bin/true", 0, 0, 0),
    "posix_spawn": lambda: os.posix_spawn("/bin/true", ["true"], {}),
    "socket": socket.socket,
    "socketpair": socket.socketpair,
    "io_uring": lambda: raw("io_uring_setup", 1, two),
    "kill the parent": lambda: os.kill(os.getppid(), 0),
    "kill the group": lambda: os.kill(0, 0),
    "kill everybody": lambda: os.kill(-1, 0),
    "tgkill the parent": lambda: raw("tgkill", os.getppid(), os.getppid(), 0),
    "pidfd_open": lambda: raw("pidfd_open", os.getppid(), 0),
    "ptrace": lambda: raw("ptrace", 16, os.getppid(), 0, 0),
    "read another's memory": lambda: raw("process_vm_readv", os.getppid(), two, 1, two, 1, 0),
    "signals of a file": lambda: fcntl.fcntl(0, fcntl.F_SETOWN, os.getppid()),
    "type into the terminal": lambda: fcntl.ioctl(2, termios.TIOCSTI, b"x"),
    "outlive the parent": lambda: raw("prctl", 1, 0, 0, 0, 0),
    "raise a limit": lambda: raw("setrlimit", resource.RLIMIT_CORE, two),
    "raise another's limit": lambda: raw("prlimit64", os.getppid(), resource.RLIMIT_CORE, two, 0),
    "unshare": lambda: raw("unshare", 0x10000000),
    "mount": lambda: raw("mount", b"none", b"/mnt", b"tmpfs", 0, 0),
    "bpf": lambda: raw("bpf", 0, two, 16),
    "memfd": lambda: os.memfd_create("x"),
    "shared memory": lambda: raw("shmget", 0, 4096, 0o1600),
    "create": lambda: os.open(path + "/new", os.O_CREAT | os.O_RDONLY),
    "write": lambda: os.open(path + "/kept", os.O_WRONLY),
    "read and write": lambda: os.open(path + "/kept", os.O_RDWR),
    "truncate": lambda: os.truncate(path + "/kept", 0),
    "unlink": lambda: os.unlink(path + "/kept"),
    "rename": lambda: os.rename(path + "/kept", path + "/other"),
    "mkdir": lambda: os.mkdir(path + "/folder"),
    "symlink": lambda: os.symlink("/", path + "/link"),
    "chmod": lambda: os.chmod(path + "/kept", 0o777),
    "own": lambda: os.chown(path + "/kept", os.getuid(), os.getgid()),
    "touch": lambda: os.utime(path + "/kept"),
}
for name, attempt in attempts.items():
    try:
        attempt()
        print("allowed:", name)
    except OSError as error:
        if error.errno != errno.EPERM:
            print("failed in another way:", name, errno.errorcode[error.errno])
for name in ("clone3", "openat2"):  # these have an older call to fall back to
    try:
        raw(name, two, 16, two, 16)
    except OSError as error:
        assert error.errno == errno.ENOSYS, error

import sympy
assert sympy.simplify(sympy.sin(sympy.Symbol("x")) ** 2 + sympy.cos(sympy.Symbol("x")) ** 2) == 1
assert open(path + "/kept").read() == "kept" and os.listdir(path) == ["kept"]
assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
os.kill(os.getpid(), 0)
if not user:
    thread = threading.Thread(target=print, args=("a thread",)) if os.getuid() == 0 else None
    thread.start() if thread else print("a thread")  # RLIMIT_NPROC leaves nobody but root any
    thread and thread.join()
print("done", os.getuid(), flush=True)
os.abort()
"""


@pytest.fixture
def open_folder():
    """A folder that every user may enter, which pytest's are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@kernel_rules
@pytest.mark.parametrize("user", USERS)
def test_a_confined_worker_reaches_nothing_even_without_the_audit_hook(user, open_folder):
    folder = open_folder / "folder"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    if user is not None:  # whoever it is would be allowed to, but for the rules
        os.chown(folder, user, user)
        os.chown(folder / "kept", user, user)
    done = subprocess.run(
        [sys.executable, "-c", ATTEMPTS, "" if user is None else str(user), str(folder)],
        check=False,
        capture_output=True,
        text=True,
        timeout=120,
    )
    expected = ["a thread"] if user is None else []
    assert done.stdout.splitlines() == [*expected, f"done {os.getuid() if user is None else user}"], done.stderr
    assert done.returncode == -signal.SIGABRT  # abort() signals itself, which is allowed
    assert done.stderr.startswith("Fatal Python error: Aborted") or done.stderr == ""


FOREIGN = """
import ctypes, os
from verl_ext.sandbox import filters, seccomp
seccomp.install(filters.NO_NETWORK)
ctypes.CDLL(None).syscall(0x40000000 + 39)
print("still here")
"""


@kernel_rules
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="only x86_64 has a second set of numbers")
def test_the_second_set_of_numbers_is_no_way_around():
    done = subprocess.run([sys.executable, "-c", FOREIGN], check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGSYS, "")


THREADED = """
import os
from verl_ext.sandbox import filters, seccomp
seccomp.install(
    filters.NO_PROCESSES | filters.NO_NETWORK | filters.NO_OTHER_PROCESSES | filters.LIMITS_STAY
    | filters.NO_ADMINISTRATION | filters.FILES_STAY | filters.signals_to(os.getpid())
)
import numpy
a = numpy.random.default_rng(0).normal(size=(400, 400))
assert abs((a @ numpy.linalg.inv(a)).trace() - 400) < 1e-6
print(len(os.listdir("/proc/self/task")))
"""


@kernel_rules
def test_a_library_of_many_threads_loads_and_computes_under_all_rules():
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "3", "OMP_NUM_THREADS": "3", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", THREADED], check=False, capture_output=True, text=True, timeout=60, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert int(done.stdout) >= 2


def test_the_rules_load_nothing_but_the_standard_library():
    """Beside what the package itself loads."""
    code = "import sys, verl_ext; before = set(sys.modules); import verl_ext.sandbox.filters; print(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert loaded - {"verl_ext"} <= set(sys.stdlib_module_names)
