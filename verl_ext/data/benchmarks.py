r"""The public benchmarks: where each is on the hub, and what of a row is the question and what the right answer.

Questions and gold answers are taken as the published harness takes them (QwenLM/Qwen2.5-Math, evaluation/parser.py:
`parse_question`, `parse_ground_truth`): MATH and Minerva from the box of the worked solution, GSM8K from its `####` line,
OlympiadBench from `final_answer`. The evaluation and the scripts of `data_preprocess/` share this.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from verl_ext.reward.math import qwen_answer
from verl_ext.reward.math.extraction import after_hashes, last_boxed

QUESTION_COLUMNS = ("question", "problem", "Question", "input")
"""In the harness's order: its AIME and AMC files have both of the first two."""
SUFFIXES = (".jsonl", ".parquet", ".json")
"""Of files that hold problems; a `.json` is JSON lines too."""

Gold = str | tuple[str, ...]
"""The right answer, or the parts of an answer of several parts."""


class UnusableRow(Exception):
    """A row without a usable question or gold answer; `str(error)` says why."""


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
    rubric_column: str = ""
    """Where a row says how a proof is graded; empty for answers that a rule can compare."""
    states_tolerance: bool = False
    """Whether its rows say how far a number may be from the gold (column `error`)."""


def answer_text(row: Mapping[str, Any]) -> Gold:
    return text_of(row, "answer")


def boxed_solution(row: Mapping[str, Any]) -> Gold:
    if row.get("solution") is None and row.get("answer") is not None:
        return text_of(row, "answer")  # a hub copy that holds the boxed answers alone
    gold = last_boxed(text_of(row, "solution"))
    if gold is None:
        raise UnusableRow("no \\boxed answer in the solution")
    return gold


def after_last_hashes(row: Mapping[str, Any]) -> Gold:
    gold = after_hashes(text_of(row, "answer"))
    if gold is None:
        raise UnusableRow("no #### line in the answer")
    return gold


def final_answer(row: Mapping[str, Any]) -> Gold:
    parts = row.get("final_answer")
    if isinstance(parts, str):
        return text_of(row, "final_answer")
    if not parts:
        raise UnusableRow("no gold answer in column 'final_answer'")
    texts = tuple(str(part) for part in parts)
    return texts if len(texts) > 1 else texts[0]


def reference_solution(row: Mapping[str, Any]) -> Gold:
    """Of a proof there is no answer to compare with; a solution to look at may be missing."""
    value = row.get("solution")
    return value if isinstance(value, str) else ""


# The hub's columns, as far as its cards or public users of these repositories name them: aime_2024 (split train) and
# MATH-500 have problem, solution, answer; aime25 problem, answer; amc23 question, answer, url; minervamath question,
# answer; olympiadbench question, solution, final_answer (lists), 674 rows; gsm8k question, answer.
BENCHMARKS: dict[str, Benchmark] = {
    "aime24": Benchmark(hub_id="HuggingFaceH4/aime_2024", split="train", gold=answer_text, problems=30),
    "aime25": Benchmark(hub_id="math-ai/aime25", gold=answer_text, problems=30),
    "amc23": Benchmark(hub_id="math-ai/amc23", gold=answer_text, problems=40),
    "math500": Benchmark(hub_id="HuggingFaceH4/MATH-500", gold=boxed_solution, problems=500, aliases=("math_oai",)),
    "minerva_math": Benchmark(hub_id="math-ai/minervamath", gold=boxed_solution, problems=272, aliases=("minerva",)),
    "olympiadbench": Benchmark(hub_id="math-ai/olympiadbench", gold=final_answer, problems=675, states_tolerance=True),
    "gsm8k": Benchmark(hub_id="openai/gsm8k", hub_name="main", gold=after_last_hashes, problems=1319),
    # Graded by a judge; columns and numbers of problems as QED-Nano's repository reads them.
    "imo_proofbench": Benchmark(
        hub_id="lm-provers/IMOProofBench",
        split="train",
        gold=reference_solution,
        problems=60,
        rubric_column="grading_guidelines",
    ),
    "proofbench": Benchmark(
        hub_id="lm-provers/ProofBench",
        split="train",
        gold=reference_solution,
        problems=145,
        rubric_column="grading_scheme",
    ),
    "imo_answerbench": Benchmark(
        hub_id="lm-provers/IMOBench-FinalAnswer", split="train", gold=answer_text, problems=400
    ),
}
ALIASES = {alias: name for name, benchmark in BENCHMARKS.items() for alias in benchmark.aliases}


def local_file(name: str, folder: Path) -> Path | None:
    """The file of a benchmark in a folder of them: `NAME.jsonl` or `NAME/test.jsonl`, likewise with other suffixes."""
    candidates = (
        folder / pattern.format(name=candidate, suffix=suffix)
        for candidate in (name, *BENCHMARKS[name].aliases)
        for pattern in ("{name}{suffix}", "{name}/test{suffix}")
        for suffix in SUFFIXES
    )
    return next((path for path in candidates if path.is_file()), None)


def question_of(row: Mapping[str, Any]) -> str:
    """The problem as its row words it.

    Raises:
        UnusableRow: no column of `QUESTION_COLUMNS`, or no text in it.
    """
    column = next((column for column in QUESTION_COLUMNS if row.get(column) is not None), None)
    if column is None:
        raise UnusableRow(
            f"no question (looked for the columns {', '.join(QUESTION_COLUMNS)}; it has: {', '.join(row)})"
        )
    return text_of(row, column, what="question")


def asked(question: str, gold: Gold, data_source: str) -> str:
    """The question as the harness asks it: where the gold is a truth value, it says which two to choose from."""
    spelt = qwen_answer.gold_answer(gold, data_source).lower()
    if spelt in ("true", "false"):
        question += " (True or False)"
    elif spelt in ("yes", "no"):
        question += " (Yes or No)"
    return question.strip()


def text_of(row: Mapping[str, Any], column: str, *, what: str = "gold answer") -> str:
    """The text of a column; a number as JSON spells it.

    Raises:
        UnusableRow: there is none.
    """
    value = row.get(column)
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = json.dumps(value)
    if not isinstance(value, str) or not value.strip():
        found = "no such column" if column not in row else "null" if value is None else "empty or not text"
        raise UnusableRow(f"no {what} in column {column!r} ({found})")
    return value


def is_prepared(row: Mapping[str, Any]) -> bool:
    """Whether a row has verl's columns, as the scripts of `data_preprocess/` write them."""
    return isinstance(row.get("prompt"), list) and isinstance(row.get("reward_model"), dict)


def gold_to_ground_truth(gold: Gold) -> str:
    """A gold as one text, for verl's column; several parts become a JSON list, which the grader reads too."""
    return gold if isinstance(gold, str) else json.dumps(gold, ensure_ascii=False)


def gold_from_ground_truth(ground_truth: str) -> Gold:
    """The inverse of `gold_to_ground_truth`."""
    if not ground_truth.startswith('["'):
        return ground_truth
    try:
        parts = json.loads(ground_truth)
    except ValueError:  # an interval such as ["a", b)
        return ground_truth
    return tuple(parts) if all(isinstance(part, str) for part in parts) else ground_truth
