"""Which files a process can reach, kept by the kernel (Linux 5.13 or newer) for the rest of its life, without privilege.

Numbers and structures: the kernel's `include/uapi/linux/landlock.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterable

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_READ_FILE, _READ_DIR = 1 << 2, 1 << 3
_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many there are, by version; 16 from version 5 on
_PR_SET_NO_NEW_PRIVS = 38


class LandlockError(RuntimeError):
    """This machine cannot keep the rules."""


def why_unavailable() -> str | None:
    """Why this machine has no Landlock, in a few words; None where it has. Changes nothing."""
    return None if _version() >= 1 else f"the kernel has no Landlock ({errno.errorcode.get(ctypes.get_errno(), '?')})"


def read_only(paths: Iterable[str]) -> None:
    """Let this thread, and all that it starts, read the files below `paths` and open no other file, for good.

    Args:
        paths: files and folders; one that does not exist is left out.

    Raises:
        LandlockError: the machine cannot.
    """
    version = _version()
    if version < 1:
        raise LandlockError(why_unavailable() or "no Landlock")
    rights = (1 << _FILE_RIGHTS.get(version, 16)) - 1
    attributes = struct.pack("=Q", rights)
    ruleset = _call(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    for path in paths:
        if os.path.exists(path):
            descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)
            allowed = _READ_FILE | (_READ_DIR if os.path.isdir(path) else 0)
            _call(_ADD_RULE, ruleset, _PATH_BENEATH, struct.pack("=Qi", allowed, descriptor), 0)
            os.close(descriptor)
    ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _call(_RESTRICT_SELF, ruleset, 0)
    os.close(ruleset)


def _version() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(ctypes.c_long(_CREATE_RULESET), None, ctypes.c_size_t(0), _VERSION_FLAG)


def _call(number: int, *arguments: object) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(ctypes.c_long(number), *arguments)
    if result < 0:
        raise LandlockError(f"Landlock: {errno.errorcode.get(ctypes.get_errno(), 'unknown error')}")
    return result
