"""Online training on a Ray cluster of two nodes, started as a user starts them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.isolation import isolated
from tests.support.launch import finish, free_port
from tests.support.online import answers, logged, prepare, ray_folder, start
from tests.support.parity import PROGRAM, PROGRAMMING, save_guesser, write_programming_problems

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """Address of a running cluster with a head and a worker, both on this machine."""
    port = free_port()
    folder = tmp_path_factory.mktemp("cluster")
    with ray_folder() as ray:
        environment = {
            **os.environ,
            "VENV": sys.prefix,
            "STATE_DIR": str(folder / "state"),
            "RAY_PORT": str(port),
            "RAY_TMPDIR": str(ray),
            "DASHBOARD_PORT": str(free_port()),
            "OMP_NUM_THREADS": "1",
        }

        def script(*arguments: str, **more: str) -> str:
            done = subprocess.run(
                ["bash", str(ROOT / "sh" / "ray_cluster.sh"), *arguments],
                env={**environment, **more},
                capture_output=True,
                text=True,
                check=False,
                timeout=180,
            )
            assert done.returncode == 0, done.stdout + done.stderr
            return done.stdout

        try:
            output = script("head")
            address = output.rsplit("RAY_ADDRESS=", 1)[1].strip()
            script("worker", address)
            assert "GPU" in script("status", address)
            yield address
        finally:
            assert "stopped" in script("stop")


@pytest.mark.slow
@isolated
def test_training_on_two_ray_nodes_with_programs_as_answers(cluster, tmp_path):
    arguments = prepare(tmp_path)
    run, log = tmp_path / "run", tmp_path / "log"
    more = ["trainer.nnodes=2", "trainer.n_gpus_per_node=1", "trainer.device=cpu", "trainer.total_training_steps=3"]
    more += [
        f"actor_rollout_ref.model.path={save_guesser(tmp_path / 'programmer', answer=PROGRAM, numbers=PROGRAMMING)}",
        f"data.train_files={write_programming_problems(tmp_path / 'programs' / 'train.parquet', copies=4)}",
        "data.val_files=null",
        "data.max_response_length=20",
        "+reward.reward_kwargs.code.cpu_s=1",
    ]
    key = secrets.token_hex(20)
    process = start([*arguments, *more], run, log, None, RAY_ADDRESS=cluster, JUDGE_API_KEY=key)
    assert finish(process) == 0, log.read_text()
    metrics = logged(run)
    assert len(metrics) == 3
    assert all(entry["actor/grad_norm"] > 0 and 0 < entry["reward/acc"] < 1 for entry in metrics.values())
    assert all(entry["reward/code/wrong_answer"] > 0.05 for entry in metrics.values())
    rows = answers(run, 1)
    assert {row["grade_status"] for row in rows} <= {"ok", "no_answer"}
    assert {row["acc"] for row in rows if row["grade_program"] == "passed"} == {1.0}
    assert (run / "global_step_3" / "model_world_size_2_rank_1.pt").exists()
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not [path for path in written if key.encode() in path.read_bytes()]


@pytest.mark.slow
def test_a_cluster_without_enough_machines_is_said(cluster, tmp_path):
    arguments = prepare(tmp_path)
    run, log = tmp_path / "run", tmp_path / "log"
    more = ["trainer.nnodes=4", "trainer.n_gpus_per_node=1", "trainer.device=cpu"]
    process = start([*arguments, *more], run, log, None, RAY_ADDRESS=cluster)
    assert finish(process) == 2
    assert "the run needs 1 + 1 + 1 + 1 GPUs, each number on one machine, and the Ray cluster has" in log.read_text()


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has an accelerator")
def test_a_cluster_whose_gpus_are_only_a_number_is_said(cluster, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    process = start([*prepare(tmp_path), "trainer.n_gpus_per_node=1"], run, log, None, RAY_ADDRESS=cluster)
    assert finish(process) == 2
    assert "error: trainer.device: no machine of the Ray cluster has an accelerator" in log.read_text()
