"""Time from the command to the first training step, phase by phase, of both trainers.

    python benchmarks/startup.py --model FOLDER [--ranks 2] [--rounds 3]

Each round starts `fsdp_dft_trainer` under torchrun and `fsdp_nft_trainer` online, on Ray, as a user would, with the
quickstart's arithmetic problems and settings, for two steps. Phases are what the trainers say themselves
("ready after ... s") and log (`perf/startup/`); the launcher's share and the steps are timed from here, by when a line
appears. Work that the first step does once is in it: it is given beside the second.
Files of earlier runs are in the system's cache, as for anyone's second run of a day; the first round is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import Measures, Report, alternate, medians

ROOT = Path(__file__).resolve().parents[1]
TARGET_S = 25.0


def dft_command(options: argparse.Namespace, data: Path, run: Path) -> list[str]:
    """Two steps of DFT on several ranks."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={options.ranks}"]
    return [
        *torchrun,
        *("-m", "verl_ext.trainer.fsdp_dft_trainer"),
        f"model.path={options.model}",
        "model.enable_gradient_checkpointing=False",
        f"data.train_files={data / 'train.parquet'}",
        "data.prompt_key=extra_info",
        "data.prompt_dict_keys=['question']",
        "data.response_key=extra_info",
        "data.response_dict_keys=['answer']",
        "data.train_batch_size=16",
        "data.micro_batch_size_per_gpu=8",
        "data.max_length=256",
        "trainer.total_training_steps=2",
        f"trainer.default_local_dir={run}",
    ]


def nft_command(options: argparse.Namespace, data: Path, run: Path) -> list[str]:
    """Two steps of NFT online, of one generation each, whatever the model knows."""
    return [
        *(sys.executable, "-m", "verl_ext.trainer.fsdp_nft_trainer"),
        f"actor_rollout_ref.model.path={options.model}",
        "actor_rollout_ref.model.enable_gradient_checkpointing=False",
        f"data.train_files={data / 'train.parquet'}",
        "data.train_batch_size=8",
        "data.max_prompt_length=128",
        "data.max_response_length=64",
        "algorithm.filter_groups.enable=False",
        "algorithm.rollout_correction.bypass_mode=True",
        "actor_rollout_ref.rollout.n=8",
        "actor_rollout_ref.actor.ppo_mini_batch_size=8",
        "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=2048",
        "reward.reward_kwargs.workers=1",
        "trainer.val_before_train=False",
        "trainer.total_training_steps=2",
        f"trainer.default_local_dir={run}",
        f"ray_kwargs.ray_init._temp_dir={run.parent / 'ray'}",
    ]


COMMANDS = {"dft": dft_command, "nft": nft_command}


def started(command: list[str], run: Path, threads: int) -> Measures:
    """Seconds of each phase of one start, and of the two steps after it.

    Raises:
        RuntimeError: the trainer failed, with what it printed.
    """
    shutil.rmtree(run, ignore_errors=True)
    at: dict[str, float] = {}
    printed = []
    began = time.monotonic()
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )
    try:
        for line in process.stdout:
            printed.append(line)
            for marker in ("ready after", "step 1: ", "step 2: "):
                if line.startswith(marker):
                    at.setdefault(marker, time.monotonic() - began)
    except BaseException:
        process.terminate()  # left behind, it would keep its cores and its Ray cluster
        raise
    if process.wait() or len(at) < 3:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(printed[-40:])}")
    first = json.loads((run / "metrics.jsonl").read_text().splitlines()[0])
    phases = {name.removeprefix("perf/startup/"): value for name, value in first.items() if "perf/startup/" in name}
    return {
        "launcher": at["ready after"] - first["perf/startup_seconds"],
        **phases,
        "command to first step": at["ready after"],
        "first step": at["step 1: "] - at["ready after"],
        "second step": at["step 2: "] - at["step 1: "],
    }


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a model with a chat template")
    parser.add_argument("--trainers", nargs="+", default=list(COMMANDS), choices=list(COMMANDS))
    parser.add_argument("--ranks", type=int, default=2, help="training processes of DFT (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="counted starts of each (default: 3)")
    parser.add_argument("--warmup", type=int, default=1, help="starts before them (default: 1)")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/startup.json)")
    return parser.parse_args()


def main() -> None:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended too
    threads = max(1, (os.cpu_count() or 1) // options.ranks)
    folder = Path(tempfile.mkdtemp(prefix="up", dir="/tmp"))  # short: Ray's sockets are in it
    try:
        make = [sys.executable, str(ROOT / "data_preprocess" / "arithmetic.py"), "--local_dir", str(folder / "data")]
        subprocess.run([*make, "--train_size", "640"], check=True, stdout=subprocess.DEVNULL)

        def contender(name: str):
            run = folder / name
            return lambda: started(COMMANDS[name](options, folder / "data", run), run, threads)

        runs = alternate(
            {name: contender(name) for name in options.trainers}, rounds=options.rounds, warmup=options.warmup
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    report = Report(
        name="startup",
        title=f"From the command to the first training step, {Path(options.model).name}, seconds",
        options=vars(options),
        packages=("ray", "tensordict"),
    )
    titles = {"dft": f"DFT, {options.ranks} ranks", "nft": "NFT online"}
    for name, of_trainer in runs.items():
        for phase, seconds in medians(of_trainer).items():
            report.add(
                {"trainer": titles[name], "phase": phase.replace("_", " "), "seconds": seconds},
                [{"seconds": run[phase]} for run in of_trainer],
            )
    if "dft" in runs:
        total = statistics.median(run["command to first step"] for run in runs["dft"])
        report.notes.append(f"Command to first DFT step: {total:.1f} s (target: {TARGET_S:.0f} s)")
    print(f"kept in {report.publish(options.out)}")


if __name__ == "__main__":
    main()
