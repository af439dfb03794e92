"""What a judge is shown, and which part of its reply is the score.

The graded text cannot steer the score. It is put into the prompt in one substitution that does not look at it again,
whatever in it the score pattern would read is broken up, and the score is read only from the judge's own reply, behind
the judge's own thinking.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from verl_ext.errors import UserError
from verl_ext.reward.judge.config import PLACEHOLDER, JudgeConfig

_TAG_OF_PATTERN = re.compile(r"<(?:/|\\s[*+?]|\s)*([A-Za-z_][\w-]*)")
_SELF_EVALUATION = re.compile(
    r"^[ \t]{0,3}(?:#{1,6}[ \t]*|\*\*[ \t]*)(?:self[- ]?|final[ \t]+)?evaluation\b.*",
    re.IGNORECASE | re.MULTILINE | re.DOTALL,
)
MAX_ROUNDS = 100
"""Of breaking up a text: each round leaves fewer matches, and a text that needs more is not shown to the judge."""


class JudgePrompt:
    """Fills the prompt of one data source and reads the reply to it.

    Args:
        config: the judge.
        data_source: whose prompt it is.

    Raises:
        ConfigError: the source has no prompt.
    """

    def __init__(self, config: JudgeConfig, data_source: str) -> None:
        self._config = config
        self._source = data_source
        self._template = Path(config.prompt_file(data_source)).read_text(encoding="utf-8")
        self._score = re.compile(config.score_pattern)
        self._scores = {word.lower(): float(score) for word, score in (config.score_map or {}).items()}
        self._tags = sorted(set(_TAG_OF_PATTERN.findall(config.score_pattern)))
        self.asks_for_rubric = "{rubric}" in self._template

    def fill(self, problem: str, solution: str, reference: str, rubric: Any) -> str:
        """The prompt.

        Args:
            problem: of the row.
            solution: the graded text.
            reference: the row's gold, or empty.
            rubric: the row's; a text, or a list of entries as `rubric_text` takes them.

        Raises:
            UserError: the prompt asks for a rubric and the row has none.
        """
        text = rubric_text(rubric)
        if self.asks_for_rubric and not text:
            raise UserError(
                f"judge: the prompt of data source {self._source!r} has a place for {{rubric}} and a row without "
                f"extra_info.rubric came: {problem[:60]!r}"
            )
        values = {
            "problem": problem,
            "solution": self.defuse(solution),
            "reference": reference,
            "rubric": text,
            "max_points": f"{self._config.max_points:g}",
        }
        return PLACEHOLDER.sub(lambda match: values[match.group(1)], self._template)

    def defuse(self, text: str) -> str:
        """Break what the score pattern would read, so that a judge who quotes the text quotes no score.

        Whole scores go, and of the tags that the pattern names what opens or closes them, in any spelling that a reader
        would still take for one: a half of a score could be completed by the judge's own words.
        """
        if self._tags:
            names = "|".join(map(re.escape, self._tags))
            text = re.sub(rf"<(?=[\s/\\]{{0,9}}(?:{names})\b)", "(", text, flags=re.IGNORECASE)
        for _ in range(MAX_ROUNDS):
            text, found = self._score.subn("[removed]", text)
            if not found:
                return text
        return "[removed]"

    def read(self, reply: str) -> float | None:
        """The score in a reply, from 0 to `max_points`; None where there is none or it is out of bounds."""
        found = self._score.findall(reply.rpartition("</think>")[2])
        if not found:
            return None
        said = found[0] if self._config.score_take == "first" else found[-1]
        if self._config.score_map is not None:
            return self._scores.get(said.strip().lower())
        try:
            score = float(said)
        except ValueError:
            return None
        return score if 0 <= score <= self._config.max_points else None


def without_self_evaluation(text: str) -> str:
    """The text up to the heading behind which it grades itself."""
    return _SELF_EVALUATION.sub("", text).rstrip()


def rubric_text(rubric: Any) -> str:
    """A row's rubric as text.

    Args:
        rubric: a text, or a list of entries `{title, points, desc}`, in which `desc` may be missing.

    Returns:
        The text, or per entry `# TITLE (POINTS points)` and a line `Description: DESC`; empty for no rubric.

    Raises:
        UserError: something else.
    """
    if rubric is None:
        return ""
    if isinstance(rubric, str):
        return rubric.strip()
    if hasattr(rubric, "tolist"):
        rubric = rubric.tolist()
    entries = [rubric] if isinstance(rubric, Mapping) else rubric
    if not isinstance(entries, Sequence) or not all(
        isinstance(entry, Mapping) and "title" in entry for entry in entries
    ):
        raise UserError(
            f"judge: extra_info.rubric is a {type(rubric).__name__}; expected a text or a list of title, points, desc"
        )
    parts = []
    for entry in entries:
        points = entry.get("points")
        head = f"# {entry['title']}" + (f" ({points:g} points)" if isinstance(points, int | float) else "")
        parts.append(head + (f"\nDescription: {entry['desc']}" if entry.get("desc") else ""))
    return "\n\n".join(parts)
