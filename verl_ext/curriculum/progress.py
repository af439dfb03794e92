"""How far a stage has come: its checkpoints, what it has logged, and whether its metric still gets better."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from verl_ext.curriculum.plan import Until


def checkpoints_of(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("global_step_*") if path.name.rpartition("_")[2].isdigit()]
    return sorted(found, key=lambda path: int(path.name.rpartition("_")[2]))


def steps_of(folder: Path) -> int:
    """Of the newest checkpoint."""
    checkpoints = checkpoints_of(folder)
    return int(checkpoints[-1].name.rpartition("_")[2]) if checkpoints else 0


def plateau(folder: Path, until: Until) -> str:
    """Why the stage has come to an end by its metric; empty where it has not."""
    if until.plateau is None:
        return ""
    values = [(entry["step"], entry[until.plateau]) for entry in metrics_of(folder) if until.plateau in entry]
    sign = 1 if until.better == "higher" else -1
    best = max(range(len(values)), key=lambda i: (sign * values[i][1], -i), default=None)
    if best is None or len(values) - 1 - best < until.patience or not checkpoints_of(folder):
        return ""
    step, value = values[best]
    moved = "risen above" if sign == 1 else "fallen below"
    return f"{until.plateau} has not {moved} {value:g} (step {step}) for {until.patience} values"


def metrics_of(folder: Path) -> list[Mapping[str, float]]:
    """What a stage has logged; a line that is being written is left out."""
    file = folder / "metrics.jsonl"
    if not file.is_file():
        return []
    found = []
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict) and "step" in entry:
            found.append(entry)
    return found
