"""How long a trainer takes from its start to its first step, phase by phase.

A process starts once, so the record is one of the process. It counts from when the system started the process, imports
included; what a launcher did before (torchrun imports torch first) is not in it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

NAME, STARTTIME = 2, 22
"""Fields of /proc/PID/stat, as proc(5) numbers them."""

_phases: dict[str, float] = {}


def reached(phase: str) -> None:
    """The phase of this name, which began where the one before ended, is over."""
    _phases[phase] = _seconds_of_process() - sum(_phases.values())


def metrics() -> dict[str, float]:
    """Seconds of each phase and of all, as they are logged with the first step."""
    names = {f"perf/startup/{name.replace(' ', '_')}": seconds for name, seconds in _phases.items()}
    return {**names, "perf/startup_seconds": sum(_phases.values())}


def line() -> str:
    """The same for a reader."""
    each = ", ".join(f"{name} {seconds:.1f}" for name, seconds in _phases.items())
    return f"ready after {sum(_phases.values()):.1f} s: {each}"


def _seconds_of_process() -> float:
    if not hasattr(time, "CLOCK_BOOTTIME"):
        return time.time() - psutil.Process().create_time()
    # psutil adds the moment at which Linux booted, which the kernel tells in whole seconds.
    after_name = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started = int(after_name[STARTTIME - NAME - 1]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - started
