"""The recipes, all that their variables can make of them, and what they would start."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "recipes"
RECIPES = sorted(str(path.relative_to(FOLDER)) for path in FOLDER.glob("*/*.sh"))

OFFLINE = "dft/qwen2.5-math-1.5b-offline.sh"
SUPERVISED = [r for r in RECIPES if r.startswith(("dft/", "qed_nano/")) and r != OFFLINE]
ONLINE = [r for r in RECIPES if r.startswith("nft/")]
VARIANTS = [
    *((recipe, {"OBJECTIVE": objective}) for recipe in SUPERVISED for objective in ("dft", "sft")),
    *((OFFLINE, {"OBJECTIVE": objective}) for objective in ("dft", "rft", "nft")),
    *((r, {"OBJECTIVE": objective}) for r in ONLINE for objective in ("nft", "rft", "dapo", "grpo", "dr_grpo")),
    *((recipe, {"ROLLOUT": "sglang"}) for recipe in ONLINE),
    *((recipe, {"NNODES": "4", "RAY_ADDRESS": "10.0.0.1:6379"}) for recipe in ONLINE),
]
"""(recipe, environment)"""

VARIABLES = ("MODEL", "DATA", "RUN", "GPUS", "NNODES", "SP", "TP", "OBJECTIVE", "ROLLOUT", "ENGINE", "SAMPLED", "TINY")


def start_recipe(recipe: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a recipe with no other variable set than these."""
    kept = {name: value for name, value in os.environ.items() if name not in (*VARIABLES, "DRY_RUN", "TINY_DIR")}
    return subprocess.run(
        ["bash", str(FOLDER / recipe), *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={**kept, **environment},
        cwd=ROOT,
    )


def commands(recipe: str, *arguments: str, **environment: str) -> list[list[str]]:
    """The commands that a recipe would run, in their order."""
    ended = start_recipe(recipe, *arguments, **{"DRY_RUN": "1", **environment})
    assert ended.returncode == 0, ended.stderr
    return [shlex.split(line) for line in ended.stdout.splitlines()]


def split(command: list[str]) -> tuple[list[str], str, list[str]]:
    """A command as what starts, the module that is started, and the arguments of that."""
    at = command.index("-m")
    return command[:at], command[at + 1], command[at + 2 :]
