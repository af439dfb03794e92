"""Stands in for the programs that a recipe starts: notes launches instead of starting them.

Loaded in two ways, by nothing but the standard library: as the programs `torchrun`, `python`, `ray` and their like in
a folder that is first on the recipe's PATH, and as `sitecustomize` of every Python that the recipe starts by another
path. The environment variable VERL_EXT_DOCTOR_RECORD names the file that takes one JSON object a line.
"""

from __future__ import annotations

import json
import os
import shutil
import sys

RECORD = "VERL_EXT_DOCTOR_RECORD"
SHIMS = "VERL_EXT_DOCTOR_SHIMS"

LAUNCHERS = ("torch.distributed.run", "torch.distributed.launch")
HARMLESS_MODULES = ("json.tool", "sysconfig", "site", "platform")
NEVER_RUN = ("pip", "pip3", "uv", "curl", "wget", "hf", "huggingface-cli", "srun", "sbatch", "ssh", "accelerate")
"""What a recipe may start beside Python that installs, downloads or computes somewhere else."""
PROGRAMS = ("torchrun", "python", "python3", "ray", *NEVER_RUN)

_OPTIONS_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")


def decide(name: str, arguments: list[str]) -> str:
    """What becomes of a command: "launch" or "stage" (noted, not started) or "run".

    Args:
        name: of the program, without its folder.
        arguments: what it was given.
    """
    if name == "torchrun":
        return "launch"
    if name == "ray":
        return "launch" if arguments[:2] == ["job", "submit"] else "stage"
    if name in NEVER_RUN:
        return "stage"
    kind, what = python_target(arguments)
    if kind == "module" and (what in LAUNCHERS or what.startswith("verl_ext.trainer.")):
        return "launch"
    if kind == "script" and os.path.basename(what) in ("torchrun", "ray"):
        return decide(os.path.basename(what), arguments[arguments.index(what) + 1 :])
    if kind in ("module", "script") and what not in HARMLESS_MODULES:
        return "stage"
    return "run"


def python_target(arguments: list[str]) -> tuple[str, str]:
    """("module", name), ("script", path), ("code", "") or ("nothing", "") that a Python command line runs."""
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        if argument == "-m":
            return ("module", arguments[position + 1]) if position + 1 < len(arguments) else ("nothing", "")
        if argument.startswith("-c") or argument == "-":
            return "code", ""
        if not argument.startswith("-"):
            return "script", argument
        position += 2 if argument in _OPTIONS_WITH_VALUE else 1
    return "nothing", ""


def note(kind: str, argv: list[str]) -> None:
    """Append a command to the record, with what it would have seen."""
    own = (RECORD, SHIMS)
    environment = {name: value for name, value in os.environ.items() if name not in own}
    line = json.dumps({"kind": kind, "argv": argv, "cwd": os.getcwd(), "env": environment}) + "\n"
    file = os.open(os.environ[RECORD], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(file, line.encode())
    finally:
        os.close(file)


def stand_in(name: str, arguments: list[str]) -> None:
    """Be the program `name`: note the command, or become the real program."""
    kind = decide(name, arguments)
    if kind != "run":
        note(kind, [name, *arguments])
        raise SystemExit(0)
    shims = os.environ[SHIMS]
    path = os.pathsep.join(part for part in os.environ["PATH"].split(os.pathsep) if part != shims)
    real = shutil.which(name, path=path) or sys.executable
    os.execv(real, [real, *arguments])


def guard() -> None:
    """As `sitecustomize`: end a Python that would launch something, whatever path it was started by."""
    if RECORD not in os.environ:
        return
    arguments = sys.orig_argv[1:]
    if decide("python", arguments) == "run":
        return
    note(decide("python", arguments), ["python", *arguments])
    os._exit(0)  # SystemExit in a sitecustomize is an error


if __name__ == "__main__":
    stand_in(sys.argv[1], sys.argv[2:])
