"""Before, after DFT and after NFT, as a table and a picture.

    python examples/quickstart/report.py RUN_FOLDER

reads {dft,nft}/metrics.jsonl and the evaluations in {before,after-dft-STEP,after-nft-STEP} there, of the last step of
each stage; writes summary.md and curves.png.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from rich.console import Console
from rich.table import Table

from verl_ext.evaluation.run_identity import Run
from verl_ext.evaluation.summary import read_graded, read_summary
from verl_ext.reward.accuracy import avg_at_k, standard_error

STAGES = ("before", "DFT", "DFT + NFT")
GREY, BLUE, GREEN = "#9aa5b1", "#1f6fb4", "#2a9d6f"


def measured(evaluations: list[Path]) -> list[dict[str, Any]]:
    """What the evaluation found before training and after each stage."""
    return [read_summary(folder)["graders"]["default"]["benchmarks"]["arithmetic"] for folder in evaluations]


def gains(evaluations: list[Path]) -> list[tuple[float, float]]:
    """What each stage added to the share of right answers, with its standard error.

    Problem by problem, since all stages answer the same ones: how hard these are does not count as chance.
    """
    graded = [read_graded(folder, "default", "arithmetic", Run.read(folder)) for folder in evaluations]
    shares = [avg_at_k([[verdict["correct"] for verdict in samples] for samples in problems]) for problems in graded]
    differences = [after - before for before, after in pairwise(shares)]
    return [(difference.mean(), standard_error(difference)) for difference in differences]


def steps(run: Path, stage: str, marker: str) -> list[dict[str, Any]]:
    """Training steps of a stage: its log entries that hold `marker`."""
    entries = [json.loads(line) for line in (run / stage / "metrics.jsonl").read_text().splitlines()]
    return [entry for entry in entries if marker in entry]


def table_rows(found: list[dict[str, Any]], added: list[tuple[float, float]]) -> list[tuple[str, ...]]:
    """(what, before, after DFT, after NFT)"""
    answers = found[0]["k"]
    return [
        ("answers right", *(_percent(m["avg"]) for m in found)),
        ("added, problem by problem", "", *(f"{100 * gain:+.1f} ± {100 * error:.1f} points" for gain, error in added)),
        (f"problems with a right one of {answers}", *(_percent(m["pass"][str(answers)]) for m in found)),
        ("answers without a box", *(f"{m['no_answer']:.1%}" for m in found)),
        ("tokens of an answer", *(f"{m['mean_tokens']:.0f}" for m in found)),
    ]


def _percent(measured: dict[str, float]) -> str:
    return f"{measured['value']:.1%} ± {measured['standard_error']:.1%}"


def draw(found: list[dict[str, Any]], dft: list[dict[str, Any]], nft: list[dict[str, Any]], path: Path) -> None:
    """Three panels: DFT's losses, what NFT saw of its own answers, and held-out accuracy."""
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})
    figure, (losses, answers, accuracy) = plt.subplots(
        1, 3, figsize=(12, 3.6), width_ratios=(3, 3, 2), layout="constrained"
    )
    x = [entry["step"] for entry in dft]
    losses.plot(x, [entry["train/cross_entropy"] for entry in dft], color=GREY, label="cross-entropy")
    losses.plot(x, [entry["train/loss"] for entry in dft], color=BLUE, label="DFT loss")
    losses.set(title="DFT: loss per token", xlabel="step", ylim=(0, None))
    losses.legend(frameon=False)
    style = {"color": GREEN, "marker": "o", "markersize": 3}
    generated = [entry for entry in nft if "sampling/accuracy" in entry]
    answers.plot(
        [entry["step"] for entry in generated],
        [100 * entry["sampling/accuracy"] for entry in generated],
        label="right, of all generated",
        **style,
    )
    rated = [entry for entry in nft if "nft/correct_rate_p50" in entry]
    x = [entry["step"] for entry in rated]
    low, middle, high = ([100 * entry[f"nft/correct_rate_p{p}"] for entry in rated] for p in (10, 50, 90))
    answers.plot(x, middle, color=GREY, label="$r_q$ of the groups learned from\n(10, 50, 90 %)")
    answers.fill_between(x, low, high, color=GREY, alpha=0.25, linewidth=0)
    answers.set(title="NFT: the model's own answers", xlabel="step", ylim=(0, 100))
    answers.yaxis.set_major_formatter("{x:.0f}%")
    answers.xaxis.get_major_locator().set_params(integer=True)
    # below: the curves may run anywhere
    answers.legend(frameon=False, fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    heights = [100 * m["avg"]["value"] for m in found]
    errors = [100 * m["avg"]["standard_error"] for m in found]
    bars = accuracy.bar(STAGES, heights, yerr=errors, capsize=4, color=[GREY, BLUE, GREEN], width=0.6)
    accuracy.bar_label(bars, fmt="%.0f%%", padding=3)
    accuracy.set(
        title=f"Right answers, {found[0]['problems']} held-out",
        ylim=(0, max(10.0, 1.15 * max(map(sum, zip(heights, errors, strict=True))))),
    )
    accuracy.yaxis.set_major_formatter("{x:.0f}%")
    figure.savefig(path, dpi=130)


def main(run: Path) -> None:
    dft, nft = steps(run, "dft", "train/loss"), steps(run, "nft", "perf/time_per_step")
    stages = ("before", f"after-dft-{dft[-1]['step']}", f"after-nft-{nft[-1]['step']}")
    evaluations = [run / stage for stage in stages]
    found = measured(evaluations)
    header = ("", *STAGES)
    table = Table(
        *header, title=f"{len(dft)} steps of DFT, {len(nft)} of NFT, {found[0]['problems']} held-out problems"
    )
    lines = [f"| {' | '.join(header)} |", "|---" * len(header) + "|"]
    for row in table_rows(found, gains(evaluations)):
        table.add_row(*row)
        lines.append(f"| {' | '.join(row)} |")
    (run / "summary.md").write_text("\n".join(lines) + "\n")
    draw(found, dft, nft, run / "curves.png")
    Console().print(table)
    tokens, seconds = (sum(entry[name] for entry in dft) for name in ("train/tokens", "perf/seconds_per_step"))
    print(f"DFT: {seconds:.0f} s, {tokens / seconds:.0f} tokens per second")
    print(f"NFT: {sum(entry['perf/time_per_step'] for entry in nft):.0f} s")
    print(f"curves:       {run / 'curves.png'}")
    print(f"TensorBoard:  tensorboard --logdir {run}")
    print(f"answers:      {run / 'nft' / 'generations'}")
    print(f"model:        {run / 'nft' / ('global_step_' + str(nft[-1]['step'])) / 'huggingface'}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
