"""What the scripts of the public benchmarks share: they differ in a name of `verl_ext.data.benchmarks`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from verl_ext.data.benchmarks import (
    BENCHMARKS,
    UnusableRow,
    asked,
    gold_to_ground_truth,
    local_file,
    question_of,
)
from verl_ext.data.instructions import INSTRUCTIONS
from verl_ext.data.prepare.local_files import Columns
from verl_ext.data.prepare.repeats import first_of_each
from verl_ext.data.prepare.rows import BadRow, make_row
from verl_ext.data.prepare.script import Arguments, prepare
from verl_ext.data.prepare.sources import SourceRow, as_text, read_source, splits_in
from verl_ext.data.prepare.split_report import SplitReport, usable


def prepare_benchmark(
    name: str, arguments: Sequence[str] | None, *, description: str, splits: Sequence[str] = ("test",)
) -> None:
    """The whole of a benchmark's script: `test.parquet`, with the questions and golds that the evaluation reads.

    Args:
        name: in `BENCHMARKS`; it becomes the `data_source` of every row.
        arguments: of the command line; None for the process's own.
        splits: that its source has, as `--splits` names them. A benchmark of one split has no such option.

    Raises:
        UserError: an option or a source that cannot be used.
    """
    benchmark = BENCHMARKS[name]
    parser = Arguments(
        description,
        local_dir=f"data/evaluation/{name}",
        hub_id=benchmark.hub_id,
        instruction="qwen",
        training="train" in splits,
    )
    parser.set_defaults(splits=splits)
    if len(splits) > 1:
        parser.add_argument("--splits", nargs="+", choices=splits, default=["test"], help="splits to write")
    options = parser.parse_args(arguments)
    names = list(dict.fromkeys(options.splits))
    convert = partial(
        _rows, name=name, source=options.source, only_split=len(names) == 1, instruction=options.instruction
    )
    prepare(options, {split: convert for split in names}, with_tolerance=benchmark.states_tolerance)


def _rows(
    report: SplitReport, *, name: str, source: Path | None, only_split: bool, instruction: str
) -> Iterator[dict[str, Any]]:
    benchmark = BENCHMARKS[name]
    split = report.split
    if split == "test":
        source = source and (local_file(name, source) or source)
        if "test" not in splits_in(source):
            split = benchmark.split  # the hub's AIME 2024 is called train
    found = read_source(
        source,
        hub_id=benchmark.hub_id,
        hub_name=benchmark.hub_name,
        split=split,
        columns=Columns(optional=None),
        only_split=only_split,
    )
    to_row = partial(_to_row, name=name, split=report.split, instruction=instruction)
    count = 0
    for row in first_of_each(usable(found, to_row, report), report):
        count += 1
        yield row
    if report.split == "test" and count != benchmark.problems:
        report.notes.append(f"the file behind the papers' numbers has {benchmark.problems} problems")


def _to_row(source: SourceRow, *, name: str, split: str, instruction: str) -> dict[str, Any]:
    benchmark = BENCHMARKS[name]
    try:
        question = as_text(question_of(source.values), "question")
        gold = benchmark.gold(source.values)
    except UnusableRow as error:
        raise BadRow(str(error)) from None
    question = asked(question, gold, name)
    ground_truth = as_text(gold_to_ground_truth(gold), "gold answer")
    row = make_row(
        data_source=name,
        split=split,
        index=source.index,
        prompt=question + INSTRUCTIONS[instruction],
        question=question,
        answer=_worked_solution(source, ground_truth),
        ground_truth=ground_truth,
    )
    if benchmark.states_tolerance:
        row["extra_info"]["error"] = source.values.get("error")
    return row


def _worked_solution(source: SourceRow, ground_truth: str) -> str:
    """The solution (OlympiadBench has a list of them: the first), GSM8K's answer, which is one, or the bare answer."""
    for column in ("solution", "answer"):
        value = source.values.get(column)
        text = value[0] if isinstance(value, list) and value else value
        if isinstance(text, str) and text.strip():
            return as_text(text, column)
    return ground_truth
