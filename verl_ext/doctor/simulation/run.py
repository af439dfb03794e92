"""Simulates a launch in a process of its own, and shows what came out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from verl_ext.doctor.examination import LaunchReport
from verl_ext.doctor.findings import Finding
from verl_ext.doctor.memory import GIB
from verl_ext.doctor.step_time import Device
from verl_ext.errors import UserError

TIMEOUT_S = 1800.0
"""A 32B model on 128 ranks is far below; what takes longer hangs."""

DOES_NOT_MATTER = ("model-files", "memory-training", "disk-space")
"""Codes of findings about what the simulation does not use: weights, memory and disk."""

NOT_SEEN = (
    "not seen: the allocator's holes, the CUDA context, buffers of NCCL and cuBLAS, CUDA graphs, "
    "flash-attention's fp32 dq; --simulate adds no reserve for them, the estimate above does"
)
BYPASSED = (
    "bypassed: loading of weights, verl's prepare_model_inputs and prepare_model_outputs, documents of one full "
    "length each; the loss head's gradients are taken to be the expected ones"
)


def simulate(report: LaunchReport, device: Device) -> dict[str, Any]:
    """The memory of one rank through two steps, and what a later one computes and sends.

    Args:
        report: of a launch that has been examined.

    Returns:
        `steps`: step -> moment -> bytes, categories, module; `flops` and `sent` (bytes of each collective) of an
        optimizer step on one rank; `timeline`: bytes by category after each operation of a later step; sizes.

    Raises:
        UserError: the launch has errors, or a setting that is not simulated yet, or there is no g++.
    """
    from verl_ext.doctor.composition import compose
    from verl_ext.doctor.simulation.engine import why_not

    launch = report.launch
    if launch.trainer != "dft":
        raise UserError("--simulate: only runs of fsdp_dft_trainer are simulated")
    wrong = next((finding for finding in report.findings if _matters(finding)), None)
    if wrong is not None:
        raise UserError(f"--simulate: {wrong.key}: {wrong.message}")
    if report.model is None:
        raise UserError("--simulate: the configuration of model.path is not known here (--hub asks the hub)")
    with launch.surroundings():
        config, _ = compose(launch)
        if config.trainer.device == "cpu":
            raise UserError("trainer.device=cpu: --simulate is of runs on GPUs")
        if (reason := why_not(config)) is not None:
            raise UserError(f"{reason}: --simulate cannot do that")
        request = {
            "device_memory": device.memory_bytes,
            "ranks": launch.ranks,
            "arguments": [argument for argument in launch.arguments if argument != "--cfg"],
            "model": report.model.config.to_dict(),
        }
        command = [sys.executable, "-m", "verl_ext.doctor.simulation.engine"]
        try:
            done = subprocess.run(
                command, check=False, input=json.dumps(request), capture_output=True, text=True, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired:
            raise UserError(f"--simulate: not done after {TIMEOUT_S:g} s") from None
    lines = done.stderr.strip().splitlines()
    if done.returncode == 2 and lines:
        raise UserError(lines[-1].removeprefix("error: "))
    if done.returncode != 0:
        raise RuntimeError(f"the simulation failed:\n{done.stderr}")
    return json.loads(done.stdout)


def _matters(finding: Finding) -> bool:
    """Whether it keeps the engine from being built; files that are not here and too little memory do not."""
    about_data = finding.key.startswith(("data.train_files", "data.val_files"))
    return finding.level == "error" and not about_data and finding.code not in DOES_NOT_MATTER


def peak(answer: dict[str, Any]) -> dict[str, Any]:
    """The moment of most memory of all steps: bytes, categories, module, with `step` and `moment`."""
    moments = [
        {**values, "step": step, "moment": moment}
        for step, by_moment in answer["steps"].items()
        for moment, values in by_moment.items()
    ]
    return max(moments, key=lambda moment: moment["bytes"])


def as_text(answer: dict[str, Any], device: Device) -> str:
    """A table of the moments, the peak, work and traffic, and what is left out."""
    from verl_ext.doctor.simulation.engine import CATEGORIES

    columns = [(step, moment) for step, moments in answer["steps"].items() for moment in moments]
    cells = {column: answer["steps"][column[0]][column[1]] for column in columns}
    used = [name for name in CATEGORIES if any(cells[column]["categories"].get(name) for column in columns)]
    head = f"{'exact tensor memory, GiB':28}" + "".join(
        f"{step.split()[0] + ' ' + moment:>17}" for step, moment in columns
    )
    rows = [
        f"{name:28}" + "".join(f"{cells[column]['categories'].get(name, 0) / GIB:17.3f}" for column in columns)
        for name in used
    ]
    total = f"{'together':28}" + "".join(f"{cells[column]['bytes'] / GIB:17.3f}" for column in columns)
    most = peak(answer)
    sent = ", ".join(f"{name.strip('_')} {size / 1e9:.2f} GB" for name, size in answer["sent"].items())
    return "\n".join(
        [
            (
                f"simulated: rank 0 of {answer['ranks']}, {answer['micro_batches']} micro-batches of {answer['tokens']} tokens "
                f"({answer['rows']} rows, SP {answer['sp_size']}); head: {answer['head']}"
            ),
            head,
            *rows,
            total,
            (
                f"peak {most['bytes'] / GIB:.3f} GiB of {device.memory_bytes / GIB:.3g}: {most['step']}, {most['moment']}, "
                f"in {most['module']}"
            ),
            (
                f"a step on one rank: {answer['flops']:.4g} FLOPs of matrix products and unmasked attention, "
                f"{answer['flops'] / device.flops:.2f} s at the peak of {device.name}; collectives: {sent or 'none'}"
            ),
            NOT_SEEN,
            BYPASSED,
        ]
    )


def draw(answer: dict[str, Any], path: Path) -> None:
    """A PNG of memory by category over a later step, one point for each of at most 2,000 stretches of operations.

    A stretch is drawn at its highest point, so that no peak is lost.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    from verl_ext.doctor.simulation.engine import CATEGORIES

    timeline = answer["timeline"]
    stretch = -(-len(timeline) // 2000)
    points = [
        max(timeline[start : start + stretch], key=lambda held: sum(held.values()))
        for start in range(0, len(timeline), stretch)
    ]
    used = [name for name in CATEGORIES if any(point.get(name) for point in points)]
    figure, axes = plt.subplots(figsize=(11, 5))
    series = [[point.get(name, 0) / GIB for point in points] for name in used]
    axes.stackplot([index * stretch for index in range(len(points))], series, labels=used, linewidth=0)
    axes.set_xlabel("operations of two micro-batches (the first and the last) and the optimizer's step")
    axes.set_ylabel("tensor memory of rank 0, GiB")
    axes.margins(x=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), reverse=True)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
