"""What grading one answer is: a verdict here, or what a confined worker has to compare.

Text and number comparison decide most answers in this process, in microseconds and without sympy. What needs sympy
goes to a confined worker process with a time limit (`pool`), because a response is untrusted input: sympy can be made
to hang, and printing what it parsed can hang again.
"""

from __future__ import annotations

import ast
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from verl_ext.errors import ConfigError
from verl_ext.reward.math import extraction, qwen_answer, qwen_equal
from verl_ext.reward.math.equivalence import equivalent
from verl_ext.reward.policy import QWEN, GradingPolicy
from verl_ext.reward.sources import SourceRule, rule_for

Status = Literal["ok", "no_answer", "unparsable_gold", "timeout", "error"]

MAX_ANSWER_CHARS = 2000
"""A longer answer is only compared as text: no gold is that long, and parsing it is what an attacker would want."""


@dataclass(frozen=True)
class Grade:
    """The verdict on one response."""

    correct: bool
    prediction: str | None
    """The extracted answer, None where the response has none."""
    status: Status
    """`ok` is a verdict. All others come with `correct=False` and say why there is none."""
    seconds: float = 0.0
    """Time that grading this answer took, without any time in a queue."""
    detail: str = ""
    """What went wrong, in a few words; never model text."""
    score: float | None = None
    """A graded score from 0 to 1 where the grader gives one (a judge); None where right and wrong is all there is."""

    is_program: bool = False
    """Whether the answer was run against tests; `seconds` is CPU time then."""

    is_judged: bool = False
    """Whether a remote judge graded the answer; `seconds` is the time of its requests, one after the other."""

    requests: int = 0
    """To the judge, retries among them."""

    @property
    def share(self) -> float:
        """The grade from 0 (wrong) to 1 (right)."""
        return float(self.correct) if self.score is None else self.score


@dataclass(frozen=True)
class Undecided:
    """An answer whose comparison needs the confined worker; everything in it can be pickled."""

    gold: str
    prediction: str
    policy: GradingPolicy
    task: str
    seconds: float


def prepare(
    response: str,
    gold: str | Sequence[str],
    data_source: str,
    *,
    policy: GradingPolicy | None = None,
    after_think: bool = False,
) -> Grade | Undecided:
    """All that can be done without sympy: a verdict, or what the confined worker has to compare."""
    started = time.perf_counter()
    rule = rule_for(data_source)
    if rule.extraction == "code":
        raise ConfigError("data_source", given=data_source, expected="another source; programs are run, not compared")
    chosen = policy or rule.policy
    text = extraction.after_think(response) if after_think else response
    gold_text = gold_answer(gold, rule)
    if chosen.rules == "qwen" and gold_text:
        return _prepare_as_qwen(text, gold if isinstance(gold, list | tuple) else gold_text, data_source, started)
    prediction = extract(text, rule, chosen) if text is not None else None
    if not gold_text:
        return Grade(False, prediction, "unparsable_gold", time.perf_counter() - started, "the gold answer is empty")
    if prediction is None or not prediction.strip():
        return Grade(False, None, "no_answer", time.perf_counter() - started)
    if rule.extraction == "judge":
        raise ConfigError("data_source", given=data_source, expected="another source; this one needs a remote judge")
    if rule.task:
        return Undecided(gold_text, prediction[:MAX_ANSWER_CHARS], chosen, rule.task, time.perf_counter() - started)
    verdict: bool | None = prediction.strip() == gold_text
    if not verdict and len(prediction) <= MAX_ANSWER_CHARS:
        verdict = equivalent(gold_text, prediction, chosen)
    seconds = time.perf_counter() - started
    if verdict is None:
        return Undecided(gold_text, prediction, chosen, "", seconds)
    return Grade(verdict, prediction[:MAX_ANSWER_CHARS], "ok", seconds)


def _prepare_as_qwen(
    response: str | None, gold: str | Sequence[str], data_source: str, started: float
) -> Grade | Undecided:
    """`prepare` by the published harness's own rules."""
    found = qwen_answer.find_answer(response or "")
    if found is None:
        return Grade(False, None, "no_answer", time.perf_counter() - started)
    if len(found) > MAX_ANSWER_CHARS:
        return Grade(False, found[:MAX_ANSWER_CHARS], "ok", time.perf_counter() - started)
    gold_spelt = qwen_answer.gold_answer(gold, data_source)
    answer = qwen_answer.spell_answer(found, data_source)
    answer = qwen_answer.fit_choices(answer, gold_spelt, response or "")
    verdict = qwen_equal.same_answer(answer, gold_spelt)
    seconds = time.perf_counter() - started
    if verdict is None:
        return Undecided(gold_spelt, answer, QWEN, "", seconds)
    return Grade(verdict, answer, "ok", seconds)


def extract(response: str, rule: SourceRule, policy: GradingPolicy) -> str | None:
    """The final answer of a response, by the rule of its data source."""
    if rule.extraction == "strict_box":
        return extraction.strict_boxed(response)
    if rule.extraction == "answer_line":
        return extraction.answer_line(response)
    if rule.extraction == "reasoning_gym":
        return extraction.answer_tag(response) or extraction.last_boxed(response)
    if rule.extraction == "choice" and (letter := extraction.choice(response)):
        return letter
    if any(opener in response for opener in extraction.BOX_OPENERS):
        return extraction.last_boxed(response)
    found = extraction.after_hashes(response) if rule.extraction == "gsm8k" else None
    found = found or extraction.answer_phrase(response)
    if found is None and policy.unboxed == "last_number":
        return extraction.last_number(response)
    return found


def gold_answer(gold: str | Sequence[str], rule: SourceRule) -> str:
    """The gold as one text: out of its box, its `####` line or its list."""
    if not isinstance(gold, str):
        return ", ".join(str(part).strip() for part in gold)
    if rule.task:
        return gold
    gold = gold.strip()
    if gold.startswith(("['", '["')):
        return ", ".join(_listed(gold))
    if "####" in gold:
        return extraction.after_hashes(gold) or ""
    if any(opener in gold for opener in extraction.BOX_OPENERS):
        return (extraction.last_boxed(gold) or "").strip()
    return gold


def _listed(gold: str) -> list[str]:
    """The strings in a gold written as a Python list, as OlympiadBench's are (a literal of our own data)."""
    try:
        parts = ast.literal_eval(gold)
    except (SyntaxError, ValueError):
        return [gold]
    return [str(part).strip() for part in parts]


def verdict_of(undecided: Undecided, outcome: tuple[bool, Status, str], seconds: float) -> Grade:
    """The grade of an answer whose comparison the confined worker (or its death) has settled."""
    correct, status, detail = outcome
    grade_ = Grade(correct, undecided.prediction, status, undecided.seconds, detail)
    return replace(grade_, seconds=undecided.seconds + seconds)
