r"""MATH (Hendrycks et al.), whose test split is the validation set of the DFT recipe.

    python data_preprocess/math_dataset.py

writes `train.parquet` and `test.parquet`. A row without a boxed answer is dropped: it could not be
graded. In the recipe's published validation file `extra_info.question` contains the instruction that
its training file leaves out, so that the two losses are of different prompts; here both hold the
bare problem, and `--instruction_in_question` gives the published form. The 500 problems of the test
split that papers report on are `math500.py`.
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
from verl_ext.data.prepare.rows import BadRow, make_row
from verl_ext.data.prepare.script import Arguments, prepare
from verl_ext.data.prepare.sources import SourceRow, read_source
from verl_ext.data.prepare.split_report import SplitReport, usable
from verl_ext.reward.math.extraction import last_boxed

HUB_ID = "DigitalLearningGmbH/MATH-lighteval"
SPLITS = ("train", "test")


def to_row(source: SourceRow, *, split: str, instruction: str, instruction_in_question: bool) -> dict[str, Any]:
    problem = source.text("problem")
    solution = source.text("solution")
    answer = last_boxed(solution)
    if answer is None:
        raise BadRow("solution has no boxed answer")
    prompt = problem + INSTRUCTIONS[instruction]
    return make_row(
        data_source=HUB_ID,
        split=split,
        index=source.index,
        prompt=prompt,
        question=prompt if instruction_in_question else problem,
        answer=solution,
        ground_truth=answer,
    )


def rows(
    report: SplitReport,
    *,
    source: Path | None,
    only_split: bool,
    instruction: str,
    instruction_in_question: bool,
    unique: bool,
) -> Iterator[dict[str, Any]]:
    columns = Columns(text=("problem", "solution"))
    found = read_source(source, hub_id=HUB_ID, split=report.split, columns=columns, only_split=only_split)
    convert = partial(
        to_row, split=report.split, instruction=instruction, instruction_in_question=instruction_in_question
    )
    return first_of_each(usable(found, convert, report), report, keep=not unique)


def main(argv: list[str] | None = None) -> None:
    parser = Arguments(
        "MATH, for validation or training.",
        local_dir="data/math500",
        hub_id=HUB_ID,
        instruction="dft",
        training=True,
    )
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=SPLITS, help="splits to write")
    parser.add_argument(
        "--instruction_in_question", action="store_true", help="as in the published validation file of DFT"
    )
    parser.add_argument("--unique", action="store_true", help="drop a problem that came before")
    with user_errors_exit():
        arguments = parser.parse_args(argv)
        names = list(dict.fromkeys(arguments.splits))
        convert = partial(
            rows,
            source=arguments.source,
            only_split=len(names) == 1,
            instruction=arguments.instruction,
            instruction_in_question=arguments.instruction_in_question,
            unique=arguments.unique,
        )
        prepare(arguments, {name: convert for name in names})


if __name__ == "__main__":
    main()
