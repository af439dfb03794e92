"""The report as tables for a terminal, as plain text for a pipe, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, TextIO

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from verl_ext.doctor.examination import LaunchReport, Options
from verl_ext.doctor.findings import Finding, exit_code
from verl_ext.doctor.memory import GIB

STYLES = {"error": "bold red", "warning": "yellow", "info": "cyan"}
VERDICTS = {0: "nothing stands in the way", 1: "will run; see the warnings", 2: "will fail; see the errors"}
ORDER = ("error", "warning", "info")
PLAIN_WIDTH = 200


def print_reports(reports: Sequence[LaunchReport], general: Sequence[Finding], options: Options, file: TextIO) -> None:
    """Tables of every launch, and what concerns the script as a whole."""
    console = Console(file=file, highlight=False, width=None if file.isatty() else PLAIN_WIDTH, soft_wrap=False)
    plain = not console.is_terminal
    for number, report in enumerate(reports, 1):
        _print_launch(console, report, number, len(reports), options, plain)
    if general:
        console.print()
        _print_findings(console, general, plain)
    everything = [*general, *(finding for report in reports for finding in report.findings)]
    code = exit_code(everything)
    counts = {level: sum(finding.level == level for finding in everything) for level in ORDER}
    summary = ", ".join(f"{count} {_plural(level, count)}" for level, count in counts.items() if level != "info")
    console.print()
    console.print(Text(f"{VERDICTS[code]} ({summary}; exit code {code})", style=("green", "yellow", "bold red")[code]))


def _plural(level: str, count: int) -> str:
    return level if count == 1 else f"{level}s"


def _print_launch(
    console: Console, report: LaunchReport, number: int, total: int, options: Options, plain: bool
) -> None:
    launch = report.launch
    title = f"launch {number} of {total}: " if total > 1 else ""
    how = f"torchrun, {launch.nnodes} x {launch.nproc_per_node} processes" if launch.torchrun else "one process"
    if launch.trainer == "nft":
        how = "Ray job" if launch.ray_job else "Ray"
    console.print()
    console.print(Text(f"{title}{launch.module.rpartition('.')[2]} ({launch.trainer}), {how}", style="bold"))
    for note in launch.notes:
        console.print(f"note: {note}")
    facts = _table(plain, "", "what", "value")
    if report.model is not None:
        shape = report.model.shape
        facts.add_row("model", f"{shape.parameters:,} parameters, from {report.model.source}")
    for name, value in report.facts:
        facts.add_row(name, value)
    console.print(facts)
    for estimate in report.memory:
        console.print(_memory_table(estimate, report, options, plain))
    if report.times:
        console.print(_time_table(report, options, plain))
    _print_findings(console, report.findings, plain)


def _print_findings(console: Console, findings: Sequence[Finding], plain: bool) -> None:
    """A table; in a pipe one line each, which can be searched."""
    if not findings:
        console.print("no findings")
    elif plain:
        console.print("findings")
        for finding in _sorted(findings):
            where = f"{finding.key}: " if finding.key else ""
            console.print(Text(f" {finding.level:<8} {finding.code:<18} {where}{_text(finding)}"), soft_wrap=True)
    else:
        console.print(_findings_table(findings))


def _sorted(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(findings, key=lambda found: ORDER.index(found.level))


def _text(finding: Finding) -> str:
    return f"{finding.message}; {finding.fix}" if finding.fix else finding.message


def duration(seconds: float) -> str:
    """As people say it: 0.0021 s, 12.3 s, 2.1 h."""
    if seconds < 1:
        return f"{seconds:.2g} s"
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 3600:,.1f} h"


def _table(plain: bool, title: str, *columns: str, right: Sequence[str] = ()) -> Table:
    table = Table(
        title=title or None,
        title_justify="left",
        box=None if plain else box.SIMPLE,
        show_header=not plain or bool(title),
    )
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def _memory_table(estimate: Any, report: LaunchReport, options: Options, plain: bool) -> Table:
    on_gpu = report.training is not None and report.training.on_gpu
    have = f" of {options.device.memory_bytes / GIB:.0f} GiB ({options.device.name})" if on_gpu else " (CPU)"
    where = "GPU" if on_gpu else "process"
    title = f"memory of a {where} {estimate.moment}, estimated: {estimate.bytes / GIB:.3g}{have}"
    table = _table(plain, title, "part", "GiB", "formula", right=("GiB",))
    for part in estimate.parts:
        table.add_row(part.name, f"{part.bytes / GIB:.2f}", part.formula)
    return table


def _time_table(report: LaunchReport, options: Options, plain: bool) -> Table:
    total = sum(part.seconds for part in report.times)
    bound = " (responses at their full length)" if report.launch.trainer == "nft" else ""
    title = f"time of a step, estimated at MFU {options.mfu:g}: {duration(total)}{bound}"
    table = _table(plain, title, "part", "time", "formula", right=("time",))
    for part in report.times:
        table.add_row(part.name, duration(part.seconds), part.formula)
    return table


def _findings_table(findings: Sequence[Finding]) -> Table:
    table = _table(False, "findings", "level", "code", "key", "what was found, and what to do")
    for finding in _sorted(findings):
        style = STYLES[finding.level]
        table.add_row(Text(finding.level, style=style), finding.code, finding.key, Text(_text(finding)))
    return table


def as_json(
    reports: Sequence[LaunchReport],
    general: Sequence[Finding],
    options: Options,
    simulated: Sequence[dict[str, Any]] = (),
) -> str:
    """Everything, for programs; `simulated` in the order of the launches, without the timeline."""
    everything = [*general, *(finding for report in reports for finding in report.findings)]
    return json.dumps(
        {
            "exit_code": exit_code(everything),
            "device": vars(options.device),
            "mfu": options.mfu,
            "findings": [vars(finding) for finding in general],
            "launches": [_launch_json(report) for report in reports],
            "simulated": [{key: answer[key] for key in answer if key != "timeline"} for answer in simulated],
        },
        indent=2,
    )


def _launch_json(report: LaunchReport) -> dict[str, Any]:
    launch = report.launch
    return {
        "trainer": launch.trainer,
        "module": launch.module,
        "command": launch.command,
        "ranks": report.training.ranks if report.training else launch.ranks,
        "notes": list(launch.notes),
        "model": None
        if report.model is None
        else {"source": report.model.source, "parameters": report.model.shape.parameters, **vars(report.model.shape)},
        "facts": dict(report.facts),
        "memory": [
            {"moment": estimate.moment, "bytes": estimate.bytes, "parts": [vars(part) for part in estimate.parts]}
            for estimate in report.memory
        ],
        "time": [vars(part) for part in report.times],
        "findings": [vars(finding) for finding in report.findings],
    }
