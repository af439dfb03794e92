"""Small evaluations: problems, responses written by hand, and the command as a user starts it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.generate import request_seed
from verl_ext.evaluation.run_identity import run_of
from verl_ext.evaluation.store import Lines, samples_file

MODULE = "verl_ext.evaluation"


def write_problems(path: Path, count: int) -> Path:
    """Sums as JSON lines with question and answer."""
    rows = [{"question": f"What is {n} + {n + 1}?", "answer": str(2 * n + 1)} for n in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def arguments(model: Path | str, problems: Path | str, output_dir: Path, *more: str) -> list[str]:
    """Keys of a small run with the transformers engine."""
    return [
        *(f"model={model}", f"benchmarks={problems}", f"output_dir={output_dir}", "engine=transformers"),
        *("max_tokens=12", "grader_workers=1", *more),
    ]


def start(step: str, keys: Sequence[str], log: Path) -> subprocess.Popen:
    """Start a step of the command in its own process group, its output in `log`."""
    return subprocess.Popen(
        [sys.executable, "-m", MODULE, step, *keys],
        stdout=log.open("w"),
        stderr=subprocess.STDOUT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def command(*keys: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        [sys.executable, "-m", MODULE, *keys],
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def write_run(
    output_dir: Path, responses: Sequence[Sequence[str]], golds: Sequence[Any], *keys: str, tokens: int = 10
) -> None:
    """A folder as `generate` leaves it, with these responses by problem and sample to golds of benchmark `own`."""
    config = read_config(["model=by-hand", f"output_dir={output_dir}", *keys])
    own = {"source": "own.jsonl", "problems": len(golds), "n_samples": len(responses[0]), "fingerprint": "by-hand"}
    run_of(config, "by-hand", {"own": own}).write(output_dir)
    with Lines(samples_file(output_dir, "own")) as lines:
        for problem, (samples, gold) in enumerate(zip(responses, golds, strict=True)):
            for sample, response in enumerate(samples):
                lines.append(
                    {
                        "problem": problem,
                        "sample": sample,
                        "question": "Q",
                        "gold": gold,
                        "data_source": "math",
                        "tolerance": None,
                        "prompt": "Q",
                        "prompt_tokens": 1,
                        "response": response,
                        "tokens": tokens * (1 + request_seed(0, "own", problem, sample) % 7),
                        "finish_reason": "length" if "cut off" in response else "stop",
                    }
                )
