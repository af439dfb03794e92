"""Pictures of an evaluation: accuracy by benchmark, pass@k over k, length against correctness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from verl_ext.evaluation.summary import Evaluated, read_graded
from verl_ext.reward.accuracy import standard_error

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
STYLE = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True}
LENGTH_BINS = 5
PANELS_IN_A_ROW = 3
SHIFT = 1.03
"""Between the models' points at one k, so that their error bars do not hide each other."""


def draw_plots(evaluated: Sequence[Evaluated], benchmarks: Sequence[str], folder: Path) -> dict[str, Path]:
    """Draw the three pictures into `folder`; returns {title: file}."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = {
        "Right answers by benchmark": (draw_accuracy, folder / "accuracy.png"),
        "pass@k and maj@k": (draw_pass_at_k, folder / "pass_at_k.png"),
        "Length against correctness": (draw_lengths, folder / "length.png"),
    }
    with plt.rc_context(STYLE):
        for draw, path in pictures.values():
            figure = draw(evaluated, benchmarks)
            figure.savefig(path, dpi=130)
            plt.close(figure)
    return {title: path for title, (_, path) in pictures.items()}


def draw_accuracy(evaluated: Sequence[Evaluated], benchmarks: Sequence[str]) -> Figure:
    """Grouped bars of avg@k with one standard error."""
    width = 0.8 / len(evaluated)
    size = max(5.0, 1.2 + len(benchmarks) * max(1.1, 0.45 * len(evaluated)))
    figure, axes = plt.subplots(figsize=(min(size, 16), 3.8), layout="constrained")
    for position, one in enumerate(evaluated):
        names = [name for name in benchmarks if name in one.benchmarks]
        x = [benchmarks.index(name) + (position - (len(evaluated) - 1) / 2) * width for name in names]
        estimates = [one.benchmarks[name]["avg"] for name in names]
        bars = axes.bar(
            x,
            [100 * estimate["value"] for estimate in estimates],
            0.92 * width,
            yerr=[100 * (estimate["standard_error"] or 0.0) for estimate in estimates],
            capsize=3,
            error_kw={"elinewidth": 1, "ecolor": "#444444"},
            color=_color(position),
            label=one.name,
        )
        axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
    axes.set_xticks(range(len(benchmarks)), benchmarks)
    axes.set_xlim(-0.6, len(benchmarks) - 0.4)
    axes.set(ylabel="right answers, avg@k (%)")
    figure.suptitle("Right answers (± one standard error)", fontsize=11)
    axes.margins(y=0.15)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", alpha=0.3)
    _legend(figure, [axes], len(evaluated))
    return figure


def draw_pass_at_k(evaluated: Sequence[Evaluated], benchmarks: Sequence[str]) -> Figure:
    """pass@k (solid) and maj@k (dashed) over k, a panel for each benchmark."""
    figure, panels = _panels(benchmarks)
    for name, axes in panels.items():
        ticks: set[int] = set()
        for position, one in enumerate(evaluated):
            if name not in one.benchmarks:
                continue
            for metric, line in (("pass", "-o"), ("maj", "--s")):
                curve = one.benchmarks[name][metric]
                if not curve:  # no vote among programs
                    continue
                k = [int(key) for key in curve]
                ticks.update(k)
                axes.errorbar(
                    [key * SHIFT**position for key in k],
                    [100 * estimate["value"] for estimate in curve.values()],
                    [100 * (estimate["standard_error"] or 0.0) for estimate in curve.values()],
                    fmt=line,
                    markersize=4,
                    capsize=2,
                    elinewidth=0.8,
                    color=_color(position),
                    label=f"{one.name}: {metric}@k",
                )
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(ticks), [str(k) for k in sorted(ticks)])
        axes.minorticks_off()
        axes.set(title=name, xlabel="k (samples)", ylabel="problems solved (%)")
        _finish(axes)
    figure.suptitle("pass@k (solid) and maj@k (dashed), ± one standard error", fontsize=11)
    _legend(figure, list(panels.values()), len(evaluated))
    return figure


def draw_lengths(evaluated: Sequence[Evaluated], benchmarks: Sequence[str]) -> Figure:
    """Share of right answers among responses of similar length, in bins of equally many responses."""
    figure, panels = _panels(benchmarks)
    for name, axes in panels.items():
        for position, one in enumerate(evaluated):
            if name not in one.benchmarks:
                continue
            problems = read_graded(one.folder, one.grader, name, one.run)
            records = [record for samples in problems for record in samples]
            x, y, error = length_bins(records)
            axes.errorbar(
                x, y, error, fmt="-o", markersize=4, capsize=2, elinewidth=0.8, color=_color(position), label=one.name
            )
        axes.set(title=name, xlabel="length of the response (tokens)", ylabel="right answers (%)")
        axes.set_xlim(left=0)
        _finish(axes)
    figure.suptitle("Right answers by length, in bins of equally many responses, ± one standard error", fontsize=11)
    _legend(figure, list(panels.values()), len(evaluated))
    return figure


def length_bins(records: Sequence[dict[str, Any]]) -> tuple[list[float], list[float], list[float]]:
    """(mean length in tokens, right answers in percent, standard error in percent) of each bin.

    Responses are sorted by length and cut into `LENGTH_BINS` parts of equal size; those of one length stay together.
    """
    lengths = np.array([record["tokens"] for record in records])
    correct = np.array([float(record["correct"]) for record in records])
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, LENGTH_BINS + 1)))
    bins = np.searchsorted(edges[1:-1], lengths, side="right")
    x, y, errors = [], [], []
    for number in np.unique(bins):
        chosen = correct[bins == number]
        error = standard_error(chosen, resamples=1000)
        x.append(float(lengths[bins == number].mean()))
        y.append(100 * float(chosen.mean()))
        errors.append(0.0 if math.isnan(error) else 100 * error)
    return x, y, errors


def _panels(benchmarks: Sequence[str]) -> tuple[Figure, dict[str, Axes]]:
    columns = min(len(benchmarks), PANELS_IN_A_ROW)
    rows = math.ceil(len(benchmarks) / columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(4.2 * columns, 5.0), 3.4 * rows), layout="constrained", squeeze=False
    )
    flat = list(axes.flat)
    for unused in flat[len(benchmarks) :]:
        unused.set_visible(False)
    return figure, dict(zip(benchmarks, flat, strict=False))


def _finish(axes: Axes) -> None:
    """Room around the curves, but none below 0 or above 100 %."""
    axes.margins(y=0.15)
    low, high = axes.get_ylim()
    low, high = min(low, high - 4), max(high, low + 4)
    axes.set_ylim(max(low, -2.0), min(high, 102.0))
    axes.grid(alpha=0.3)


def _legend(figure: Figure, panels: Sequence[Axes], models: int) -> None:
    """One legend below all panels, a column for each model."""
    entries: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    figure.legend(
        entries.values(), entries, loc="outside lower center", ncols=min(models, 3), frameon=False, fontsize=9
    )


def _color(position: int) -> str:
    return COLORS[position % len(COLORS)]
