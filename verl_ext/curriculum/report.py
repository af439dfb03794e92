"""One curve over all stages, with their borders, and a table with a row for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tabulate import tabulate

from verl_ext.curriculum.commands import folder_of
from verl_ext.curriculum.plan import EVALUATION, Stage
from verl_ext.curriculum.progress import metrics_of
from verl_ext.curriculum.state import Done
from verl_ext.evaluation.summary import read_summary

REPORT_FILE, PLOT_FILE = "report.md", "curriculum.png"
_SHOWN = ("reward/acc", "train/loss", "rollout/entropy", "response_length/mean")
"""Metrics of a step that a row shows the last of, as far as the stage has them."""


def write_report(run_dir: Path, stages: Sequence[Stage], done: Sequence[Done]) -> str:
    """Write `report.md` and `curriculum.png`; returns the report."""
    rows, curves, borders, position = [], {}, [], 0
    for number, (stage, result) in enumerate(zip(stages, done, strict=False), start=1):
        folder = folder_of(run_dir, number, stage)
        entries = metrics_of(folder)
        steps = max((int(entry["step"]) for entry in entries), default=0)
        last = {name: entry[name] for entry in entries for name in _SHOWN if name in entry}
        measured = {name: value for entry in entries for name, value in entry.items() if _is_validation(name)}
        if stage.trainer == EVALUATION:
            measured = _evaluated(folder)
        for entry in entries:
            for name, value in entry.items():
                if name in _SHOWN[:1] or _is_validation(name):
                    curves.setdefault(name, []).append((position + int(entry["step"]), value))
        shown = ", ".join(f"{name} {value:.3g}" for name, value in {**last, **measured}.items())
        rows.append([number, stage.name, stage.trainer, steps or "–", result.ended, shown or "–", result.fingerprint])
        borders.append((position, stage.name))
        position += steps
    headers = ["", "stage", "trainer", "steps", "ended", "at its end", "weights"]
    text = f"# Curriculum\n\n{tabulate(rows, headers, tablefmt='pipe', disable_numparse=True)}\n"
    if curves:
        _draw(curves, borders, run_dir / PLOT_FILE)
        text += f"\n![Metrics over all stages]({PLOT_FILE})\n"
    (run_dir / REPORT_FILE).write_text(text, encoding="utf-8")
    return text


def _is_validation(name: str) -> bool:
    return name.startswith("val/") and ("/avg@" in name or name.endswith("/loss")) and not name.endswith("error")


def _evaluated(folder: Path) -> dict[str, float]:
    graders = read_summary(folder)["graders"]
    benchmarks = next(iter(graders.values()))["benchmarks"]
    return {
        f"{name} avg@{numbers['k']}": numbers["avg"]["value"]
        for name, numbers in benchmarks.items()
        if "avg" in numbers
    }


def _draw(curves: dict[str, list[tuple[int, float]]], borders: Sequence[tuple[int, str]], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(9.0, 4.2), layout="constrained")
    for name, points in sorted(curves.items()):
        xs, ys = zip(*points, strict=True)
        axes.plot(xs, ys, marker="o" if len(points) < 40 else None, markersize=3, linewidth=1.4, label=name)
    for position, name in borders:
        axes.axvline(position, color="#999999", linewidth=0.8, linestyle=":")
        axes.annotate(
            name, (position, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 3), textcoords="offset points",
            rotation=30, fontsize=8, color="#555555", annotation_clip=False,
        )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("step, over all stages")
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)
