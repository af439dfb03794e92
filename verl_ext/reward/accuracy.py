r"""Numbers of an evaluation, each as one value a problem: its mean is the metric, its bootstrap the standard error.

    values = pass_at_k(correct, k=8)            # (problems,)
    values.mean(), standard_error(values)

`correct[p][s]` says whether sample s of problem p is right; problems may have different numbers of samples. Nothing
here needs torch, ray or a grader, so that a trainer's validation can use it as well.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from functools import lru_cache
from itertools import combinations

import numpy as np

Correct = Sequence[Sequence[bool]]
Answers = Sequence[Sequence[Hashable | None]]
Scores = Sequence[Sequence[float]]

RESAMPLES = 10_000
_RESAMPLES_AT_ONCE = 500
SUBSETS = 1000
"""Where a metric of k out of n samples has no closed form, its mean is taken over all subsets, or over so many."""


def avg_at_k(correct: Correct) -> np.ndarray:
    """Share of right samples of each problem; the mean over problems is avg@k for k samples a problem.

    Returns:
        (problems,) float64.

    Raises:
        ValueError: a problem has no sample.
    """
    _require_samples(correct, 1)
    return np.array([sum(map(bool, samples)) / len(samples) for samples in correct], dtype=np.float64)


def pass_at_k(correct: Correct, k: int) -> np.ndarray:
    """Chance that at least one of k samples is right, without bias from n >= k samples (arXiv 2107.03374, Eq. 1).

    1 - C(n - c, k) / C(n, k) for c right ones among n, in integers until the last division.

    Returns:
        (problems,) float64.

    Raises:
        ValueError: k < 1, or a problem has fewer than k samples.
    """
    _require_samples(correct, k)
    values = []
    for samples in correct:
        total, wrong = len(samples), len(samples) - sum(map(bool, samples))
        values.append(1.0 - math.comb(wrong, k) / math.comb(total, k))
    return np.array(values, dtype=np.float64)


def maj_at_k(
    correct: Correct, answers: Answers, k: int | None = None, *, weights: Scores | None = None, seed: int = 0
) -> np.ndarray:
    """Chance that the answer with the most votes among k samples is right.

    Args:
        correct: correct[p][s].
        answers: answers[p][s], equal (as Python compares) for equivalent answers, for example the numbers of
            `voting.answer_groups`; None for a sample without an answer, which does not vote.
        k: votes; None for all samples of each problem.
        weights: weights[p][s], what a vote counts (a reward model's scores); None for 1 each.
        seed: of the random subsets.

    Returns:
        (problems,) float64. Answers with equally many votes share the chance; with no vote at all it is 0. For k below
        the number of samples: the mean over all subsets of k samples, or over `SUBSETS` random ones where there are
        more.

    Raises:
        ValueError: k < 1, a problem has fewer than k samples, or the lists do not match.
    """
    _require_samples(correct, k or 1)
    _require_same_shape(correct, answers, "answers")
    if weights is not None:
        _require_same_shape(correct, weights, "weights")
    values = []
    for problem, (samples, voted) in enumerate(zip(correct, answers, strict=True)):
        votes = np.ones(len(samples)) if weights is None else np.asarray(weights[problem], dtype=np.float64)
        chosen = _subsets(len(samples), k or len(samples), seed)
        values.append(_majority(chosen, np.asarray(samples, dtype=np.float64), voted, votes))
    return np.array(values, dtype=np.float64)


def best_at_k(correct: Correct, scores: Scores, k: int | None = None, *, seed: int = 0) -> np.ndarray:
    """Chance that the sample with the highest score among k is right (rm@k, best of k).

    Args:
        correct: correct[p][s].
        scores: scores[p][s] of a reward model.
        k: samples to choose from; None for all of each problem.
        seed: of the random subsets.

    Returns:
        (problems,) float64; equal highest scores share the chance. Subsets as in `maj_at_k`.

    Raises:
        ValueError: k < 1, a problem has fewer than k samples, or the lists do not match.
    """
    _require_samples(correct, k or 1)
    _require_same_shape(correct, scores, "scores")
    values = []
    for samples, scored in zip(correct, scores, strict=True):
        chosen = _subsets(len(samples), k or len(samples), seed)
        among = np.where(chosen, np.asarray(scored, dtype=np.float64), -np.inf)
        best = chosen & (among == among.max(axis=1, keepdims=True))
        shares = best @ np.asarray(samples, dtype=np.float64) / best.sum(axis=1)
        values.append(shares.mean())
    return np.array(values, dtype=np.float64)


def standard_error(values: Sequence[float] | np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> float:
    """Bootstrap standard error of the mean over problems: problems are drawn with replacement.

    Args:
        values: (problems,), one value a problem.
        resamples: bootstrap samples.
        seed: the same seed gives the same error.

    Returns:
        Standard deviation (ddof 1) of the resampled means; nan for fewer than two problems, which say nothing about
        their spread.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) < 2:
        return math.nan
    generator = np.random.default_rng(seed)
    means = np.empty(resamples)
    for start in range(0, resamples, _RESAMPLES_AT_ONCE):
        stop = min(start + _RESAMPLES_AT_ONCE, resamples)
        chosen = generator.integers(0, len(values), size=(stop - start, len(values)))
        means[start:stop] = values[chosen].mean(axis=1)
    return float(means.std(ddof=1))


