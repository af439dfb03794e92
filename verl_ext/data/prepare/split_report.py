"""The closing report: what was read, kept and dropped, how long the texts are, one example."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from verl_ext.data.prepare.lengths import Measure
from verl_ext.data.prepare.rows import BadRow
from verl_ext.data.prepare.sources import SourceRow

_LOCATIONS_SHOWN = 3
_LONGEST_EXAMPLE = 4000
_QUANTILES = (0.5, 0.9, 0.99, 1.0)


class SplitReport:
    """Counts of one split, filled while its rows stream by.

    Args:
        split: name of the split, which is also the name of its file.
        measure: how lengths are counted and how the example is shown.
    """

    def __init__(self, split: str, measure: Measure) -> None:
        self.split = split
        self.read = 0
        self.kept = 0
        self.without_ground_truth = 0
        self.repeats = 0
        self.notes: list[str] = []
        self.dropped: Counter[str] = Counter()
        self._dropped_at: defaultdict[str, list[str]] = defaultdict(list)
        self._measure = measure
        self._lengths: dict[str, list[int]] = {"question": [], "answer": [], "both": []}
        self._example: dict[str, Any] | None = None

    def drop(self, reason: str, location: str) -> None:
        self.dropped[reason] += 1
        if len(self._dropped_at[reason]) < _LOCATIONS_SHOWN:
            self._dropped_at[reason].append(location)

    def keep(self, rows: Sequence[dict[str, Any]]) -> None:
        self.kept += len(rows)
        self.without_ground_truth += sum(row["reward_model"]["ground_truth"] is None for row in rows)
        questions = self._measure.lengths([row["extra_info"]["question"] for row in rows])
        answers = self._measure.lengths([row["extra_info"]["answer"] for row in rows])
        self._lengths["question"] += questions
        self._lengths["answer"] += answers
        self._lengths["both"] += [question + answer for question, answer in zip(questions, answers, strict=True)]
        if self._example is None and rows:
            self._example = rows[0]

    def drops(self) -> list[str]:
        """One line for each reason, the most frequent first, with the places of the first few rows."""
        lines = []
        for reason, count in sorted(self.dropped.items(), key=lambda item: (-item[1], item[0])):
            places = ", ".join(self._dropped_at[reason]) + (", ..." if count > _LOCATIONS_SHOWN else "")
            lines.append(f"{count} x {reason} ({places})")
        return lines

    def lines(self, path: str) -> list[str]:
        """The report of a split that was written to `path`."""
        lines = [f"{path}: {self.kept} rows of {self.read} read, {self.read - self.kept} dropped"]
        lines += [f"  dropped {drop}" for drop in self.drops()]
        if self.without_ground_truth:
            lines.append(f"  kept without a boxed answer (ground_truth is null): {self.without_ground_truth}")
        if self.repeats:
            lines.append(f"  kept although they repeat an earlier problem (--unique drops them): {self.repeats}")
        lines += [f"  note: {note}" for note in self.notes]
        for name, lengths in self._lengths.items():
            quantiles = ", ".join(
                f"{'max' if share == 1 else f'{share:.0%}'} {value}"
                for share, value in zip(_QUANTILES, _nearest_rank(lengths), strict=True)
            )
            lines.append(f"  {self._measure.unit} of {name}: {quantiles}")
        return lines + self._example_lines()

    def _example_lines(self) -> list[str]:
        info = self._example["extra_info"]
        return [
            f"  first row (index {info['index']}, ground truth {self._example['reward_model']['ground_truth']!r}):",
            "  prompt:",
            *_quoted(self._example["prompt"][0]["content"]),
            "  training text:",
            *_quoted(self._measure.render(info["question"], info["answer"])),
        ]


def usable(
    source: Iterable[SourceRow], to_row: Callable[[SourceRow], dict[str, Any]], report: SplitReport
) -> Iterator[dict[str, Any]]:
    """`to_row` of each row of `source`; those for which it raises `BadRow` are told to `report` instead."""
    for row in source:
        report.read += 1
        try:
            converted = to_row(row)
        except BadRow as fault:
            report.drop(str(fault), row.location)
            continue
        yield converted


def _quoted(text: str) -> list[str]:
    left_out = len(text) - _LONGEST_EXAMPLE
    if left_out > 0:
        half = _LONGEST_EXAMPLE // 2
        text = f"{text[:half]}\n[... {left_out} characters not shown ...]\n{text[-half:]}"
    return [f"  | {line}" for line in text.splitlines()]


def _nearest_rank(lengths: list[int]) -> list[int]:
    ordered = sorted(lengths)
    return [ordered[max(0, -int(-share * len(ordered) // 1) - 1)] for share in _QUANTILES]
