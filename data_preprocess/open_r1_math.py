r"""OpenR1-Math-220k: problems of NuminaMath 1.5 with reasoning of DeepSeek-R1.

    python data_preprocess/open_r1_math.py

writes `train.parquet`. Of the two to four generations of a problem the first one that is complete
and right is taken: by math-verify, or where that saw none right, by the judge model. A row without
such a generation is dropped. A row whose answer is none to compare with (a proof) has a null `ground_truth`.
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
from verl_ext.data.prepare.script import Arguments, prepare, subset_of
from verl_ext.data.prepare.sources import SourceRow, as_text, read_source
from verl_ext.data.prepare.split_report import SplitReport, usable

HUB_ID = "open-r1/OpenR1-Math-220k"
COLUMNS = Columns(
    text=("problem", "answer"),
    nested=("generations", "is_reasoning_complete", "correctness_math_verify"),
    optional=("correctness_llama",),
)
SUBSETS = ("default", "extended")
NO_ANSWERS = ("proof", "notfound")
"""What NuminaMath 1.5 has for an answer where there is none; whether any such row is in OpenR1 is not checked."""


def to_row(source: SourceRow, *, split: str, instruction: str) -> dict[str, Any]:
    problem = source.text("problem")
    answer = source.text("answer")
    return make_row(
        data_source=HUB_ID,
        split=split,
        index=source.index,
        prompt=problem + INSTRUCTIONS[instruction],
        question=problem,
        answer=right_generation(source),
        ground_truth=None if answer.strip().lower() in NO_ANSWERS else answer,
    )


def right_generation(source: SourceRow) -> str:
    """The first complete generation that math-verify calls right, or failing that the judge model.

    Raises:
        BadRow: there is none, or the columns are not lists of the same length.
    """
    generations = _list(source, "generations")
    complete = _list(source, "is_reasoning_complete", len(generations))
    verdicts = [_list(source, "correctness_math_verify", len(generations))]
    if source.values.get("correctness_llama") is not None:  # null where math-verify was enough
        verdicts.append(_list(source, "correctness_llama", len(generations)))
    for right in verdicts:
        for position, generation in enumerate(generations):
            if complete[position] is True and right[position] is True:
                return as_text(generation, "generation")
    raise BadRow("no generation is complete and right")


def _list(source: SourceRow, column: str, length: int | None = None) -> list[Any]:
    value = source.value(column)
    if not isinstance(value, list):
        raise BadRow(f"{column} is not a list but {type(value).__name__}")
    if length is not None and len(value) != length:
        raise BadRow(f"{column} is not as long as generations")
    return value


def rows(
    report: SplitReport, *, source: Path | None, subset: str, instruction: str, unique: bool
) -> Iterator[dict[str, Any]]:
    found = read_source(source, hub_id=HUB_ID, hub_name=subset, split="train", columns=COLUMNS)
    converted = usable(found, partial(to_row, split=report.split, instruction=instruction), report)
    return first_of_each(converted, report, keep=not unique)


def main(argv: list[str] | None = None) -> None:
    parser = Arguments(
        "OpenR1-Math-220k for supervised training.",
        local_dir="data/open_r1_math",
        hub_id=HUB_ID,
        instruction="qwen",
        training=True,
    )
    parser.add_argument("--subset", choices=SUBSETS, help="part of the hub's repository, its default one unless named")
    parser.add_argument("--unique", action="store_true", help="drop a problem that came before")
    with user_errors_exit():
        arguments = parser.parse_args(argv)
        prepare(
            arguments,
            {
                "train": partial(
                    rows,
                    source=arguments.source,
                    subset=subset_of(arguments, SUBSETS),
                    instruction=arguments.instruction,
                    unique=arguments.unique,
                )
            },
        )


if __name__ == "__main__":
    main()
