"""Start the online trainer as a user does, on the parity task."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.launch import finish
from tests.support.parity import save_guesser, write_problems

TRAINER = "verl_ext.trainer.fsdp_nft_trainer"
RESPONSE_LENGTH = 12


def prepare(folder: Path, heads: int = 4) -> list[str]:
    """Model and data in `folder`; returns the arguments that every run shares."""
    model = save_guesser(folder / "model", heads=heads)
    train = write_problems(folder / "train.parquet", copies=10)
    test = write_problems(folder / "test.parquet")
    return [
        f"actor_rollout_ref.model.path={model}",
        f"data.train_files={train}",
        f"data.val_files={test}",
        "data.train_batch_size=8",
        "data.gen_batch_size=16",
        "data.max_prompt_length=32",
        f"data.max_response_length={RESPONSE_LENGTH}",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=4096",
        "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype=fp32",
        "actor_rollout_ref.actor.optim.lr=2e-4",
        "actor_rollout_ref.actor.optim.lr_warmup_steps=0",
        "actor_rollout_ref.rollout.n=8",
        "actor_rollout_ref.rollout.val_kwargs.n=8",
        "actor_rollout_ref.rollout.val_kwargs.temperature=1.0",
        "actor_rollout_ref.rollout.val_kwargs.top_p=1.0",
        "reward.reward_kwargs.workers=1",
        "trainer.val_before_train=False",
        "trainer.test_freq=-1",
        "trainer.save_freq=-1",
    ]


@contextmanager
def ray_folder() -> Iterator[Path]:
    """A folder for Ray's own files: its sockets need a short path, which pytest's folders have not."""
    folder = Path(tempfile.mkdtemp(prefix="nft", dir="/tmp"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start(arguments: list[str], run: Path, log: Path, ray: Path | None, **environment: str) -> subprocess.Popen:
    """Start the trainer in its own process group, its output in `log`."""
    own_cluster = [f"ray_kwargs.ray_init._temp_dir={ray}"] if ray else []
    return subprocess.Popen(
        [sys.executable, "-m", TRAINER, *arguments, f"trainer.default_local_dir={run}", *own_cluster],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
    )


def run_to_end(arguments: list[str], folder: Path, **environment: str) -> tuple[int, str]:
    """A whole run in `folder`/run on a cluster of its own: (exit code, output)."""
    with ray_folder() as ray:
        process = start(arguments, folder / "run", folder / "log", ray, **environment)
        code = finish(process)
    return code, (folder / "log").read_text()


def custom_reward(path: Path, expression: str) -> list[str]:
    """Arguments of a reward function of the user's own, written to `path`."""
    path.write_text(
        f"def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    return {expression}\n"
    )
    return [
        "reward.reward_manager.name=naive",
        f"reward.custom_reward_function.path={path}",
        "reward.custom_reward_function.name=compute_score",
    ]


def workers(process: subprocess.Popen, name: str) -> list[psutil.Process]:
    """Ray processes below `process` (Ray's raylet is its child) whose title holds `name`."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if name in " ".join(child.cmdline()):
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found


def answers(run: Path, step: int) -> list[dict]:
    """What was generated in a step, without what depends on the clock."""
    rows = [json.loads(line) for line in (run / "generations" / f"{step}.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name != "grade_seconds"} for row in rows]


def logged(run: Path) -> dict[int, dict[str, float]]:
    """Metrics of each training step."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry for entry in entries if "perf/time_per_step" in entry}


def validations(run: Path) -> dict[int, dict[str, float]]:
    """Metrics of each validation, by step."""
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {entry["step"]: entry for entry in entries if "perf/validation_seconds" in entry}
