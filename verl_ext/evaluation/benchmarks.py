r"""The problems: benchmarks by name, from the hub or a local folder, and any file with problems and answers.

Questions and gold answers are taken as the published harness takes them (QwenLM/Qwen2.5-Math, evaluation/parser.py:
`parse_question`, `parse_ground_truth`): MATH and Minerva from the box of the worked solution, GSM8K from its `####` line,
OlympiadBench from `final_answer`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.data.reading import iterate_rows
from verl_ext.errors import ConfigError, DataError, nearest
from verl_ext.reward import qwen_answer
from verl_ext.reward.extraction import after_hashes, last_boxed
from verl_ext.reward.sources import rule_for

QUESTION_COLUMNS = ("question", "problem", "Question", "input")
"""In the harness's order: its AIME and AMC files have both of the first two."""
ANSWER_COLUMNS = ("answer", "final_answer", "ground_truth", "gold", "target", "solution")
SUFFIXES = (".jsonl", ".parquet", ".json")

Gold = str | tuple[str, ...]


@dataclass(frozen=True)
class Problem:
    """One problem with its gold answer."""

    benchmark: str
    index: int
    """Row in the file, from 0."""
    question: str
    gold: Gold
    """The right answer, or the parts of an answer of several parts."""
    data_source: str
    """By which rule it is graded (`reward.sources`)."""
    messages: tuple[Mapping[str, str], ...] = ()
    """The whole prompt, where the data brings it."""
    tolerance: float | None = None
    """How far a number may be from the gold, where the data says so (OlympiadBench's `error`)."""

    @property
    def name(self) -> str:
        return f"{self.benchmark} problem {self.index}"


class _NoGold(Exception):
    """A row without a usable gold answer; `str(error)` says why."""


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Where a benchmark is on the hub, and how its rows are read."""

    hub_id: str
    gold: Callable[[Mapping[str, Any]], Gold]
    hub_name: str | None = None
    split: str = "test"
    problems: int
    """Of the file that the papers' numbers come from."""
    aliases: tuple[str, ...] = ()


def _answer(row: Mapping[str, Any]) -> Gold:
    return _text(row, "answer")


def _boxed_solution(row: Mapping[str, Any]) -> Gold:
    if row.get("solution") is None and row.get("answer") is not None:
        return _text(row, "answer")  # a hub copy that holds the boxed answers alone
    gold = last_boxed(_text(row, "solution"))
    if gold is None:
        raise _NoGold("no \\boxed answer in the solution")
    return gold


def _after_hashes(row: Mapping[str, Any]) -> Gold:
    gold = after_hashes(_text(row, "answer"))
    if gold is None:
        raise _NoGold("no #### line in the answer")
    return gold


def _final_answer(row: Mapping[str, Any]) -> Gold:
    parts = row.get("final_answer")
    if isinstance(parts, str):
        return _text(row, "final_answer")
    if not parts:
        raise _NoGold("no gold answer in column 'final_answer'")
    return tuple(str(part) for part in parts)


BENCHMARKS: dict[str, Benchmark] = {
    "aime24": Benchmark(hub_id="HuggingFaceH4/aime_2024", split="train", gold=_answer, problems=30),
    "aime25": Benchmark(hub_id="math-ai/aime25", gold=_answer, problems=30),
    "amc23": Benchmark(hub_id="math-ai/amc23", gold=_answer, problems=40),
    "math500": Benchmark(hub_id="HuggingFaceH4/MATH-500", gold=_boxed_solution, problems=500, aliases=("math_oai",)),
    "minerva_math": Benchmark(hub_id="math-ai/minervamath", gold=_boxed_solution, problems=272, aliases=("minerva",)),
    "olympiadbench": Benchmark(hub_id="math-ai/olympiadbench", gold=_final_answer, problems=675),
    "gsm8k": Benchmark(hub_id="openai/gsm8k", hub_name="main", gold=_after_hashes, problems=1319),
}
ALIASES = {alias: name for name, benchmark in BENCHMARKS.items() for alias in benchmark.aliases}


def canonical_name(benchmark: str) -> str:
    """The name under which results are kept: `math500` for `math_oai`, the file's own name for a file.

    Raises:
        ConfigError: neither a known benchmark nor a file.
    """
    name = ALIASES.get(benchmark, benchmark)
    if name in BENCHMARKS:
        return name
    given, _, path = benchmark.rpartition(":")
    path = Path(path)
    if path.suffix not in SUFFIXES:
        close = nearest(benchmark, [*BENCHMARKS, *ALIASES])
        hint = f"(did you mean {close!r}?) " if close else ""
        known = ", ".join([*BENCHMARKS, *ALIASES])
        raise ConfigError(
            "benchmarks", given=benchmark, expected=f"{hint}one of {known}, or a .parquet or .jsonl file ([NAME:]PATH)"
        )
    if not path.is_file():
        raise ConfigError("benchmarks", given=benchmark, expected=f"an existing file, and {path} is none")
    return ALIASES.get(given, given) or path.stem


