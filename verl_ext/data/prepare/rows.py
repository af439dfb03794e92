"""The row that every prepared data set has: verl's columns."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_EXTRA_INFO = [("split", pa.string()), ("index", pa.int64()), ("question", pa.string()), ("answer", pa.string())]


class BadRow(Exception):
    """A row that is left out of the output; `str(error)` is the reason, equal for rows with the same fault."""


def row_schema(*, with_messages: bool = False, with_tolerance: bool = False) -> pa.Schema:
    """The output's columns. Given, not inferred, so that a file of null answers has the same types.

    Args:
        with_messages: add the chat column `messages`.
        with_tolerance: add `extra_info.error`, from which the grader takes a row's own tolerance.
    """
    extra_info = _EXTRA_INFO + [("error", pa.string())] if with_tolerance else _EXTRA_INFO
    columns = [
        ("data_source", pa.string()),
        ("prompt", _MESSAGES),
        ("ability", pa.string()),
        ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
        ("extra_info", pa.struct(extra_info)),
    ]
    return pa.schema(columns + [("messages", _MESSAGES)] if with_messages else columns)


def make_row(
    *,
    data_source: str,
    split: str,
    index: int,
    prompt: str,
    question: str,
    answer: str,
    ground_truth: str | None,
    style: str = "rule",
    ability: str = "math",
) -> dict[str, Any]:
    """One problem in verl's columns.

    Args:
        data_source: a name of `verl_ext.reward.sources`, by which answers are graded.
        prompt: what an online trainer or the evaluation asks, instruction included.
        question: what supervised training asks (`extra_info.question`).
        answer: the worked solution (`extra_info.answer`).
        ground_truth: the final answer that a grader compares with; None where the solution states none.
        style: `rule`, or `model` where only a judge can grade.
        ability: what it takes, `math` or `code`; read by nothing but people.
    """
    return {
        "data_source": data_source,
        "prompt": [{"role": "user", "content": prompt}],
        "ability": ability,
        "reward_model": {"style": style, "ground_truth": ground_truth},
        "extra_info": {"split": split, "index": index, "question": question, "answer": answer},
    }


def add_messages(row: dict[str, Any]) -> dict[str, Any]:
    """`row` with the column `messages`: the very texts of `extra_info`, as one exchange of a chat."""
    info = row["extra_info"]
    exchange = [
        {"role": "user", "content": info["question"]},
        {"role": "assistant", "content": info["answer"]},
    ]
    return {**row, "messages": exchange}
