"""Hostile programs through the sandbox: each ends with its own status, the next one is right, the caller stays as it was.

python benchmarks/code_reward_hostile.py --count 10000 --workers 2
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from collections import Counter
from concurrent.futures import Future
from pathlib import Path

from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.pool import SandboxPool
from verl_ext.sandbox.slot import Job, Run

LIMITS = Limits(cpu_s=0.2, wall_s=0.6, memory_mb=256, output_kb=64)
PROGRAMS: list[tuple[str, tuple[str, ...]]] = [
    ("while True: pass", ("time_limit",)),
    ("import time; time.sleep({n})", ("time_limit",)),
    ("x = bytearray({n} * 2**28)", ("memory_limit",)),
    ("while True: print('x' * {n})", ("output_limit", "time_limit")),
    ("import os; os.fork()", ("runtime_error",)),
    ("import os; os.kill(os.getppid(), {n} % 31 + 1)", ("runtime_error",)),
    ("import os; os.kill(-1, 9)", ("runtime_error",)),
    ("import socket; socket.socket()", ("runtime_error",)),
    ("open('/etc/passwd').read()", ("runtime_error",)),
    ("import os; open(f'/proc/{{os.getppid()}}/mem', 'rb')", ("runtime_error",)),
    ("open('/tmp/hostile{n}', 'w')", ("runtime_error",)),
    ("import subprocess; subprocess.run(['/bin/sh'])", ("runtime_error",)),
    ("import ctypes; ctypes.string_at({n})", ("runtime_error",)),
    ("import os; os.closerange(0, 100); os._exit({n} % 80 + 1)", ("runtime_error",)),
    ("x = " + "(" * 5000 + "{n}" + ")" * 5000, ("compile_error",)),
    ("def f(:{n}", ("compile_error",)),
    ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", ("memory_limit",)),  # as the kernel ends one
    ("import os\nwhile True: os.dup(0)", ("runtime_error",)),
    (
        "import sys; sys.setrecursionlimit(10**9)\ndef f(n): return f(n + 1)\nf({n})",
        ("runtime_error", "memory_limit", "time_limit"),
    ),
    ("import resource; resource.setrlimit(resource.RLIMIT_CPU, (99, 99))", ("runtime_error",)),
    ("print('\\ud800')", ("runtime_error",)),
    (
        "import os\nfor d in range(3, 64):\n    try: os.write(d, b'{{}}\\n')\n    except OSError: pass\n1 / 0",
        ("runtime_error",),
    ),
]


def resident_mb() -> float:
    """Of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000, help="hostile programs (default: 10000)")
    parser.add_argument("--workers", type=int, default=2, help="slots (default: 2)")
    parser.add_argument("--seed", type=int, default=0, help="(default: 0)")
    options = parser.parse_args()
    generator = random.Random(options.seed)
    sandbox = SandboxPool(options.workers, LIMITS)
    for _ in range(options.workers):
        sandbox.run(Job("print(1)"))
    memory, files, started = resident_mb(), descriptors(), time.perf_counter()
    statuses: Counter[str] = Counter()
    surprises: list[str] = []
    batch = 50 * options.workers

    def settle(waiting: list[tuple[str, tuple[str, ...], int, Future[Run], Future[Run]]]) -> None:
        for code, expected, number, hostile, honest in waiting:
            status = hostile.result().status
            statuses[status] += 1
            if status not in expected:
                surprises.append(f"{code[:60]!r} ended with {status}")
            if honest.result().output != f"{2 * number}\n":
                surprises.append(f"after {code[:60]!r} an honest program gave {honest.result()}")

    waiting = []
    for count in range(options.count):
        code, expected = generator.choice(PROGRAMS)
        code = code.format(n=count + 1)
        hostile, honest = sandbox.submit(Job(code)), sandbox.submit(Job("print(2 * int(input()))", str(count)))
        waiting.append((code, expected, count, hostile, honest))
        if len(waiting) >= batch:
            settle(waiting)
            waiting = []
    settle(waiting)
    seconds = time.perf_counter() - started
    print(
        f"{options.count} hostile programs and as many honest ones in {seconds:.0f} s: {dict(sorted(statuses.items()))}"
    )
    print(f"this process grew by {resident_mb() - memory:.1f} MiB and {descriptors() - files} descriptors")
    sandbox.close()
    if surprises:
        print(f"{len(surprises)} surprises:", *surprises[:20], sep="\n")
        sys.exit(1)


if __name__ == "__main__":
    main()