def powers_up_to(samples: int) -> list[int]:
    """1, 2, 4, ... and `samples` itself: the k of a pass@k curve."""
    powers = [2**exponent for exponent in range(samples.bit_length()) if 2**exponent <= samples]
    return powers if samples in powers else [*powers, samples]


def _majority(chosen: np.ndarray, correct: np.ndarray, answers: Sequence[Hashable | None], votes: np.ndarray) -> float:
    """Mean over subsets of the chance that the answer with the most votes is right.

    Args:
        chosen: (subsets, samples) bool.
        correct: (samples,) float.
        answers: of the samples.
        votes: (samples,) float, what each counts.
    """
    names = {answer: number for number, answer in enumerate(dict.fromkeys(a for a in answers if a is not None))}
    if not names:
        return 0.0
    belongs = np.zeros((len(answers), len(names)))  # (samples, answers)
    for sample, answer in enumerate(answers):
        if answer is not None:
            belongs[sample, names[answer]] = 1.0
    counts = chosen @ belongs  # (subsets, answers)
    right = chosen @ (belongs * correct[:, None])
    weight = np.where(counts > 0, chosen @ (belongs * votes[:, None]), -np.inf)
    most = weight.max(axis=1, keepdims=True)
    winners = (counts > 0) & np.isclose(weight, most, rtol=1e-12, atol=1e-12)
    shares = np.divide(right, counts, out=np.zeros_like(right), where=counts > 0)
    return float((np.where(winners, shares, 0.0).sum(axis=1) / np.maximum(winners.sum(axis=1), 1)).mean())


@lru_cache(maxsize=64)
def _subsets(total: int, k: int, seed: int) -> np.ndarray:
    """Subsets of k of `total` samples, shape (subsets, total) bool: all of them, or `SUBSETS` random ones."""
    if math.comb(total, k) <= SUBSETS:
        chosen = np.zeros((math.comb(total, k), total), dtype=bool)
        for row, subset in enumerate(combinations(range(total), k)):
            chosen[row, list(subset)] = True
        return chosen
    order = np.random.default_rng(seed).random((SUBSETS, total)).argsort(axis=1)
    return order < k


def _require_samples(correct: Correct, k: int) -> None:
    if k < 1:
        raise ValueError(f"k = {k}, expected 1 or more")
    fewest = min(map(len, correct), default=k)
    if fewest < k:
        raise ValueError(f"k = {k}, but a problem has {fewest} sample(s)")


def _require_same_shape(correct: Correct, other: Sequence[Sequence], name: str) -> None:
    if [len(row) for row in correct] != [len(row) for row in other]:
        raise ValueError(f"{name} and correct differ in their number of problems or samples")
