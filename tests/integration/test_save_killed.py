"""Two machines without a shared disk: killed at any moment of a save, both continue from the same step."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import finish, free_port, kill, metrics, python_path, start, trainer_arguments, wait_until

ROOT = Path(__file__).parents[2]
HELD_SAVE = ROOT / "tests" / "support" / "held_save"


@pytest.mark.slow
def test_killed_at_any_operation_on_files_both_ranks_continue_from_the_same_step(tmp_path):
    """Three saves that keep one checkpoint, with either rank killed at each operation; see the worker."""
    worker = [sys.executable, "-m", "tests.integration.killed_save_worker", str(tmp_path)]
    done = subprocess.run(worker, capture_output=True, text=True, check=False, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    trials = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    for victim in (0, 1):
        decisions = [trial["decisions"] for trial in trials if trial["victim"] == victim]
        assert len(decisions) > 10
        assert all(first == second for first, second in decisions), decisions
        steps = [step for step, _ in decisions]
        assert steps == sorted(steps) and set(steps) == {0, 1, 2, 3}  # what was saved once is never lost


@pytest.mark.slow
def test_killed_while_one_machine_has_a_checkpoint_and_the_other_not_yet(model_folder, train_file, tmp_path):
    log = [tmp_path / f"node{rank}.log" for rank in range(2)]

    def start_nodes(**environment):
        port = free_port()
        return [
            start(
                trainer_arguments(
                    *(model_folder, train_file, tmp_path / f"disk{rank}", "trainer.save_freq=2"),
                    "trainer.max_ckpt_to_keep=1",
                ),
                ranks=1,
                log=log[rank],
                launcher=["--nnodes=2", f"--node_rank={rank}", "--master_addr=127.0.0.1", f"--master_port={port}"],
                environment=environment if rank == 1 else None,
            )
            for rank in range(2)
        ]

    held = python_path(HELD_SAVE)
    nodes = start_nodes(PYTHONPATH=held, HELD_STEP="4")
    wait_until((tmp_path / "disk0" / "global_step_4").exists, nodes[0], log[0])
    for node in nodes:
        kill(node)
    assert (tmp_path / "disk1" / "global_step_4.incomplete").exists()
    assert not (tmp_path / "disk1" / "global_step_4").exists()

    for node in start_nodes():
        assert finish(node) == 0, "".join(file.read_text() for file in log)
    assert "continuing after step 2 of 6" in log[0].read_text()
    assert [entry["step"] for entry in metrics(tmp_path / "disk0")] == [1, 2, 3, 4, 5, 6]
    for disk in ("disk0", "disk1"):
        assert [path.name for path in (tmp_path / disk).glob("global_step_*")] == ["global_step_6"]
