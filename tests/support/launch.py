"""Start the trainer as a user does, and read what it left."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

TRAINER = "verl_ext.trainer.fsdp_dft_trainer"
NFT_TRAINER = "verl_ext.trainer.fsdp_nft_trainer"
HANG_LIMIT_S = 300


def trainer_arguments(model: Path, train_file: Path, run: Path, *more: str) -> list[str]:
    """Arguments of a small fp32 run on nested single-turn columns."""
    return [
        f"model.path={model}",
        f"data.train_files={train_file}",
        "data.prompt_key=extra_info",
        "data.prompt_dict_keys=[question]",
        "data.response_key=extra_info",
        "data.response_dict_keys=[answer]",
        "data.train_batch_size=8",
        "data.micro_batch_size_per_gpu=2",
        "engine.mixed_precision.param_dtype=fp32",
        "optim.lr=1e-3",
        "trainer.logger=[console]",
        f"trainer.default_local_dir={run}",
        *more,
    ]


def nft_arguments(model: Path, rollouts: Path, run: Path, *more: str) -> list[str]:
    """Arguments of a small fp32 run on graded generations."""
    return [
        f"model.path={model}",
        f"data.rollouts={rollouts}",
        "data.train_batch_size=4",
        "data.micro_batch_size_per_gpu=2",
        "engine.mixed_precision.param_dtype=fp32",
        "optim.lr=1e-3",
        "optim.lr_warmup_steps=2",
        "trainer.logger=[console]",
        f"trainer.default_local_dir={run}",
        *more,
    ]


def python_path(*first: Path) -> str:
    """PYTHONPATH with these folders before those of this process."""
    return os.pathsep.join([*map(str, first), *filter(None, [os.environ.get("PYTHONPATH")])])


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def one_rank() -> dict[str, str]:
    """What torchrun tells the only rank of a run: for a test that wants the exit code of the rank itself."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    return {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", **address}


def command(
    arguments: Sequence[str], *, ranks: int, launcher: Sequence[str] = ("--standalone",), trainer: str = TRAINER
) -> list[str]:
    """`torchrun ... -m TRAINER ...`; 0 ranks: the module without torchrun."""
    if ranks == 0:
        return [sys.executable, "-m", trainer, *arguments]
    torchrun = [sys.executable, "-m", "torch.distributed.run", *launcher, f"--nproc_per_node={ranks}"]
    return [*torchrun, "-m", trainer, *arguments]


def start(
    arguments: Sequence[str],
    *,
    ranks: int,
    log: Path,
    launcher: Sequence[str] = ("--standalone",),
    trainer: str = TRAINER,
    environment: dict[str, str] | None = None,
    folder: Path | None = None,
):
    """Start the trainer in its own process group, its output in `log`; `folder`: where, if not here."""
    return subprocess.Popen(
        command(arguments, ranks=ranks, launcher=launcher, trainer=trainer),
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})},
        start_new_session=True,
    )


def run(arguments: Sequence[str], *, ranks: int, log: Path, trainer: str = TRAINER) -> str:
    """Run the trainer to its end, which must be a good one; returns its output."""
    process = start(arguments, ranks=ranks, log=log, trainer=trainer)
    finish(process)
    output = log.read_text()
    assert process.returncode == 0, output
    return output


def finish(process: subprocess.Popen) -> int:
    """Wait for a process that must end; a hanging one is killed with all its children."""
    try:
        return process.wait(timeout=HANG_LIMIT_S)
    except subprocess.TimeoutExpired:
        kill(process)
        raise


def kill(process: subprocess.Popen) -> None:
    """kill -9 to the launcher and to every rank: torchrun starts its ranks in sessions of their own."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    psutil.wait_procs(family)
    process.wait()


def wait_until(condition, process: subprocess.Popen, log: Path) -> None:
    """Poll until `condition()` holds; the process must not end before."""
    deadline = time.monotonic() + HANG_LIMIT_S
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.005)


def metrics(run_folder: Path) -> list[dict]:
    """What the run logged, without what depends on the clock or the machine."""
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    return [{name: value for name, value in e.items() if not name.startswith("perf/")} for e in entries]
