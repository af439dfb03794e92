"""What the benchmarks share: alternating runs, medians, peak memory, the machine, a Markdown table and a JSON file.

A comparison here is of runs that alternate: in each round every contender runs once, and the order turns by one, so
that what else the machine does meets all of them. Ratios are of medians.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

Measures = dict[str, float]
"""What one run measured, such as {"seconds": 1.5, "peak_bytes": 2e9}."""

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("verl_ext", "verl", "torch", "transformers", "liger_kernel")


def alternate(
    contenders: Mapping[str, Callable[[], Measures]], *, rounds: int, warmup: int = 1
) -> dict[str, list[Measures]]:
    """Run every contender once a round, in an order that turns from round to round.

    Args:
        contenders: name -> one run.
        rounds: that count.
        warmup: rounds before them, whose results are thrown away.

    Returns:
        name -> its measures, one entry a counted round.
    """
    names = list(contenders)
    kept: dict[str, list[Measures]] = {name: [] for name in names}
    for number in range(warmup + rounds):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            measures = contenders[name]()
            if number >= warmup:
                kept[name].append(measures)
    return kept


def medians(runs: Iterable[Measures]) -> Measures:
    """Median of each measure over runs of one contender."""
    runs = list(runs)
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


@dataclass
class PeakMemory:
    """Memory above what was held when the block began, in bytes; filled in when it ends."""

    extra_bytes: float = 0.0


@contextmanager
def peak_memory(device: str = "cpu"):
    """Measure the highest extra memory of a block, exactly: the allocator's own count on a GPU, on Linux the kernel's.

    The kernel's high-water mark of resident memory is set back when the block begins. Freed memory that the C library
    holds on to is given back first: it would hide as much of the block's own.

    Raises:
        OSError: neither a GPU nor Linux.
    """
    peak = PeakMemory()
    gc.collect()
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield peak
        torch.cuda.synchronize()
        peak.extra_bytes = torch.cuda.max_memory_allocated() - before
        return
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _status_bytes("VmRSS")
    yield peak
    peak.extra_bytes = max(_status_bytes("VmHWM") - before, 0)


@contextmanager
def resident_peak(device: str = "cpu"):
    """Measure the highest memory during a block, what was held before included; see `peak_memory`."""
    with peak_memory(device) as peak:
        if device == "cpu":
            before = _status_bytes("VmRSS")
        else:
            import torch

            before = torch.cuda.memory_allocated()
        yield peak
    peak.extra_bytes += before


def timed(run: Callable[[], Any], device: str = "cpu") -> float:
    """Seconds of one call, the device's work included."""
    if device != "cpu":
        import torch

        torch.cuda.synchronize()
    started = time.perf_counter()
    run()
    if device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def in_process(command: Sequence[str], *, env: Mapping[str, str] | None = None, timeout: float | None = None) -> Any:
    """Run a command of a process of its own and read what it wrote with `hand_back`.

    Raises:
        RuntimeError: the process failed, with the end of what it wrote to stderr.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "result.json"
        ended = subprocess.run(
            command,
            env={**os.environ, **(env or {}), "BENCHMARK_RESULT": str(path)},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if ended.returncode or not path.is_file():
            raise RuntimeError(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr[-4000:]}")
        return json.loads(path.read_text())


def hand_back(result: Any) -> None:
    """In the process that `in_process` started: give the result to who started it."""
    Path(os.environ["BENCHMARK_RESULT"]).write_text(json.dumps(result))


@dataclass
class Report:
    """A table for readers and a file for programs.

    Args:
        name: of the file, benchmarks/results/<name>.json.
        title: above the table.
        options: what the run was asked for.
        packages: distributions whose versions matter, beside PACKAGES.
    """

    name: str
    title: str
    options: Mapping[str, Any]
    packages: tuple[str, ...] = ()
    rows: list[dict[str, Any]] = field(default_factory=list)
    raw: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: dict[str, Any], runs: Sequence[Measures] = ()) -> None:
        """A row of the table, by column, and the single runs behind it, which only the file has."""
        self.rows.append(row)
        self.raw.append({**row, "runs": list(runs)})

    def publish(self, out: Path | None = None) -> Path:
        """Print the table; write the file, to `out` or to benchmarks/results; returns its path."""
        where = machine()
        versions = versions_of((*PACKAGES, *self.packages))
        date = datetime.now(timezone.utc).strftime("%Y-%m-%d")
        print(f"## {self.title}\n")
        if self.rows:
            print(f"{markdown_table(self.rows)}\n")
        for note in self.notes:
            print(f"{note}\n")
        named = ", ".join(f"{name} {number}" for name, number in versions.items())
        print(f"{where['device']}, {where['threads']} threads, Python {where['python']}, {named}, {date}.")
        path = out or RESULTS / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        contents = {
            "title": self.title,
            "date": date,
            "machine": where,
            "versions": versions,
            "options": {key: _shown(value) for key, value in self.options.items()},
            "notes": self.notes,
            "rows": self.raw,
        }
        path.write_text(json.dumps(contents, indent=1) + "\n")
        return path


def markdown_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows by column as Markdown; numbers to three digits, right-aligned; what a row lacks is left empty."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    numeric = {name for name in columns if any(isinstance(row.get(name), (int, float)) for row in rows)}
    lines = [columns, ["--:" if name in numeric else "---" for name in columns]]
    lines += [[_cell(row.get(name)) for name in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine() -> dict[str, Any]:
    """What it ran on."""
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores of {_cpu_name()}"
    with open("/proc/meminfo") as lines:
        memory_gb = round(int(next(lines).split()[1]) / 2**20)
    return {
        "device": device,
        "memory_gb": memory_gb,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
    }


def versions_of(packages: Iterable[str]) -> dict[str, str]:
    """Installed versions; a package that is not there is left out."""
    found = {}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def megabytes(count: float) -> float:
    """Bytes in MiB."""
    return count / 2**20


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _shown(option: Any) -> Any:
    """An option in the file: of a path its name, since folders are the machine's own."""
    is_path = isinstance(option, Path) or (isinstance(option, str) and os.path.isabs(option))
    return Path(option).name if is_path else option


def _status_bytes(name: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status: no {name}; peak memory of a processor is measured on Linux")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


if __name__ == "__main__":
    sys.exit("This is a library; run one of the benchmarks beside it.")
