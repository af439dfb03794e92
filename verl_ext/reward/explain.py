"""Why a response was graded as it was: what was extracted and by which rule, each stage's finding, the reason.

The verdict is the grader's own: `grading.prepare` here, and for what it leaves open `confined.decide` in a confined
process, which writes its findings down as it makes them (`worker.traced`).
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace

from verl_ext.errors import ConfigError
from verl_ext.reward.grading import Grade, Undecided, extract, gold_answer, prepare, verdict_of
from verl_ext.reward.math import extraction
from verl_ext.reward.math.equivalence import LAST_STAGE, Finding, equivalent
from verl_ext.reward.policy import POLICIES, GradingPolicy
from verl_ext.reward.pool import worker_environment
from verl_ext.reward.sources import SourceRule, rule_for

MEMORY_MB = 2048
START_S = 120.0
"""Backstop for a process that never gets as far as its own time limit."""

_EXTRACTIONS: tuple[tuple[str, Callable[[str], str | None]], ...] = (
    ("the last box", extraction.last_boxed),
    ("a box at the very end", extraction.strict_boxed),
    ("the last <answer> element", extraction.answer_tag),
    ("the last `####` line", extraction.after_hashes),
    ("the last `Answer:` line", extraction.answer_line),
    ("the last phrase `... answer is`", extraction.answer_phrase),
    ("the last number of the text", extraction.last_number),
)
_EXPECTED = {
    "math": "a closed \\boxed{...} or `the answer is ...`",
    "gsm8k": "a closed \\boxed{...}, a `####` line or `the answer is ...`",
    "strict_box": f"a closed \\boxed{{...}} within the last {extraction.STRICT_BOX_TAIL} characters",
    "answer_line": "a line `Answer: ...`",
    "choice": "the letter of a choice, in a box or as `the answer is ...`",
    "reasoning_gym": "an <answer> element or a closed \\boxed{...}",
}
_MEANINGS = {True: "equal", False: "different", None: "cannot tell"}


@dataclass(frozen=True)
class Explanation:
    """One graded response, with what led to its grade."""

    grade: Grade
    source: str
    policy: str
    extracted_by: str
    """The rule that found the answer, or what was expected where there is none."""
    gold: str
    """The gold as read: out of its box, its `####` line or its list."""
    findings: tuple[Finding, ...]
    """In the order in which the stages came to their conclusions."""
    reason: str

    def __str__(self) -> str:
        lines = [
            ("source", f"{self.source} (policy {self.policy})"),
            ("extracted", _shown(self.grade.prediction)),
            ("by", self.extracted_by),
            ("gold", _shown(self.gold)),
        ]
        if self.findings:
            answer = self.findings[-1].answer
            lines.append(("read as", f"{_shown(answer)} for {_shown(self.findings[-1].gold)}"))
        lines += [(found.stage, _line(found)) for found in self.findings]
        lines.append(("verdict", f"{'right' if self.grade.correct else 'wrong'}, status {self.grade.status}"))
        lines.append(("reason", self.reason))
        width = max(len(name) for name, _ in lines)
        return "\n".join(f"{name:{width}}  {text}" for name, text in lines)


def explain(
    response: str,
    gold: str | Sequence[str],
    *,
    data_source: str = "math",
    policy: GradingPolicy | None = None,
    after_think: bool = False,
    timeout_s: float = 5.0,
) -> Explanation:
    """Grade one response and say why; the arguments are those of `grader.grade`.

    Args:
        timeout_s: wall time for the comparison in the confined process, where one is needed.

    Raises:
        ConfigError: the data source is unknown, or needs a judge.
    """
    rule = rule_for(data_source)
    if rule.extraction == "judge":
        raise ConfigError("--source", given=data_source, expected="another source; this one needs a remote judge")
    chosen = policy or rule.policy
    result = prepare(response, gold, data_source, policy=policy, after_think=after_think)
    findings: list[Finding] = []
    if isinstance(result, Undecided):
        grade = _settled(result, timeout_s, findings)
    else:
        grade = result
        if grade.status == "ok" and chosen.rules == "own":
            equivalent(gold_answer(gold, rule), grade.prediction, chosen, None, findings)
    text = extraction.after_think(response) if after_think else response
    return Explanation(
        grade=grade,
        source=data_source,
        policy=next((name for name, known in POLICIES.items() if known == chosen), "of the source"),
        extracted_by=_extracted_by(text, grade, rule, chosen),
        gold=gold_answer(gold, rule),
        findings=tuple(findings),
        reason=_reason(grade, findings, rule, chosen),
    )


def _settled(undecided: Undecided, timeout_s: float, findings: list[Finding]) -> Grade:
    """The grade of what needs a confined process; its findings go into `findings`, also those of one that is killed."""
    job = {"undecided": asdict(undecided), "timeout_s": timeout_s, "memory_mb": MEMORY_MB}
    ended = subprocess.run(
        [sys.executable, "-m", "verl_ext.reward.worker.traced"],
        input=json.dumps(job) + "\n",
        capture_output=True,
        env=worker_environment(),
        encoding="ascii",
        timeout=START_S + timeout_s,
        check=False,
    )
    outcome = (False, "error", f"the confined process ended with {ended.returncode}")
    if ended.returncode == -signal.SIGALRM:
        outcome = (False, "timeout", f"no verdict within {timeout_s:g} s")
    for line in ended.stdout.splitlines():
        told = json.loads(line)
        if "outcome" in told:
            outcome = tuple(told["outcome"])
        else:
            findings.append(Finding(**told))
    return replace(verdict_of(undecided, outcome, 0.0), seconds=undecided.seconds)


def _extracted_by(text: str | None, grade: Grade, rule: SourceRule, policy: GradingPolicy) -> str:
    """The first of the rules of extraction whose answer is the one that was graded."""
    if text is None:
        return "nothing: the response never closes its thinking"
    if policy.rules == "qwen":
        return "the published harness's own rules"
    if grade.prediction is None:
        return f"nothing: source expects {_EXPECTED[rule.extraction]}"
    found = extract(text, rule, policy)
    for name, rule_of in _EXTRACTIONS:
        if found is not None and rule_of(text) == found:
            return name
    return "the rule of the source"


def _reason(grade: Grade, findings: Sequence[Finding], rule: SourceRule, policy: GradingPolicy) -> str:
    """What decided, in a sentence: the innermost finding of those that ended in the verdict."""
    if grade.status == "no_answer":
        return "the response holds no answer where its source expects one"
    if grade.status != "ok":
        return f"no verdict: {grade.detail}" if grade.status != "timeout" else grade.detail
    if rule.task:
        return f"reasoning-gym's own scorer of {rule.task!r} says so"
    if policy.rules == "qwen":
        return "the published harness's own rules say so"
    if not findings:
        return "the same text, letter for letter" if grade.correct else "longer than any answer, and not the same text"
    deciding = findings[-1]
    for finding in reversed(findings):
        if finding.equal != grade.correct:
            break
        deciding = finding
    if deciding.stage == LAST_STAGE and not grade.correct:
        return "nothing proves or refutes it, and math-verify, asked under our guards, does not accept it"
    relation = "is" if grade.correct else "is not"
    return f"by {deciding.stage}: {_shown(deciding.answer)} {relation} {_shown(deciding.gold)}"


def _line(finding: Finding) -> str:
    return f"{_MEANINGS[finding.equal]}: {_shown(finding.answer)} for {_shown(finding.gold)}"


def _shown(text: str | None) -> str:
    """On one line, without the characters that a terminal would obey, and not too long."""
    if text is None:
        return "nothing"
    printable = "".join(character if character.isprintable() else " " for character in text)
    return printable if len(printable) <= 200 else f"{printable[:200]}... ({len(printable):,} characters)"
