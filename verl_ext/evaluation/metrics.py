r"""Numbers of an evaluation, each as one value a problem: its mean is the metric, its bootstrap the standard error.

    values = pass_at_k(correct, k=8)            # (problems,)
    values.mean(), standard_error(values)

`correct[p][s]` says whether sample s of problem p is right; problems may have different numbers of samples. Nothing
here needs torch, ray or a grader, so that a trainer's validation can use it as well.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
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
        votes = [1.0] * len(samples) if weights is None else list(weights[problem])

        def value(subset: Sequence[int], samples=samples, voted=voted, votes=votes) -> float:
            return _majority(subset, samples, voted, votes)

        values.append(_mean_over_subsets(value, len(samples), k, seed))
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

        def value(subset: Sequence[int], samples=samples, scored=scored) -> float:
            highest = max(scored[i] for i in subset)
            return _share([bool(samples[i]) for i in subset if scored[i] == highest])

        values.append(_mean_over_subsets(value, len(samples), k, seed))
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


def _majority(subset: Sequence[int], correct: Sequence[bool], answers: Sequence, votes: Sequence[float]) -> float:
    weight: dict[Hashable, float] = defaultdict(float)
    members: dict[Hashable, list[bool]] = defaultdict(list)
    for i in subset:
        if answers[i] is not None:
            weight[answers[i]] += votes[i]
            members[answers[i]].append(bool(correct[i]))
    if not weight:
        return 0.0
    most = max(weight.values())
    winners = [answer for answer, total in weight.items() if math.isclose(total, most, rel_tol=1e-12, abs_tol=1e-12)]
    return sum(_share(members[answer]) for answer in winners) / len(winners)


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _mean_over_subsets(value: Callable[[Sequence[int]], float], total: int, k: int | None, seed: int) -> float:
    """Mean of `value` over subsets of k of `total` indices, in rising order within a subset."""
    if k is None or k == total:
        return value(range(total))
    if math.comb(total, k) <= SUBSETS:
        subsets = list(combinations(range(total), k))
    else:
        generator = np.random.default_rng(seed)
        subsets = [sorted(generator.choice(total, size=k, replace=False).tolist()) for _ in range(SUBSETS)]
    return sum(map(value, subsets)) / len(subsets)


def _require_samples(correct: Correct, k: int) -> None:
    if k < 1:
        raise ValueError(f"k = {k}, expected 1 or more")
    fewest = min(map(len, correct), default=k)
    if fewest < k:
        raise ValueError(f"k = {k}, but a problem has {fewest} sample(s)")


def _require_same_shape(correct: Correct, other: Sequence[Sequence], name: str) -> None:
    if [len(row) for row in correct] != [len(row) for row in other]:
        raise ValueError(f"{name} and correct differ in their number of problems or samples")
