"""Rules about system calls that the kernel keeps for the rest of a process's life, whoever it runs as.

    install({"socket": errno.EPERM, "kill": (Condition(0, "==", os.getpid()),), "clone3": errno.ENOSYS})

A rule is an error number, which every such call then fails with, or conditions, all of which have to hold for the call
to go through (else it fails with EPERM). What no rule names is allowed. `filters` has lists to put together.

Only a process that gives up its rights does this: there is no way back, for it and for whatever it starts.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Mapping
from typing import Literal, NamedTuple

from verl_ext.sandbox.system_calls import ARCHITECTURES, number_of


class Condition(NamedTuple):
    """A test of 32 bits of an argument.

    The kernel reads an `int` argument from the low half of its register alone, whatever the high half holds: so does
    this. A pointer or a `long` takes two conditions, one for each half.
    """

    argument: int
    """From 0 to 5."""
    test: Literal["==", "!=", "has", "lacks"]
    """`has`: at least one bit of `value` is set; `lacks`: none is."""
    value: int
    half: Literal["low", "high"] = "low"


Rule = int | tuple[Condition, ...]

_AUDIT_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_X32_CALLS = 0x40000000  # x86_64 knows each call by a second number from here on

_LOAD, _RETURN = 0x20, 0x06
_JUMP_EQUAL, _JUMP_NOT_BELOW, _JUMP_ANY_BIT = 0x15, 0x35, 0x45
_ALLOW, _FAIL, _KILL_PROCESS = 0x7FFF0000, 0x00050000, 0x80000000
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _ARGUMENTS_OFFSET = 0, 4, 16

_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER, _GET_ACTION_AVAILABLE = 1, 2
_ALL_THREADS = 1


_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


class SeccompError(RuntimeError):
    """This machine cannot keep the rules."""


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def why_unavailable() -> str | None:
    """Why this machine cannot keep rules, in a few words; None where it can. Changes nothing."""
    architecture = os.uname().machine
    if sys.platform != "linux":
        return f"{sys.platform} has no seccomp"
    if architecture not in ARCHITECTURES or sys.maxsize < 2**32:
        return f"no table of system calls for {architecture}, {8 * struct.calcsize('P')} bits"
    action = ctypes.c_uint32(_KILL_PROCESS)
    if _seccomp(_GET_ACTION_AVAILABLE, 0, ctypes.byref(action)):
        return f"the kernel has no seccomp filters ({errno.errorcode.get(ctypes.get_errno(), 'unknown error')})"
    return None


def install(rules: Mapping[str, Rule]) -> None:
    """Put `rules` on all threads of this process and on everything that it starts, for good.

    Raises:
        SeccompError: the machine cannot; nothing has changed then.
        KeyError: a rule for a call that `system_calls` does not know.
    """
    reason = why_unavailable()
    if reason:
        raise SeccompError(reason)
    install_code(assemble(rules, os.uname().machine))


def install_code(code: bytes) -> None:
    """`install` of rules that were assembled before, on a machine that is known to keep them.

    Raises:
        SeccompError: it does not; nothing has changed then.
    """
    memory = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(memory))
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise SeccompError(f"PR_SET_NO_NEW_PRIVS: {errno.errorcode[ctypes.get_errno()]}")
    failed = _seccomp(_SET_MODE_FILTER, _ALL_THREADS, ctypes.byref(program))
    if failed:  # -1, or the first thread that has other rules already
        raise SeccompError(f"seccomp: {errno.errorcode[ctypes.get_errno()] if failed < 0 else f'thread {failed}'}")


def assemble(rules: Mapping[str, Rule], architecture: str) -> bytes:
    """The rules as a program of classic BPF, 8 bytes an instruction.

    A call by the numbers of another architecture ends the process: its number would mean something else here.
    """
    code = [
        _instruction(_LOAD, _ARCHITECTURE_OFFSET),
        _instruction(_JUMP_EQUAL, _AUDIT_ARCHITECTURE[architecture], on_true=1),
        _instruction(_RETURN, _KILL_PROCESS),
        _instruction(_LOAD, _NUMBER_OFFSET),
    ]
    if architecture == "x86_64":
        code += [_instruction(_JUMP_NOT_BELOW, _X32_CALLS, on_false=1), _instruction(_RETURN, _KILL_PROCESS)]
    for name, rule in rules.items():
        number = number_of(name, architecture)
        if number is not None:
            verdict = _tests(rule) if isinstance(rule, tuple) else [_instruction(_RETURN, _FAIL | rule)]
            code += [_instruction(_JUMP_EQUAL, number, on_false=len(verdict)), *verdict]
    code.append(_instruction(_RETURN, _ALLOW))
    return b"".join(code)


def _tests(conditions: tuple[Condition, ...]) -> list[bytes]:
    """Return "allow" at the end of all tests that hold, and jump over that to EPERM from the first that does not."""
    code = []
    for place, condition in enumerate(conditions):
        to_failure = 2 * (len(conditions) - place - 1) + 1
        jump = _JUMP_EQUAL if condition.test in ("==", "!=") else _JUMP_ANY_BIT
        holds_if_true = condition.test in ("==", "has")
        offset = _ARGUMENTS_OFFSET + 8 * condition.argument + 4 * (condition.half == "high")  # both are little-endian
        code += [
            _instruction(_LOAD, offset),
            _instruction(
                jump,
                condition.value & 0xFFFFFFFF,
                on_true=0 if holds_if_true else to_failure,
                on_false=to_failure if holds_if_true else 0,
            ),
        ]
    return [*code, _instruction(_RETURN, _ALLOW), _instruction(_RETURN, _FAIL | errno.EPERM)]


def _instruction(code: int, value: int, on_true: int = 0, on_false: int = 0) -> bytes:
    return struct.pack("<HBBI", code, on_true, on_false, value)


def _seccomp(operation: int, flags: int, argument: object) -> int:
    number = number_of("seccomp", os.uname().machine)
    return _libc.syscall(ctypes.c_long(number), ctypes.c_ulong(operation), ctypes.c_ulong(flags), argument)
