r"""NuminaMath-CoT, the training data of the DFT paper: the first 100,000 rows, in their order.

    python data_preprocess/numina_cot.py --train_end 100000

writes `train.parquet`. Training asks the bare problem (`extra_info.question`); the column `prompt`
carries the instruction to box the answer besides. A row without a boxed answer is kept, with a null
`ground_truth`: proofs teach too, they only cannot be graded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from verl_ext.cli import user_errors_exit
from verl_ext.data.instructions import INSTRUCTIONS
from verl_ext.data.prepare.local_files import Columns
from verl_ext.data.prepare.repeats import first_of_each
from verl_ext.data.prepare.rows import make_row
from verl_ext.data.prepare.script import Arguments, prepare, whole_number
from verl_ext.data.prepare.sources import SourceRow, read_source
from verl_ext.data.prepare.split_report import SplitReport, usable
from verl_ext.errors import UserError
from verl_ext.reward.math.extraction import last_boxed

HUB_ID = "AI-MO/NuminaMath-CoT"


def to_row(source: SourceRow, *, split: str, instruction: str) -> dict[str, Any]:
    problem = source.text("problem")
    solution = source.text("solution")
    return make_row(
        data_source=HUB_ID,
        split=split,
        index=source.index,
        prompt=problem + INSTRUCTIONS[instruction],
        question=problem,
        answer=solution,
        ground_truth=last_boxed(solution),
    )


def rows(
    report: SplitReport, *, source: Path | None, start: int, stop: int, instruction: str, unique: bool
) -> Iterator[dict[str, Any]]:
    columns = Columns(text=("problem", "solution"))
    found = read_source(source, hub_id=HUB_ID, split="train", columns=columns, start=start, stop=stop)
    converted = usable(found, partial(to_row, split=report.split, instruction=instruction), report)
    return first_of_each(converted, report, keep=not unique)


def main(argv: list[str] | None = None) -> None:
    parser = Arguments(
        "NuminaMath-CoT for supervised training.",
        local_dir="data/numina_cot",
        hub_id=HUB_ID,
        instruction="dft",
        training=True,
    )
    parser.add_argument("--train_start", type=whole_number(0), default=0, help="first row")
    parser.add_argument("--train_end", type=whole_number(1), default=100_000, help="row after the last one")
    parser.add_argument("--test_size", type=whole_number(0), default=0, help="rows after --train_end to hold out")
    parser.add_argument("--unique", action="store_true", help="drop a problem that came before")
    with user_errors_exit():
        arguments = parser.parse_args(argv)
        start, end = arguments.train_start, arguments.train_end
        if start >= end:
            raise UserError(f"--train_start {start}: must be below --train_end {end}")
        split = partial(rows, source=arguments.source, instruction=arguments.instruction, unique=arguments.unique)
        splits = {"train": partial(split, start=start, stop=end)}
        if arguments.test_size:
            splits["test"] = partial(split, start=end, stop=end + arguments.test_size)
        prepare(arguments, splits)


if __name__ == "__main__":
    main()
