"""Help is there at once: no door loads torch to print a page."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HEAVY = {"torch", "transformers", "verl", "ray", "datasets", "vllm"}
DOORS = [
    "verl_ext.evaluation",
    "verl_ext.doctor",
    "verl_ext.rope_folder",
    "verl_ext.trainer.fsdp_dft_trainer",
    "verl_ext.trainer.fsdp_nft_trainer",
]
SCRIPTS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "data_preprocess").glob("*.py"))


def printed_and_loaded(door: str, option: str) -> tuple[str, set[str]]:
    """What a command prints, and which packages it has loaded when it ends."""
    run = "run_path(door" if door.endswith(".py") else "run_module(door"
    code = (
        f"import atexit, runpy, sys; door, sys.argv = {door!r}, [{door!r}, {option!r}]\n"
        "atexit.register(lambda: print('loaded', *{name.partition('.')[0] for name in sys.modules}))\n"
        f"runpy.{run}, run_name='__main__')"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    text, _, loaded = ended.stdout.rpartition("loaded")
    return text, set(loaded.split())


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("door", DOORS)
def test_help_of_a_command_loads_nothing_heavy(door, option):
    text, loaded = printed_and_loaded(door, option)
    assert len(text.splitlines()) > 5
    assert loaded & HEAVY == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_of_a_script_loads_nothing_heavy(script):
    text, loaded = printed_and_loaded(script, "--help")
    assert "usage:" in text
    assert loaded & HEAVY == set()
