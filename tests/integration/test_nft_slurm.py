"""The Slurm script: a cluster on the nodes of the allocation, and a job that comes back when time is over.

There is no Slurm here. Three stand-ins take its commands: `srun` runs what it is given on this machine, where a head
and a worker of Ray can live side by side.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.launch import finish, free_port, wait_until
from tests.support.online import ray_folder

pytestmark = pytest.mark.timeout(400)

ROOT = Path(__file__).parents[2]

STAND_INS = {
    "scontrol": """
        case $1 in
        requeue) printf 'requeue %s\\n' "$2" >> "$REQUEUED"; exit "$REQUEUE_REFUSED" ;;
        *) [[ $2 == job ]] && printf '%s\\n' "$JOB" || printf '%s\\n' node-1 node-2 ;;
        esac
    """,
    "srun": 'while [[ $1 == --* ]]; do shift; done; exec "$@"',
    "sbatch": 'printf "%s\\n" "$@" > "$SUBMITTED"',
}

JOB = (
    "JobId=7 JobName=dapo-32b UserId=ada(1000) MCS_label=N/A Account=math QOS=long JobState=RUNNING Reason=None "
    "RunTime=23:55:02 TimeLimit=2-00:00:00 Partition=h100 NumNodes=2 Features=(null) Reservation=spring "
    "Command=/home/ada/sh/nft_slurm.sh recipe.sh Account=x"
)

GIVEN = ["data.train_files=[a.parquet, b.parquet]"]

FINDS_THE_CLUSTER = """
python - > "$FOUND.part" <<'END'
import os, ray, time
ray.init(log_to_driver=False)
deadline = time.monotonic() + 60  # machines may come later than the head; the trainer waits for them too
while len(nodes := [node for node in ray.nodes() if node["Alive"]]) < 2 and time.monotonic() < deadline:
    time.sleep(0.5)
print(len(nodes), int(ray.cluster_resources()["GPU"]), os.environ["NNODES"], os.environ["GPUS"])
END
"""
SAVES_ITSELF = """
printf "%s\\n" "$@" >> "$FOUND.part"
trap 'exit 75' TERM
mv "$FOUND.part" "$FOUND"
while true; do sleep 0.2; done
"""


def batch_job(folder: Path, port: int, **stand_ins: str) -> dict[str, str]:
    """Environment of a batch job with two nodes."""
    commands = folder / "bin"
    commands.mkdir()
    for name, body in (STAND_INS | stand_ins).items():
        (commands / name).write_text(f"#!/usr/bin/env bash\n{body}\n")
        (commands / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{commands}:{os.environ['PATH']}",
        "VENV": sys.prefix,
        "TMPDIR": str(folder),
        "RAY_PORT": str(port),
        "FOUND": str(folder / "found"),
        "SUBMITTED": str(folder / "submitted"),
        "REQUEUED": str(folder / "requeued"),
        "REQUEUE_REFUSED": "0",
        "JOB": JOB,
        "SLURM_SUBMIT_DIR": str(ROOT),
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_GPUS_ON_NODE": "3",
    }


def until_time_is_over(environment: dict[str, str], folder: Path, recipe: str) -> int:
    """Run the script with a recipe, let the job's time end once the recipe runs, and give the exit code."""
    (folder / "recipe.sh").write_text(recipe)
    log = folder / "log"
    with log.open("w") as out:
        job = subprocess.Popen(
            ["bash", str(ROOT / "sh" / "nft_slurm.sh"), str(folder / "recipe.sh"), *GIVEN],
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_until((folder / "found").exists, job, log)
        job.send_signal(signal.SIGTERM)  # as --signal=B:TERM@300 does
        return finish(job)
    finally:
        with suppress(ProcessLookupError):  # what srun would have ended: it holds the nodes with `sleep infinity`
            os.killpg(job.pid, signal.SIGKILL)


@pytest.fixture
def slurm(tmp_path):
    """Environment of a job; the cluster that it starts is ended afterwards."""
    with ray_folder() as ray:
        job = batch_job(tmp_path, free_port()) | {"RAY_TMPDIR": str(ray), "DASHBOARD_PORT": str(free_port())}
        try:
            yield job
        finally:
            stopped = subprocess.run(
                ["bash", str(ROOT / "sh" / "ray_cluster.sh"), "stop"],
                env={**os.environ, "STATE_DIR": str(tmp_path / "verl_ext_ray_7_0")},
                capture_output=True,
                text=True,
                check=False,
                timeout=120,
            ).stdout
            assert "head stopped" in stopped and "worker stopped" in stopped


@pytest.fixture
def slurm_without_ray(tmp_path):
    """Environment of a job whose nodes have a Ray cluster already, as far as the script looks."""
    srun = 'while [[ $1 == --* ]]; do shift; done; [[ "$*" == *ray_cluster.sh* ]] || exec "$@"'
    with socket.create_server(("", 0)) as head:
        yield batch_job(tmp_path, head.getsockname()[1], srun=srun)


@pytest.mark.slow
def test_a_job_makes_its_cluster_and_goes_back_into_the_queue_when_time_is_over(slurm, tmp_path):
    assert until_time_is_over(slurm, tmp_path, FINDS_THE_CLUSTER + SAVES_ITSELF) == 75
    assert (tmp_path / "found").read_text().splitlines() == ["2 6 2 3", *GIVEN]
    assert (tmp_path / "requeued").read_text() == "requeue 7\n"
    assert not (tmp_path / "submitted").exists()


def test_a_job_that_may_not_go_back_is_submitted_as_it_was(slurm_without_ray, tmp_path):
    assert until_time_is_over(slurm_without_ray | {"REQUEUE_REFUSED": "1"}, tmp_path, SAVES_ITSELF) == 75
    *options, script, recipe, given = (tmp_path / "submitted").read_text().splitlines()
    assert sorted(options) == [
        "--account=math",
        "--gpus-per-node=3",
        "--job-name=dapo-32b",
        "--nodes=2",
        "--partition=h100",
        "--qos=long",
        "--reservation=spring",
        "--time=2-00:00:00",
    ]
    assert [script, recipe, given] == [str(ROOT / "sh" / "nft_slurm.sh"), str(tmp_path / "recipe.sh"), *GIVEN]


def test_a_job_that_slurm_itself_has_put_back_is_not_submitted_twice(slurm_without_ray, tmp_path):
    waits = {"REQUEUE_REFUSED": "1", "JOB": JOB.replace("JobState=RUNNING", "JobState=PENDING")}
    assert until_time_is_over(slurm_without_ray | waits, tmp_path, SAVES_ITSELF) == 75
    assert (tmp_path / "requeued").exists() and not (tmp_path / "submitted").exists()


def test_a_run_that_failed_is_not_continued(slurm_without_ray, tmp_path):
    assert until_time_is_over(slurm_without_ray, tmp_path, SAVES_ITSELF.replace("exit 75", "exit 4")) == 4
    assert not (tmp_path / "requeued").exists() and not (tmp_path / "submitted").exists()
