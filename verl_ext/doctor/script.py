"""Runs a recipe without its launches, and says which ones it would have made, in which order."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from verl_ext.doctor import shim
from verl_ext.errors import UserError

SECONDS = 120
"""For a recipe without its launches; one that takes longer computes something itself."""

_OUTPUT_NAMES = re.compile(r"(^|[._-])(out|output|local|dest|save|target|write|to)($|[._-])")


@dataclass(frozen=True)
class Command:
    """A command of a recipe that was noted and not started."""

    kind: str
    """"launch" or "stage"."""
    argv: tuple[str, ...]
    cwd: Path
    env: Mapping[str, str]

    @property
    def text(self) -> str:
        return shlex.join(self.argv)

    def writes(self, path: Path) -> bool:
        """Whether an argument of the command says that it writes this file, or the folder that holds it."""
        for name, value in _named_values(self.argv[1:]):
            if name and not _OUTPUT_NAMES.search(name):
                continue
            place = (self.cwd / value.replace("file://", "")).resolve()
            if place == path or (place in path.parents and place not in (self.cwd, *self.cwd.parents)):
                return True
        return False


@dataclass(frozen=True)
class ScriptRun:
    """What a recipe did."""

    commands: tuple[Command, ...]
    exit_code: int
    last_line: str
    """Of its standard error, or of its output where there is none."""


def run_script(script: Path, arguments: Sequence[str]) -> ScriptRun:
    """Run a bash script in which launches are noted instead of started.

    Args:
        script: the recipe.
        arguments: handed on to it.

    Raises:
        UserError: the script does not exist, or does not come to an end.
    """
    if not script.is_file():
        raise UserError(f"{script}: no such script")
    with tempfile.TemporaryDirectory(prefix="verl_ext_doctor_") as folder:
        shims, record = Path(folder) / "bin", Path(folder) / "record.jsonl"
        _write_shims(shims)
        code, last_line = _run(script, arguments, _environment(shims, record))
        lines = record.read_text().splitlines() if record.exists() else []
    commands = []
    for line in lines:
        noted = json.loads(line)
        commands.append(Command(noted["kind"], tuple(noted["argv"]), Path(noted["cwd"]), noted["env"]))
    return ScriptRun(tuple(commands), code, last_line)


def _write_shims(folder: Path) -> None:
    source = Path(shim.__file__)
    folder.mkdir()
    for name in shim.PROGRAMS:
        program = folder / name
        command = shlex.join([sys.executable, "-I", str(source), name])
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
    guard = folder / "site" / "sitecustomize.py"
    guard.parent.mkdir()
    guard.write_text(source.read_text() + "\n\nguard()\n")


def _environment(shims: Path, record: Path) -> dict[str, str]:
    site = str(shims / "site")
    return {
        **os.environ,
        "PATH": f"{shims}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(part for part in (site, os.environ.get("PYTHONPATH")) if part),
        shim.RECORD: str(record),
        shim.SHIMS: str(shims),
    }


def _run(script: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[int, str]:
    process = subprocess.Popen(
        ["bash", str(script), *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise UserError(
            f"{script}: not done after {SECONDS} s, although nothing is trained: it computes itself"
        ) from None
    lines = [line for line in (errors.strip() or output.strip()).splitlines() if line.strip()]
    return process.returncode, lines[-1] if lines else ""


def _named_values(arguments: Sequence[str]) -> list[tuple[str, str]]:
    """(name, value) of `key=value`, `--key=value` and `--key value`; ("", value) of anything else."""
    found, name = [], ""
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals:
            found.append((key.lstrip("-+"), value))
            name = ""
        elif argument.startswith("-"):
            name = argument.lstrip("-")
        else:
            found.append((name, argument))
            name = ""
    return found
