r"""DAPO-Math-17k, the training problems of DAPO and NFT, each of them once.

    python data_preprocess/dapo_math_17k.py --boxed

writes `train.parquet`. The hub's file holds every problem about 100 times (1,791,700 rows, about
17,900 problems). Its prompts ask for a last line `Answer: ...`, and `data_source` is `math_dapo`,
graded by that line. With `--boxed` the prompt is the bare problem with the instruction to box the
answer, and `data_source` is `math_dapo_boxed`, graded by the box at the end: the form that NFT trains on.
There are no worked solutions: `extra_info.answer` is the final answer.
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
from verl_ext.data.prepare.sources import SourceRow, as_text, read_source
from verl_ext.data.prepare.split_report import SplitReport, usable
from verl_ext.errors import UserError

HUB_ID = "BytedTsinghua-SIA/DAPO-Math-17k"
# The wording around a problem, as two public checks of the hub's file have it; rows that have another are counted.
BEFORE = (
    "Solve the following math problem step by step. The last line of your response should be of the form "
    "Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
)
AFTER = '\n\nRemember to put your answer on its own line after "Answer:".'


def to_row(source: SourceRow, *, split: str, boxed: bool, instruction: str) -> dict[str, Any]:
    match source.value("prompt"), source.value("reward_model"):
        case [{"role": "user", "content": content}], {"ground_truth": gold}:
            prompt = as_text(content, "prompt")
        case [{"role": "user", "content": _}], _:
            raise BadRow("reward_model has no ground_truth")
        case _:
            raise BadRow("prompt is not one message of a user")
    if gold is None:
        raise BadRow("ground_truth is null")
    answer = as_text(gold, "ground_truth")
    if not (prompt.startswith(BEFORE) and prompt.endswith(AFTER)):
        raise BadRow("prompt is not worded as DAPO words it")
    problem = prompt.removeprefix(BEFORE).removesuffix(AFTER)
    return make_row(
        data_source="math_dapo_boxed" if boxed else "math_dapo",
        split=split,
        index=source.index,
        prompt=problem + INSTRUCTIONS[instruction] if boxed else prompt,
        question=as_text(problem, "problem"),
        answer=answer,
        ground_truth=answer,
    )


def rows(report: SplitReport, *, source: Path | None, boxed: bool, instruction: str) -> Iterator[dict[str, Any]]:
    columns = Columns(nested=("prompt", "reward_model"))
    found = read_source(source, hub_id=HUB_ID, split="train", columns=columns)
    convert = partial(to_row, split=report.split, boxed=boxed, instruction=instruction)
    return first_of_each(usable(found, convert, report), report)


def main(argv: list[str] | None = None) -> None:
    parser = Arguments(
        "DAPO-Math-17k for online training.",
        local_dir="data/dapo_math_17k",
        hub_id=HUB_ID,
        instruction="qwen",
        training=True,
    )
    parser.add_argument("--boxed", action="store_true", help="ask for a box (--instruction) and grade by it")
    with user_errors_exit():
        arguments = parser.parse_args(argv)
        if not arguments.boxed and arguments.instruction != parser.get_default("instruction"):
            raise UserError(
                f"--instruction {arguments.instruction}: only with --boxed, for DAPO's prompts have their own"
            )
        prepare(
            arguments,
            {"train": partial(rows, source=arguments.source, boxed=arguments.boxed, instruction=arguments.instruction)},
        )


if __name__ == "__main__":
    main()
