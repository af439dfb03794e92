"""The problems of a folder of evaluation sets, prepared ones or the benchmarks' own files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.data.benchmarks import SUFFIXES, UnusableRow, is_prepared, question_of
from verl_ext.data.reading import iterate_rows, row_error
from verl_ext.errors import DataError


@dataclass(frozen=True)
class EvaluationProblem:
    """What is asked of a model later, and must not be in what it learns from.

    Attributes:
        benchmark: name of its set: that of its file, or of the folder of a `test` file.
        index: row in the file, from 0.
    """

    benchmark: str
    index: int
    question: str


def read_evaluation_problems(folder: Path, *, except_in: Path) -> list[EvaluationProblem]:
    """The problems of `FOLDER/NAME.jsonl` and `FOLDER/NAME/test.jsonl`, and likewise of `.parquet` and `.json`.

    Args:
        except_in: a folder that is left out: the one that is written to, or a second run would compare with the first.

    Raises:
        DataError: there is no such file, or one that cannot be read, holds no row, or a row without a question.
    """
    if not folder.is_dir():
        raise DataError(f"--decontaminate {folder}: no such folder")
    files = [(name, path) for name, path in _files(folder) if path.parent.resolve() != except_in.resolve()]
    if not files:
        looked_for = ", ".join(pattern + suffix for pattern in ("NAME", "NAME/test") for suffix in SUFFIXES)
        raise DataError(f"--decontaminate {folder}: no evaluation set in this folder (looked for {looked_for})")
    return [problem for name, path in files for problem in _problems(name, path)]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_file() and entry.suffix in SUFFIXES and entry.stem != "train":
            yield entry.stem, entry
        for suffix in SUFFIXES if entry.is_dir() else ():
            if (entry / f"test{suffix}").is_file():
                yield entry.name, entry / f"test{suffix}"


def _problems(name: str, path: Path) -> list[EvaluationProblem]:
    problems = []
    for index, row in enumerate(iterate_rows(str(path))):
        try:
            problems.append(EvaluationProblem(name, index, _question(row)))
        except UnusableRow as error:
            raise row_error(path, index, str(error)) from None
    if not problems:
        raise DataError(f"{path}: no problem in it")
    return problems


def _question(row: Mapping[str, Any]) -> str:
    """The bare problem: a prepared prompt has an instruction behind it, which training prompts share."""
    info = row.get("extra_info")
    if is_prepared(row) and isinstance(info, dict) and isinstance(info.get("question"), str):
        return info["question"]
    if is_prepared(row):
        raise UnusableRow("no extra_info.question")
    for column in ("question_content", "prompt"):  # LiveCodeBench's and HumanEval's own files
        if isinstance(row.get(column), str) and row[column].strip():
            return row[column]
    return question_of(row)
