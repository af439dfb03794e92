"""Before and after, as a table and a picture.

    python examples/quickstart/report.py RUN_FOLDER

reads before/summary.json, after/summary.json and metrics.jsonl there; writes summary.md and curves.png.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from verl_ext.evaluation.summary import read_summary

BLUE, GREY = "#1f6fb4", "#9aa5b1"


def load(run: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """([before, after], training steps)"""
    measured = [
        read_summary(run / name)["graders"]["default"]["benchmarks"]["arithmetic"] for name in ("before", "after")
    ]
    entries = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return measured, [entry for entry in entries if "train/loss" in entry]


def table_rows(measured: list[dict[str, Any]], steps: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """(what, before, after)"""
    first, last = steps[0], steps[-1]
    return [
        ("held-out problems right", *(f"{m['avg']['value']:.1%} ± {m['avg']['standard_error']:.1%}" for m in measured)),
        ("problems without an answer", *(f"{m['no_answer'] * m['problems']:.0f} of {m['problems']}" for m in measured)),
        ("DFT loss (first and last step)", f"{first['train/loss']:.4f}", f"{last['train/loss']:.4f}"),
        ("cross-entropy", f"{first['train/cross_entropy']:.3f}", f"{last['train/cross_entropy']:.3f}"),
        ("probability of the right token", f"{first['train/target_prob']:.3f}", f"{last['train/target_prob']:.3f}"),
    ]


def draw(measured: list[dict[str, Any]], steps: list[dict[str, Any]], path: Path) -> None:
    """Three panels: loss and cross-entropy, probability of the target token, accuracy."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (losses, probability, accuracy) = plt.subplots(
        1, 3, figsize=(12, 3.6), width_ratios=(3, 3, 2), layout="constrained"
    )
    x = [entry["step"] for entry in steps]
    losses.plot(x, [entry["train/cross_entropy"] for entry in steps], color=GREY, label="cross-entropy")
    losses.plot(x, [entry["train/loss"] for entry in steps], color=BLUE, label="DFT loss")
    losses.set(title="Loss per token", xlabel="step", ylim=(0, None))
    losses.legend(frameon=False)
    probability.plot(x, [entry["train/target_prob"] for entry in steps], color=BLUE)
    probability.set(title="Probability of the target token", xlabel="step", ylim=(0, 1))
    heights = [100 * m["avg"]["value"] for m in measured]
    errors = [100 * m["avg"]["standard_error"] for m in measured]
    bars = accuracy.bar(["before", "after"], heights, yerr=errors, capsize=4, color=[GREY, BLUE], width=0.6)
    accuracy.bar_label(bars, fmt="%.0f%%", padding=3)
    accuracy.set(title=f"Right answers, {measured[0]['problems']} held-out", ylim=(0, max(10, 1.25 * max(heights))))
    accuracy.yaxis.set_major_formatter("{x:.0f}%")
    figure.savefig(path, dpi=130)


def main(run: Path) -> None:
    measured, steps = load(run)
    rows = table_rows(measured, steps)
    table = Table("", "before", "after", title=f"{len(steps)} steps of DFT")
    lines = ["| | before | after |", "|---|---|---|"]
    for row in rows:
        table.add_row(*row)
        lines.append(f"| {' | '.join(row)} |")
    (run / "summary.md").write_text("\n".join(lines) + "\n")
    draw(measured, steps, run / "curves.png")
    Console().print(table)
    tokens = sum(entry["train/tokens"] for entry in steps)
    seconds = sum(entry["perf/seconds_per_step"] for entry in steps)
    print(f"training: {seconds:.0f} s, {tokens / seconds:.0f} tokens per second")
    print(f"curves:       {run / 'curves.png'}")
    print(f"TensorBoard:  tensorboard --logdir {run / 'tensorboard'}")
    print(f"model:        {run / ('global_step_' + str(steps[-1]['step'])) / 'huggingface'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
