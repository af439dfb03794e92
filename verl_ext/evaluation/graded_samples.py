r"""From answers that a model gave and a grader judged to data that it can be trained on.

    python -m verl_ext.evaluation.graded_samples select TRAIN.parquet PROBLEMS.parquet
    python -m verl_ext.evaluation generate benchmarks=NAME:PROBLEMS.parquet output_dir=OUT n_samples=4 ...
    python -m verl_ext.evaluation score output_dir=OUT
    python -m verl_ext.evaluation.graded_samples collect PROBLEMS.parquet OUT/graded/default/NAME.jsonl FOLDER

`select` keeps the problems whose right answer is known, which grading needs. `collect` writes

    FOLDER/rollouts.parquet   a row a problem with all its answers: `data.rollouts` of offline NFT
    FOLDER/right.parquet      a row a right answer, in verl's columns: for DFT and for rejection fine-tuning, with
                              data.prompt_key=prompt data.response_key=extra_info data.response_dict_keys=[answer]

Both have the prompt that was asked. An answer that is right but was cut off at the length limit is not in
`right.parquet`: what ends there would be learned as an end. Equal input gives equal bytes.
"""

from __future__ import annotations

import argparse
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq

from verl_ext.cli import user_errors_exit
from verl_ext.data.prepare.rows import row_schema
from verl_ext.data.reading import iterate_rows, require_files, row_error
from verl_ext.data.rollout_rows import FINISH_REASONS
from verl_ext.errors import DataError, UserError

PROBLEM_SCHEMA = row_schema(with_messages=False)
ROLLOUT_SCHEMA = pa.schema(
    [
        *(PROBLEM_SCHEMA.field(name) for name in ("data_source", "prompt", "ability", "reward_model")),
        ("responses", pa.list_(pa.string())),
        ("correct", pa.list_(pa.bool_())),
        ("finish_reasons", pa.list_(pa.string())),
    ]
)


@dataclass(frozen=True, order=True)
class Sample:
    """One graded answer."""

    sample: int
    """Which of its problem's answers, from 0."""
    response: str
    correct: bool
    finish_reason: str


def select(source: str, target: str) -> str:
    """Write the rows of `source` that name a right answer to `target`, in their order.

    Args:
        source: parquet or JSON lines in verl's columns.
        target: a parquet file; its row numbers are the problem numbers of an evaluation that reads it.

    Returns:
        What was kept, in a line.

    Raises:
        DataError: the file or a row of it cannot be used, or no row is left.
    """
    rows = _read_problems(source)
    kept = [row for row in rows if row["reward_model"].get("ground_truth")]
    if not kept:
        raise DataError(f"{source}: none of its {len(rows)} rows has an answer in reward_model.ground_truth")
    _write(Path(target), kept, PROBLEM_SCHEMA)
    return f"{target}: {len(kept)} of {len(rows)} problems; the others name no answer to grade with"


def collect(problems: str, graded: str, folder: str) -> str:
    """Write `rollouts.parquet` and `right.parquet` of `folder`.

    Args:
        problems: what was asked, in verl's columns.
        graded: the evaluation's verdicts on the answers, `OUT/graded/GRADER/NAME.jsonl`.

    Returns:
        What was written, in lines.

    Raises:
        DataError: a row that cannot be used, verdicts on other problems than these, or no right answer.
    """
    rows = _read_problems(problems)
    answers = _read_graded(graded, rows, problems)
    rollouts, right = [], []
    counts: Counter[str] = Counter()
    for index, samples in sorted(answers.items()):
        samples = sorted(samples)
        rollouts.append(_rollout(rows[index], samples))
        finished = [s for s in samples if s.correct and s.finish_reason == "stop"]
        right += [_right(rows[index], index, s.response) for s in finished]
        share = sum(s.correct for s in samples) / len(samples)
        counts["samples"] += len(samples)
        counts["right"] += sum(s.correct for s in samples)
        counts["cut off"] += sum(s.correct for s in samples) - len(finished)
        counts["mixed"] += 0 < share < 1
    if not right:
        raise DataError(f"{graded}: none of its {counts['samples']} answers is right and complete: nothing to learn")
    rollouts_file, right_file = (str(Path(folder) / name) for name in ("rollouts.parquet", "right.parquet"))
    _write(Path(rollouts_file), rollouts, ROLLOUT_SCHEMA)
    _write(Path(right_file), right, PROBLEM_SCHEMA)
    return (
        f"{rollouts_file}: {len(rollouts)} of {len(rows)} problems with {counts['samples']} answers, of which "
        f"{counts['right']} are right; {counts['mixed']} problems have right and wrong ones\n"
        f"{right_file}: {len(right)} right answers; {counts['cut off']} more were cut off and left out"
    )


