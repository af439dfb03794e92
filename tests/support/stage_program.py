"""Stands in for a trainer in tests of the curriculum: `python stage_program.py TRAINER key=value ...`.

A step takes `pause` seconds. It saves after each, goes on from its last checkpoint, ends with 75 on SIGTERM, and its
weights are a hash of those that it began with, its rows and its step. `fail_once=CODE` ends its first start so.
"""

from __future__ import annotations

import hashlib
import json
import signal
import sys
import time
from pathlib import Path

from verl_ext.data.pass_rates import problem_id
from verl_ext.data.reading import iterate_rows
from verl_ext.run_folder import only_run_in


def main() -> int:
    trainer, keys = sys.argv[1], dict(argument.partition("=")[::2] for argument in sys.argv[2:])
    model = keys["actor_rollout_ref.model.path"] if trainer == "online" else keys["model.path"]
    folder = Path(keys["trainer.default_local_dir"])
    steps = int(keys.get("trainer.total_training_steps", 3))
    rows = [row for file in keys["data.train_files"].strip("[]").split(",") for row in iterate_rows(file)]
    weights = hashlib.sha256((Path(model) / "model.safetensors").read_bytes()).hexdigest()
    text = hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(1))
    with only_run_in(str(folder), key="trainer.default_local_dir"):
        once = folder / "failed_once"
        if "fail_once" in keys and not once.exists():
            once.touch()
            return int(keys["fail_once"])
        done = max((int(path.name[12:]) for path in folder.glob("global_step_*")), default=0)
        for step in range(done + 1, steps + 1):
            time.sleep(float(keys.get("pause", 0)))
            if stop:
                return 75
            with (folder / "metrics.jsonl").open("a") as file:
                accuracy = min(step, int(keys.get("best_step", 99))) / 10
                file.write(json.dumps({"step": step, "reward/acc": accuracy, "val/x/avg@8": accuracy}) + "\n")
            with (folder / "pass_rates.jsonl").open("a") as file:
                for row in rows if step == 1 else ():
                    entry = {"step": step, "problem": problem_id(row["prompt"], row["reward_model"]["ground_truth"])}
                    file.write(
                        json.dumps({**entry, "right": row["extra_info"]["right"], "of": 8, "truncated": 0}) + "\n"
                    )
            whole = folder / f".making_{step}" / "huggingface"
            whole.mkdir(parents=True, exist_ok=True)
            said = hashlib.sha256(f"{weights} {text} {step} {keys.get('lr')}".encode()).hexdigest()
            (whole / "model.safetensors").write_text(said)
            (whole / "config.json").write_text("{}")
            whole.parent.rename(folder / f"global_step_{step}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