def load_problems(benchmark: str, *, data_dir: str | None = None, data_source: str | None = None) -> list[Problem]:
    """Problems of a benchmark, in the order of its file.

    Args:
        benchmark: a name of `BENCHMARKS`, an alias, a file, or `NAME:PATH` (which reads a file of that benchmark's form).
        data_dir: where benchmarks are taken from instead of the hub: `NAME.jsonl` or `NAME/test.jsonl`, or parquet.
        data_source: by which rule a file of one's own is graded that does not say so itself.

    Raises:
        ConfigError: an unknown benchmark or data source.
        DataError: a file or a row of it that cannot be used; it names both.
    """
    name = canonical_name(benchmark)
    known = BENCHMARKS.get(name)
    _, _, path = benchmark.rpartition(":")
    if Path(path).suffix in SUFFIXES:
        where, rows = path, iterate_rows(path)
    elif data_dir is not None:
        where = str(_local_file(name, data_dir))
        rows = iterate_rows(where)
    else:
        where, rows = known.hub_id, _hub_rows(known)
    problems = []
    for index, row in enumerate(rows):
        try:
            problems.append(_problem(name, index, row, known, data_source))
        except _NoGold as error:
            raise DataError(f"{where}: row {index}: {error}") from None
    if not problems:
        raise DataError(f"{where}: no problem in it")
    rule_for(problems[0].data_source)
    return problems


def fingerprint(problems: Iterable[Problem]) -> str:
    """A hash of what is asked and what is right, so that samples of another file are not taken for samples of this one."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.question, problem.gold, list(problem.messages)]).encode())
    return digest.hexdigest()[:16]


def _problem(
    name: str, index: int, row: Mapping[str, Any], known: Benchmark | None, data_source: str | None
) -> Problem:
    if known is None and isinstance(row.get("prompt"), list) and isinstance(row.get("reward_model"), dict):
        return _verl_problem(name, index, row)
    gold = known.gold(row) if known else _any_gold(row)
    column = next((column for column in QUESTION_COLUMNS if row.get(column) is not None), None)
    if column is None:
        raise _NoGold(f"no question (looked for the columns {', '.join(QUESTION_COLUMNS)}; it has: {', '.join(row)})")
    source = name if known else data_source or row.get("data_source") or "math"
    question = _text(row, column, what="question") + _closed_question(gold, source)
    return Problem(name, index, question.strip(), gold, source, tolerance=_tolerance(row))


def _verl_problem(name: str, index: int, row: Mapping[str, Any]) -> Problem:
    """A row of verl's columns; its prompt is asked as it stands."""
    messages = row["prompt"]
    if not all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str) for m in messages
    ):
        raise _NoGold("column 'prompt' is no list of messages with role and content")
    gold = row["reward_model"].get("ground_truth")
    if gold is None or gold == "" or len(messages) == 0:
        raise _NoGold("no gold answer in reward_model.ground_truth" if messages else "column 'prompt' is empty")
    if not isinstance(row.get("data_source"), str):
        raise _NoGold("no data_source")
    extra = row.get("extra_info") or {}
    question = extra.get("question") or messages[-1]["content"]
    gold = tuple(map(str, gold)) if isinstance(gold, list) else str(gold)
    plain = tuple({"role": m["role"], "content": m["content"]} for m in messages)
    return Problem(name, index, question, gold, row["data_source"], plain, _tolerance(extra))


def _any_gold(row: Mapping[str, Any]) -> Gold:
    """The gold of a file of one's own: the first answer column; a solution's box, a `####` line, or the text itself."""
    column = next((column for column in ANSWER_COLUMNS if row.get(column) not in (None, "", [])), None)
    if column is None:
        raise _NoGold(f"no gold answer (looked for the columns {', '.join(ANSWER_COLUMNS)}; it has: {', '.join(row)})")
    if isinstance(row[column], list):
        return tuple(str(part) for part in row[column])
    text = _text(row, column)
    gold = last_boxed(text) or after_hashes(text)
    if gold is None and column == "solution":
        raise _NoGold("no \\boxed answer in the solution")
    return gold or text


def _text(row: Mapping[str, Any], column: str, *, what: str = "gold answer") -> str:
    value = row.get(column)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        found = "no such column" if column not in row else "null" if value is None else "empty or not text"
        raise _NoGold(f"no {what} in column {column!r} ({found})")
    return value


def _closed_question(gold: Gold, data_source: str) -> str:
    """What the harness adds to a question whose gold is a truth value."""
    spelt = qwen_answer.gold_answer(gold, data_source).lower()
    if spelt in ("true", "false"):
        return " (True or False)"
    return " (Yes or No)" if spelt in ("yes", "no") else ""


def _tolerance(row: Mapping[str, Any]) -> float | None:
    try:
        return float(row.get("error"))
    except (TypeError, ValueError):
        return None


def _local_file(name: str, data_dir: str) -> Path:
    names = [name, *BENCHMARKS[name].aliases]
    candidates = [
        Path(data_dir) / pattern.format(name=candidate, suffix=suffix)
        for candidate in names
        for pattern in ("{name}{suffix}", "{name}/test{suffix}")
        for suffix in SUFFIXES
    ]
    found = next((path for path in candidates if path.is_file()), None)
    if found is None:
        raise DataError(f"data_dir: no {name}.jsonl, {name}.parquet or {name}/test.jsonl in {data_dir}")
    return found


def _hub_rows(benchmark: Benchmark) -> Iterable[Mapping[str, Any]]:
    from verl_ext.data.prepare.hub import load_split

    return load_split(benchmark.hub_id, benchmark.split, name=benchmark.hub_name, otherwise="data_dir=FOLDER")


def canonical_names(benchmarks: Sequence[str]) -> dict[str, str]:
    """{name of the results: benchmark as given}

    Raises:
        ConfigError: an unknown benchmark, none, or two of one name.
    """
    names: dict[str, str] = {}
    for benchmark in benchmarks:
        name = canonical_name(benchmark)
        if name in names:
            raise ConfigError(
                "benchmarks",
                given=benchmark,
                expected=f"another name than {name!r}, which {names[name]} has (NAME:PATH)",
            )
        names[name] = benchmark
    if not names:
        raise ConfigError("benchmarks", given="nothing", expected=f"some of {', '.join(BENCHMARKS)}, or files")
    return names