def _read_problems(path: str) -> list[dict[str, Any]]:
    require_files("problems", [path])
    rows = []
    for number, row in enumerate(iterate_rows(path)):
        for column, kind in (("prompt", list), ("reward_model", dict), ("data_source", str)):
            if not isinstance(row.get(column), kind):
                found = "no such column" if column not in row else f"holds {type(row[column]).__name__}"
                raise row_error(path, number, f"column {column!r}: {found}; expected verl's columns")
        rows.append(row)
    return rows


def _read_graded(path: str, rows: Sequence[Mapping[str, Any]], problems: str) -> dict[int, list[Sample]]:
    """{problem: its answers}, in the order in which they were finished."""
    require_files("graded", [path])
    answers: dict[int, list[Sample]] = {}
    for number, record in enumerate(iterate_rows(path)):
        if not isinstance(record.get("correct"), bool):
            raise row_error(path, number, "no verdict; expected the file of a grader, after `score`")
        index, response, reason = record.get("problem"), record.get("response"), record.get("finish_reason")
        if not isinstance(response, str) or reason not in FINISH_REASONS:
            raise row_error(path, number, "no response with a finish_reason of stop or length")
        if not isinstance(index, int) or not 0 <= index < len(rows) or record.get("question") != _question(rows[index]):
            raise row_error(path, number, f"answers problem {index}, which is another one (or none) in {problems}")
        answers.setdefault(index, []).append(Sample(record["sample"], response, record["correct"], reason))
    if not answers:
        raise DataError(f"{path}: no rows")
    return answers


def _question(row: Mapping[str, Any]) -> str:
    """What the evaluation calls a problem of verl's columns."""
    return (row.get("extra_info") or {}).get("question") or row["prompt"][-1]["content"]


def _rollout(row: Mapping[str, Any], samples: Sequence[Sample]) -> dict[str, Any]:
    return {
        **{name: row.get(name) for name in ("data_source", "prompt", "ability", "reward_model")},
        "responses": [s.response for s in samples],
        "correct": [s.correct for s in samples],
        "finish_reasons": [s.finish_reason for s in samples],
    }


def _right(row: Mapping[str, Any], index: int, response: str) -> dict[str, Any]:
    split = (row.get("extra_info") or {}).get("split")
    info = {"split": split, "index": index, "question": _question(row), "answer": response}
    return {**{name: row.get(name) for name in PROBLEM_SCHEMA.names}, "extra_info": info}


def _write(path: Path, rows: list[dict[str, Any]], schema: pa.Schema) -> None:
    """Write a parquet file whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), temporary)
        temporary.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


class _Arguments(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(message)


def main(argv: Sequence[str] | None = None) -> None:
    parser = _Arguments(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = parser.add_subparsers(dest="step", required=True, parser_class=_Arguments)
    first = steps.add_parser("select", help="problems whose right answer is known")
    first.add_argument("source")
    first.add_argument("target")
    second = steps.add_parser("collect", help="training data from graded answers")
    for name in ("problems", "graded", "folder"):
        second.add_argument(name)
    with user_errors_exit():
        given = vars(parser.parse_args(argv))
        step = {"select": select, "collect": collect}[given.pop("step")]
        print(step(**given))


if __name__ == "__main__":
    main()
