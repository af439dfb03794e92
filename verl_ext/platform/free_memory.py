"""How much memory processes here may still take: of the machine, and of the container around them."""

from __future__ import annotations

from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUP = Path("/proc/self/cgroup")


def free_bytes(root: Path = CGROUPS, own: Path = OWN_CGROUP) -> int:
    """What is free on the machine, or in the tightest control group (version 2) around this process, if that is less.

    Args:
        root: where control groups are mounted.
        own: the file that names this process's own.
    """
    free = psutil.virtual_memory().available
    for line in own.read_text().splitlines() if own.is_file() else ():
        if line.startswith("0::"):
            folder = root / line.removeprefix("0::").strip("/")
            free = min([free, *(_free_in(each) for each in (folder, *folder.parents) if each.is_relative_to(root))])
    return max(free, 0)


def _free_in(group: Path) -> float:
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        statistics = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
    except FileNotFoundError:  # the root group has no limit, and neither has one of version 1
        return float("inf")
    if limit == "max":
        return float("inf")
    return int(limit) - used + int(statistics.get("inactive_file", 0))  # what was read from files makes room
