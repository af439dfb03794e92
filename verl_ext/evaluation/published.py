"""The papers' own numbers, each with where it was read (`published_results.json`)."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from verl_ext.errors import ConfigError

RESULTS_FILE = Path(__file__).with_name("published_results.json")


@dataclass(frozen=True)
class PublishedRow:
    """One row of a paper's table."""

    paper: str
    base_model: str
    method: str
    source: str
    results: Mapping[str, tuple[str, float]]
    """By benchmark: the metric (`avg@16`) and its value in percent."""

    @property
    def name(self) -> str:
        return f"{self.base_model}, {self.method} ({self.paper})"


def published_rows(which: str, benchmarks: Collection[str]) -> list[PublishedRow]:
    """Rows that share a benchmark with `benchmarks`.

    Args:
        which: `all`, `none`, or names of papers or base models with commas between them.
        benchmarks: canonical names.

    Raises:
        ConfigError: a name that is neither.
    """
    rows = [
        PublishedRow(**{**row, "results": {name: tuple(result) for name, result in row["results"].items()}})
        for row in json.loads(RESULTS_FILE.read_text(encoding="utf-8"))
    ]
    names = {row.paper for row in rows} | {row.base_model for row in rows}
    wanted = [] if which == "none" else [name.strip() for name in which.split(",")]
    for name in wanted:
        if name not in names and name != "all":
            raise ConfigError("papers", given=name, expected=f"all, none, or some of {', '.join(sorted(names))}")
    return [
        row
        for row in rows
        if set(row.results) & set(benchmarks) and ("all" in wanted or row.paper in wanted or row.base_model in wanted)
    ]
