"""The Slurm script: a cluster on the nodes of the allocation, and a job that submits itself again when time is over.

There is no Slurm here. Three stand-ins take its commands: `srun` runs what it is given on this machine, where a head
and a worker of Ray can live side by side.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.launch import finish, free_port, wait_until
from tests.support.online import ray_folder

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]

STAND_INS = {
    "scontrol": "printf '%s\\n' node-1 node-2",
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "sbatch": 'printf "%s\\n" "$@" > "$SUBMITTED"',
}

RECIPE = """
python - > "$FOUND.part" <<'END'
import os, ray, time
ray.init(log_to_driver=False)
deadline = time.monotonic() + 60  # machines may come later than the head; the trainer waits for them too
while len(nodes := [node for node in ray.nodes() if node["Alive"]]) < 2 and time.monotonic() < deadline:
    time.sleep(0.5)
print(len(nodes), int(ray.cluster_resources()["GPU"]), os.environ["NNODES"], os.environ["GPUS"])
END
printf "%s\\n" "$@" >> "$FOUND.part"
mv "$FOUND.part" "$FOUND"
trap 'exit 75' TERM
while true; do sleep 0.2; done
"""


@pytest.fixture
def slurm(tmp_path):
    """Environment of a batch job with two nodes; the cluster that it starts is ended afterwards."""
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, body in STAND_INS.items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (commands / name).chmod(0o755)
    with ray_folder() as ray:
        job = {
            "PATH": f"{commands}:{os.environ['PATH']}",
            "VENV": sys.prefix,
            "TMPDIR": str(tmp_path),
            "RAY_PORT": str(free_port()),
            "DASHBOARD_PORT": str(free_port()),
            "RAY_TMPDIR": str(ray),
            "FOUND": str(tmp_path / "found"),
            "SUBMITTED": str(tmp_path / "submitted"),
            "SLURM_SUBMIT_DIR": str(ROOT),
            "SLURM_JOB_ID": "7",
            "SLURM_JOB_NUM_NODES": "2",
            "SLURM_JOB_NODELIST": "node-[1-2]",
            "SLURM_GPUS_ON_NODE": "3",
        }
        try:
            yield {**os.environ, **job}
        finally:
            stopped = subprocess.run(
                ["bash", str(ROOT / "sh" / "ray_cluster.sh"), "stop"],
                env={**os.environ, "STATE_DIR": str(tmp_path / "verl_ext_ray_7")},
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            ).stdout
            assert "head stopped" in stopped and "worker stopped" in stopped


@pytest.mark.slow
def test_a_job_makes_its_cluster_and_is_submitted_again_when_time_is_over(slurm, tmp_path):
    recipe, found, log = tmp_path / "recipe.sh", tmp_path / "found", tmp_path / "log"
    recipe.write_text(RECIPE)
    given = [str(recipe), "data.train_files=[a.parquet, b.parquet]"]
    with log.open("w") as out:
        job = subprocess.Popen(
            ["bash", str(ROOT / "sh" / "nft_slurm.sh"), *given],
            env=slurm,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until(found.exists, job, log)
        assert found.read_text().splitlines() == ["2 6 2 3", *given[1:]]
        job.send_signal(signal.SIGTERM)  # as --signal=B:TERM@300 does
        assert finish(job) == 75, log.read_text()
        assert (tmp_path / "submitted").read_text().splitlines() == [
            "--nodes=2",
            str(ROOT / "sh" / "nft_slurm.sh"),
            *given,
        ]
    finally:
        os.killpg(job.pid, signal.SIGKILL)  # what srun would have ended: it holds the nodes with `sleep infinity`
