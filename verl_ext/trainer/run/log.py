"""What a run tells: a progress bar, `metrics.jsonl`, and verl's loggers (TensorBoard by default)."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm
from verl.utils.tracking import Tracking

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Metrics of a run, written by one rank; on the others it does nothing.

    Args:
        config: of the whole run; its `trainer` names the loggers and folders.
        total_steps: for the progress bar.
        first_step: steps that an earlier part of the run has done; what it logged beyond them is dropped.
        active: whether this rank writes.
        headline: what the progress bar, or the line that stands for it in a file, says of a step.
        run_id: under which W&B knows the run; a run that continues goes on under the same.
    """

    def __init__(
        self,
        config: dict[str, Any],
        *,
        total_steps: int,
        first_step: int,
        active: bool,
        headline: Callable[[dict[str, float]], str],
        run_id: str,
    ) -> None:
        self._bar: tqdm | None = None
        self._headline = headline
        if not active:
            return
        trainer = config["trainer"]
        folder = Path(trainer["default_local_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        self._metrics = _open_metrics(folder / METRICS_FILE, first_step)
        os.environ.setdefault("TENSORBOARD_DIR", str(folder / "tensorboard"))
        loggers = [trainer["logger"]] if isinstance(trainer["logger"], str) else list(trainer["logger"])
        if {"wandb", "vemlp_wandb"} & set(loggers):  # verl gives wandb.init no id; it reads these
            os.environ.setdefault("WANDB_RUN_ID", run_id)
            os.environ.setdefault("WANDB_RESUME", "allow")
        backends = [name for name in loggers if name != "console"]
        self._tracking = Tracking(trainer["project_name"], trainer["experiment_name"], backends, config=config)
        self._to_console = "console" in loggers
        self._bar = tqdm(
            total=total_steps,
            initial=first_step,
            desc=trainer["experiment_name"],
            unit="step",
            disable=not (self._to_console and sys.stderr.isatty()),
            dynamic_ncols=True,
            file=sys.stderr,
            mininterval=0.5,
        )

    def step(self, step: int, metrics: dict[str, float]) -> None:
        """Record a training step (from 1)."""
        if self._bar is None:
            return
        self._write(step, metrics)
        self._bar.update(1)
        self._bar.set_postfix_str(self._headline(metrics))
        if self._to_console and not sys.stderr.isatty():
            self.note(f"step {step}: {self._headline(metrics)}")

    def validation(self, step: int, metrics: dict[str, float]) -> None:
        """Record a validation after a step."""
        if self._bar is None:
            return
        self._write(step, metrics)
        self.note(_one_line(step, metrics))

    def note(self, text: str) -> None:
        """Print a line, above the progress bar where there is one."""
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
            sys.stdout.flush()

    def close(self) -> None:
        """Flush everything."""
        if self._bar is not None:
            self._bar.close()
            self._metrics.close()
            self._tracking.finish()

    def _write(self, step: int, metrics: dict[str, float]) -> None:
        self._metrics.write(json.dumps({"step": step, **metrics}) + "\n")
        self._metrics.flush()
        self._tracking.log(data=metrics, step=step)


def _open_metrics(path: Path, first_step: int):
    """Append to the file, without the lines of steps that are about to be run again."""
    kept = []
    if path.exists():
        for line in path.read_text().splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:  # the last line of a killed run
                continue
            if entry["step"] <= first_step:
                kept.append(line)
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(line + "\n" for line in kept))
    temporary.replace(path)
    return path.open("a")


def _one_line(step: int, metrics: dict[str, float]) -> str:
    group = "val " if any(name.startswith("val/") for name in metrics) else ""
    values = " ".join(f"{name.partition('/')[2]}={value:.6g}" for name, value in metrics.items())
    return f"step {step}: {group}{values}"
