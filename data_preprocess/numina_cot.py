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
from verl_ext.data.prepare.command import Arguments, prepare, whole_number
from verl_ext.data.prepare.report import SplitReport, usable
from verl_ext.data.prepare.rows import BOXED_INSTRUCTION, make_row
from verl_ext.data.prepare.sources import SourceRow, read_source
from verl_ext.errors import UserError
from verl_ext.reward.extraction import last_boxed

HUB_ID = "AI-MO/NuminaMath-CoT"


def to_row(source: SourceRow, *, split: str) -> dict[str, Any]:
    problem = source.text("problem")
    solution = source.text("solution")
    return make_row(
        data_source=HUB_ID,
        split=split,
        index=source.index,
        prompt=f"{problem} {BOXED_INSTRUCTION}",
        question=problem,
        answer=solution,
        ground_truth=last_boxed(solution),
    )


def rows(report: SplitReport, *, source: Path | None, start: int, stop: int) -> Iterator[dict[str, Any]]:
    found = read_source(source, hub_id=HUB_ID, split="train", columns=["problem", "solution"], start=start, stop=stop)
    return usable(found, partial(to_row, split=report.split), report)


def main(argv: list[str] | None = None) -> None:
    parser = Arguments("NuminaMath-CoT for supervised training.", local_dir="data/numina_cot")
    parser.add_argument("--source", type=Path, help=f"local file or folder instead of {HUB_ID} of the hub")
    parser.add_argument("--train_start", type=whole_number(0), default=0, help="first row")
    parser.add_argument("--train_end", type=whole_number(1), default=100_000, help="row after the last one")
    parser.add_argument("--test_size", type=whole_number(0), default=0, help="rows after --train_end to hold out")
    with user_errors_exit():
        arguments = parser.parse_args(argv)
        start, end = arguments.train_start, arguments.train_end
        if start >= end:
            raise UserError(f"--train_start {start}: must be below --train_end {end}")
        splits = {"train": partial(rows, source=arguments.source, start=start, stop=end)}
        if arguments.test_size:
            splits["test"] = partial(rows, source=arguments.source, start=end, stop=end + arguments.test_size)
        prepare(arguments, splits)


if __name__ == "__main__":
    main()
