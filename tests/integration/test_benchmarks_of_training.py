"""The benchmarks of loss head and training step run, at tiny sizes, and say what they measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import python_path

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))


def run(script: str, *arguments: str) -> str:
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / script), *arguments]
    environment = {**os.environ, "PYTHONPATH": python_path(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=280)
    assert ended.returncode == 0, ended.stderr[-4000:]
    return ended.stdout


def test_loss_head(tmp_path):
    sizes = ["--vocabulary", "2000", "--hidden", "16", "--tokens", "50", "--rounds", "2", "--warmup", "0"]
    only = "floor;ours;ours, any loss;published;verl"
    printed = run("loss_head.py", *sizes, "--only", only, "--out", str(tmp_path / "result.json"))
    kept = json.loads((tmp_path / "result.json").read_text())
    assert [row["head"] for row in kept["rows"]] == only.split(";") * 2
    assert all(len(row["runs"]) == 2 and row["seconds"] > 0 for row in kept["rows"])
    assert printed.count("| published |") == 2
    assert kept["versions"]["torch"] in printed


def test_profile_of_the_loss_head(tmp_path):
    """Every second is counted under what it was spent on; a file of its own, beside the table's."""
    sizes = ["--vocabulary", "2000", "--hidden", "16", "--tokens", "50", "--dtypes", "fp32", "--profile"]
    run("loss_head.py", *sizes, "--only", "floor;ours;published", "--out", str(tmp_path / "profile.json"))
    rows = {row["head"]: row for row in json.loads((tmp_path / "profile.json").read_text())["rows"]}
    assert all(row["matrix products"] > 0 for row in rows.values())
    assert rows["floor"]["softmax"] == 0.0
    assert all(rows[head]["softmax"] > 0 for head in ("ours", "published"))


@pytest.mark.slow
def test_training_step_of_ours(tmp_path, model_folder):
    """One process of the benchmark, as it starts it; the other needs TRL."""
    from harness import in_process
    from sft_step import write_rows

    data = tmp_path / "train.parquet"
    write_rows(data, 12, seed=0, longest=4)
    command = [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / "sft_step.py"), "--model", str(model_folder)]
    command += ["--data", str(data), "--trainer", "ours", "--layout", "padded", "--rows", "4"]
    steps = in_process([*command, "--steps", "2", "--warmup", "1"], env={"PYTHONPATH": python_path(ROOT)}, timeout=280)
    assert len(steps) == 3
    assert all(step["tokens_per_second"] > 0 and step["peak_mib"] > 50 and step["loss"] > 0 for step in steps)
