"""Online training on a Ray cluster of two nodes, started as a user starts them."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.support.launch import finish, free_port
from tests.support.online import logged, prepare, ray_folder, start

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
def test_training_on_two_ray_nodes(cluster, tmp_path):
    arguments = prepare(tmp_path)
    run, log = tmp_path / "run", tmp_path / "log"
    more = ["trainer.nnodes=2", "trainer.n_gpus_per_node=1", "trainer.device=cpu", "trainer.total_training_steps=3"]
    key = secrets.token_hex(20)
    process = start([*arguments, *more], run, log, None, RAY_ADDRESS=cluster, JUDGE_API_KEY=key)
    assert finish(process) == 0, log.read_text()
    metrics = logged(run)
    assert len(metrics) == 3
    assert all(entry["actor/grad_norm"] > 0 for entry in metrics.values())
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
