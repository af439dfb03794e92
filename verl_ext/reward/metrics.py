"""How grading went over many answers: the shares of each failure, and the time it took."""

from __future__ import annotations

import logging
import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

GRADER_FAILURES = ("timeout", "error", "unparsable_gold")
"""Statuses that say nothing about the response: the grader, the judge or the data failed."""
PROGRAM_DETAILS = (
    "wrong_answer",
    "runtime_error",
    "time_limit",
    "memory_limit",
    "output_limit",
    "compile_error",
    "no_function",
)
"""Why a program is wrong."""
WINDOW = 1000


def grade_metrics(statuses: Sequence[str], seconds: Sequence[float], prefix: str = "reward/grader") -> dict[str, float]:
    """Run metrics of a batch.

    Args:
        statuses: `grade_status` of each answer.
        seconds: `grade_seconds` of each answer.
        prefix: put before each metric's name.

    Returns:
        The share of each status other than `ok`, and the grading seconds per thousand answers. Empty for no answers.
    """
    if len(statuses) == 0:
        return {}
    counts = Counter(str(status) for status in statuses)
    total = len(statuses)
    shares = {f"{prefix}/{status}": counts[status] / total for status in ("no_answer", *GRADER_FAILURES)}
    return {**shares, f"{prefix}/seconds_per_1000": 1000.0 * float(sum(seconds)) / total}


def program_metrics(outcomes: Sequence[str], seconds: Sequence[float], prefix: str = "reward/code") -> dict[str, float]:
    """Run metrics of the answers of a batch that are programs.

    Args:
        outcomes: `grade_program` of each answer; empty for one that is no program.
        seconds: `grade_seconds` of each answer.
        prefix: put before each metric's name.

    Returns:
        The share of each way to be wrong, and CPU seconds per thousand programs. Empty where there is no program.
    """
    programs = [(str(outcome), spent) for outcome, spent in zip(outcomes, seconds, strict=True) if outcome]
    if not programs:
        return {}
    counts = Counter(outcome for outcome, _ in programs)
    shares = {f"{prefix}/{detail}": counts[detail] / len(programs) for detail in PROGRAM_DETAILS}
    return {**shares, f"{prefix}/cpu_seconds_per_1000": 1000.0 * sum(spent for _, spent in programs) / len(programs)}


def judge_metrics(
    points: Sequence[str], requests: Sequence[int], seconds: Sequence[float], prefix: str = "reward/judge"
) -> dict[str, float]:
    """Run metrics of the answers of a batch that a judge graded.

    Args:
        points: `grade_judge` of each answer: its points, the status where it has none, empty where no judge was asked.
        requests: `grade_requests` of each answer.
        seconds: `grade_seconds` of each answer.
        prefix: put before each metric's name.

    Returns:
        Seconds and requests of an answer, the share of answers without points, and of those with points their mean
        and, by whole points, the share of each. Empty where no judge was asked.
    """
    judged = [row for row in zip(points, requests, seconds, strict=True) if row[0]]
    if not judged:
        return {}
    metrics = {
        f"{prefix}/seconds": sum(spent for _, _, spent in judged) / len(judged),
        f"{prefix}/requests": sum(asked for _, asked, _ in judged) / len(judged),
    }
    given = [float(said) for said, _, _ in judged if said[0].isdigit()]
    metrics[f"{prefix}/without_points"] = 1.0 - len(given) / len(judged)
    if given:
        metrics[f"{prefix}/points_mean"] = sum(given) / len(given)
        counts = Counter(math.floor(value + 0.5) for value in given)
        metrics |= {f"{prefix}/points_{value}": count / len(given) for value, count in sorted(counts.items())}
    return metrics


class FailureWatch:
    """Warns when grader failures pass a share of the last answers.

    Args:
        warn_share: from 0 to 1.
        fate: what becomes of such answers, as the end of a sentence.
        window: number of last answers.
    """

    def __init__(self, warn_share: float, fate: str = "count as wrong", window: int = WINDOW) -> None:
        self._warn_share = warn_share
        self._fate = fate
        self._recent: deque[str] = deque(maxlen=window)
        self._since_warning = 0

    def add(self, statuses: Iterable[str]) -> None:
        """Count more answers; warns at most once per window."""
        for status in statuses:
            self._recent.append(status)
            self._since_warning += 1
        failed = Counter(status for status in self._recent if status in GRADER_FAILURES)
        share = failed.total() / max(len(self._recent), 1)
        full_enough = len(self._recent) >= min(100, self._recent.maxlen or 100)
        if share > self._warn_share and full_enough and self._since_warning >= min(100, len(self._recent)):
            self._since_warning = 0 if len(self._recent) < (self._recent.maxlen or 0) else -len(self._recent)
            counts = ", ".join(f"{status} {count}" for status, count in sorted(failed.items()))
            logger.warning(
                "grader: %.1f%% of the last %d answers have no verdict (%s) and %s",
                100 * share,
                len(self._recent),
                counts,
                self._fate,
            )
