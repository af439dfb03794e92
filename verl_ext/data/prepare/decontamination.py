"""Training rows that share an n-gram with an evaluation problem are left out, and listed.

Compared are problems, not solutions, as sequences of words: lower case, Unicode NFKC, without white space and
punctuation, so `\\frac{1}{2}` is `frac 1 2`; a Chinese or Japanese character is a word. A problem of fewer than n words
has no n-gram: it is compared as a whole, operators included, with training problems that are as short.

AceReason-Nemotron filters by 9-grams; AceMath by 13-grams and a longest common subsequence of more than 60%. The second
condition is there because competitions have wordings of their own: `where m and n are relatively prime positive integers
find m n` alone makes thirteen words, and would remove nearly every problem that is put like AIME's.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from verl_ext.data.prepare.evaluation_problems import EvaluationProblem
from verl_ext.data.prepare.split_report import SplitReport

NGRAM_SIZES = (9, 13)

_CHARACTER = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_CHARACTER}]|[^\W_{_CHARACTER}]+")
_WORD_OR_OPERATOR = re.compile(rf"{_WORD.pattern}|[-+*/^=<>|%]")


def words_of(problem: str) -> list[str]:
    """The words that are compared."""
    return _WORD.findall(_plain(problem))


@dataclass(frozen=True)
class Match:
    """An evaluation problem that a training problem is too like.

    Attributes:
        ngram: the first that both have.
        shared: number of different n-grams that both have.
    """

    problem: EvaluationProblem
    ngram: str
    shared: int


class EvaluationNgrams:
    """The n-grams of evaluation problems, to look training problems up in.

    Args:
        problems: all evaluation problems.
        size: n, in words.
        common_share: the longest common subsequence must be longer than this share of the shorter problem; 0 asks for
            no more than the n-gram.
    """

    def __init__(self, problems: Iterable[EvaluationProblem], size: int, common_share: float = 0.0) -> None:
        self.problems = list(problems)
        self.size = size
        self.common_share = common_share
        self._words = [words_of(problem.question) for problem in self.problems]
        self._at: defaultdict[str, list[int]] = defaultdict(list)
        for number, problem in enumerate(self.problems):
            for key in self._keys(problem.question, self._words[number]):
                self._at[key].append(number)

    def matches(self, question: str) -> list[Match]:
        """The evaluation problems that `question` is too like, that with most n-grams in common first."""
        words = words_of(question)
        shared: dict[int, list[str]] = {}
        for key in self._keys(question, words):
            for number in self._at.get(key, ()):
                shared.setdefault(number, []).append(key)
        found = [
            Match(self.problems[number], keys[0], len(keys))
            for number, keys in shared.items()
            if self._enough_in_common(words, self._words[number])
        ]
        return sorted(found, key=lambda match: -match.shared)

    def _keys(self, question: str, words: list[str]) -> dict[str, None]:
        """The n-grams, each once, in their order."""
        if len(words) >= self.size:
            starts = range(len(words) - self.size + 1)
            return dict.fromkeys(" ".join(words[start : start + self.size]) for start in starts)
        if not words:
            return {}
        # Operators count here: 3 + 4 and 3 * 4 are two problems. The blank tells such a key from any n-gram.
        return {" " + " ".join(_WORD_OR_OPERATOR.findall(_plain(question))): None}

    def _enough_in_common(self, words: list[str], others: list[str]) -> bool:
        if not self.common_share or words == others:
            return True
        needed = self.common_share * min(len(words), len(others))
        # The words in common, whatever their order, are at least as many, and are counted much faster.
        if (Counter(words) & Counter(others)).total() <= needed:
            return False
        return _longest_common_subsequence(words, others) > needed


class Decontamination:
    """What was left out of one split, and why."""

    def __init__(self, ngrams: EvaluationNgrams) -> None:
        self._ngrams = ngrams
        self._rows_by_benchmark: Counter[str] = Counter()
        self._rows_by_ngram: Counter[str] = Counter()
        self._removed: list[dict[str, Any]] = []

    def clean(self, rows: Iterable[dict[str, Any]], report: SplitReport) -> Iterator[dict[str, Any]]:
        """`rows` without those that are too like an evaluation problem."""
        for row in rows:
            info = row["extra_info"]
            matches = self._ngrams.matches(info["question"])
            if not matches:
                yield row
                continue
            report.drop("is too like an evaluation problem", f"row {info['index']}")
            self._rows_by_benchmark.update({match.problem.benchmark for match in matches})
            first, *others = matches
            self._rows_by_ngram[first.ngram.strip()] += 1
            self._removed.append(
                {
                    "index": info["index"],
                    "question": info["question"],
                    "evaluation_set": first.problem.benchmark,
                    "evaluation_index": first.problem.index,
                    "evaluation_question": first.problem.question,
                    "ngram": first.ngram.strip(),
                    "shared_ngrams": first.shared,
                    "others": [[match.problem.benchmark, match.problem.index] for match in others],
                }
            )

    def json_lines(self) -> str:
        """A line for each removed row: the evaluation problem that it shares most n-grams with, and which others."""
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in self._removed)

    def lines(self, path: str) -> list[str]:
        """The counts, for the closing report of the split whose list is in `path`."""
        sizes = Counter(problem.benchmark for problem in self._ngrams.problems)
        against = ", ".join(f"{name} ({count} problems)" for name, count in sizes.items())
        by_set = ", ".join(f"{name} {self._rows_by_benchmark[name]}" for name in sizes if self._rows_by_benchmark[name])
        removed = f"{len(self._removed)} rows removed" + (f" ({by_set})" if by_set else "")
        lines = [f"  decontaminated with {self._ngrams.size}-grams of {against}: {removed}; listed in {path}"]
        for ngram, count in self._rows_by_ngram.most_common(1):
            if count > 1:
                lines.append(f"  the n-gram that removed most, {count} rows: {ngram}")
        return lines


def _plain(problem: str) -> str:
    return unicodedata.normalize("NFKC", problem).lower()


def _longest_common_subsequence(first: list[str], second: list[str]) -> int:
    """Its length in words; time in proportion to the product of both lengths."""
    lengths = [0] * (len(second) + 1)
    for word in first:
        diagonal = 0
        for position, other in enumerate(second, start=1):
            above = lengths[position]
            lengths[position] = diagonal + 1 if word == other else max(above, lengths[position - 1])
            diagonal = above
    return lengths[-1]
