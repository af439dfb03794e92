"""Training rows that share an n-gram with an evaluation problem are left out, and listed.

Compared are problems, not solutions, as sequences of words: lower case, Unicode NFKC, without white space and
punctuation, so `\\frac{1}{2}` is `frac 1 2`; a Chinese or Japanese character is a word. A problem of fewer than n words
has no n-gram: it is compared as a whole, operators included, with training problems that are as short. AceReason-Nemotron
filters by 9-grams; AceMath by 13-grams and a longest common subsequence besides, which is not done here.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from verl_ext.data.prepare.evaluation_problems import EvaluationProblem
from verl_ext.data.prepare.report import SplitReport

NGRAM_SIZES = (9, 13)

_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\W_{_CHARACTER}]+")
_WORD_OR_OPERATOR = re.compile(rf"{_WORD.pattern}|[-+*/^=<>|%!]")


def words_of(problem: str) -> list[str]:
    """The words that are compared."""
    return _WORD.findall(unicodedata.normalize("NFKC", problem).lower())


class EvaluationNgrams:
    """The n-grams of evaluation problems, to look training problems up in.

    Args:
        problems: all evaluation problems.
        size: n, in words.
    """

    def __init__(self, problems: Iterable[EvaluationProblem], size: int) -> None:
        self.problems = list(problems)
        self.size = size
        self._at: defaultdict[str, list[int]] = defaultdict(list)
        for number, problem in enumerate(self.problems):
            for key in dict.fromkeys(self._keys(problem.question)):
                self._at[key].append(number)

    def shared(self, problem: str) -> dict[EvaluationProblem, str]:
        """{evaluation problem: the first n-gram of `problem` that is in it}"""
        found: dict[EvaluationProblem, str] = {}
        for key in self._keys(problem):
            for number in self._at.get(key, ()):
                found.setdefault(self.problems[number], key)
        return found

    def _keys(self, problem: str) -> Iterator[str]:
        words = words_of(problem)
        if len(words) >= self.size:
            for start in range(len(words) - self.size + 1):
                yield " ".join(words[start : start + self.size])
        elif words:
            # Operators count here: 3 + 4 and 3 * 4 are two problems. No n-gram is as short, so keys cannot be mixed up.
            yield " ".join(_WORD_OR_OPERATOR.findall(unicodedata.normalize("NFKC", problem).lower()))


class Decontamination:
    """What was left out of one split, and why."""

    def __init__(self, ngrams: EvaluationNgrams) -> None:
        self._ngrams = ngrams
        self._removed_rows = 0
        self._rows_by_benchmark: Counter[str] = Counter()
        self._matches: list[dict[str, Any]] = []

    def clean(self, rows: Iterable[dict[str, Any]], report: SplitReport) -> Iterator[dict[str, Any]]:
        """`rows` without those that share an n-gram with an evaluation problem."""
        for row in rows:
            info = row["extra_info"]
            shared = self._ngrams.shared(info["question"])
            if not shared:
                yield row
                continue
            report.drop("is too like an evaluation problem", f"row {info['index']}")
            self._removed_rows += 1
            self._rows_by_benchmark.update({problem.benchmark for problem in shared})
            self._matches += [
                {
                    "index": info["index"],
                    "question": info["question"],
                    "evaluation_set": problem.benchmark,
                    "evaluation_index": problem.index,
                    "evaluation_question": problem.question,
                    "ngram": ngram,
                }
                for problem, ngram in shared.items()
            ]

    def json_lines(self) -> str:
        """A line for each removed row and evaluation problem that it shares an n-gram with."""
        return "".join(json.dumps(match, ensure_ascii=False) + "\n" for match in self._matches)

    def line(self, path: str) -> str:
        """The counts, for the closing report."""
        sizes = Counter(problem.benchmark for problem in self._ngrams.problems)
        against = ", ".join(f"{name} ({count} problems)" for name, count in sizes.items())
        by_set = ", ".join(f"{name} {self._rows_by_benchmark[name]}" for name in sizes if self._rows_by_benchmark[name])
        removed = f"{self._removed_rows} rows removed" + (f" ({by_set})" if by_set else "")
        return f"  decontaminated with {self._ngrams.size}-grams of {against}: {removed}; listed in {path}"
