"""Metrics against values computed by hand and against other implementations."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from verl_ext.reward.accuracy import (
    avg_at_k,
    best_at_k,
    maj_at_k,
    pass_at_k,
    powers_up_to,
    standard_error,
)

GENERATOR = np.random.default_rng(7)


def rows_with(total, right):
    return [[True] * right + [False] * (total - right)]


def published_pass_at_k(n, c, k):
    """The program printed in arXiv 2107.03374, Figure 3, as a product."""
    if n - c < k:
        return 1.0
    return 1.0 - float(np.prod(1.0 - k / np.arange(n - c + 1, n + 1)))


def test_avg_at_k_is_the_share_of_right_samples_of_each_problem():
    assert avg_at_k([[True, False, False, True], [False] * 4, [True]]).tolist() == [0.5, 0.0, 1.0]


@pytest.mark.parametrize(
    ("total", "right", "k", "expected"), [(4, 1, 2, 0.5), (5, 2, 3, 0.9), (3, 3, 1, 1), (3, 0, 3, 0)]
)
def test_pass_at_k_of_cases_computed_by_hand(total, right, k, expected):
    assert pass_at_k(rows_with(total, right), k)[0] == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("total", [1, 2, 7, 16, 32, 128])
def test_pass_at_k_equals_the_product_form_of_the_paper(total):
    for right, k in itertools.product(range(total + 1), powers_up_to(total)):
        found = pass_at_k(rows_with(total, right), k)[0]
        assert found == pytest.approx(published_pass_at_k(total, right, k), abs=1e-12)


def test_pass_at_k_is_the_share_of_all_subsets_with_a_right_sample():
    samples = [False, True, False, False, True, False, False]
    for k in range(1, 8):
        subsets = list(itertools.combinations(samples, k))
        assert pass_at_k([samples], k)[0] == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_pass_at_one_is_avg_and_pass_at_k_never_falls():
    correct = GENERATOR.random((20, 16)) < 0.3
    assert pass_at_k(correct, 1) == pytest.approx(avg_at_k(correct))
    curve = [pass_at_k(correct, k).mean() for k in range(1, 17)]
    assert curve == sorted(curve) and curve[-1] == correct.any(axis=1).mean()


@pytest.mark.parametrize(
    ("answers", "correct", "expected"),
    [
        ([7, 7, 3], [False, False, True], 0.0),
        ([7, 3, 3], [False, True, True], 1.0),
        ([7, 3], [False, True], 0.5),  # a tie is a coin toss
        ([7, None, None, None], [True, False, False, False], 1.0),  # a missing answer does not vote
        ([None, None], [False, False], 0.0),
    ],
)
def test_majority_of_cases_computed_by_hand(answers, correct, expected):
    assert maj_at_k([correct], [answers]).tolist() == [expected]


def test_majority_of_k_is_the_mean_over_all_subsets():
    answers, correct = [1, 1, 2, 3, 2], [True, True, False, False, False]
    # Pairs: {1,1} right; {1,x} a tie, half right (2 * 3 of them); the 3 pairs without a 1 wrong.
    assert maj_at_k([correct], [answers], 2)[0] == pytest.approx((1 + 6 * 0.5) / 10)


def test_majority_of_random_subsets_is_close_to_the_mean_over_all_of_them():
    answers = [[int(value) for value in GENERATOR.integers(0, 4, 16)]]
    correct = [[answer == 0 for answer in answers[0]]]
    exact = np.mean([maj_at_k([[correct[0][i] for i in s]], [[answers[0][i] for i in s]])[0]
                     for s in itertools.combinations(range(16), 5)])  # fmt: skip
    found = maj_at_k(correct, answers, 5, seed=3)[0]
    assert found == pytest.approx(exact, abs=4 * 0.5 / math.sqrt(1000))
    assert found == maj_at_k(correct, answers, 5, seed=3)[0] != maj_at_k(correct, answers, 5, seed=4)[0]


def test_weighted_majority_counts_scores():
    correct, answers = [[True, False, False]], [[1, 2, 2]]
    assert maj_at_k(correct, answers, weights=[[0.9, 0.3, 0.3]]).tolist() == [1.0]
    assert maj_at_k(correct, answers, weights=[[0.5, 0.3, 0.3]]).tolist() == [0.0]
    assert maj_at_k(correct, answers, weights=[[0.6, 0.3, 0.3]]).tolist() == [0.5]


def test_best_of_k_takes_the_highest_score_and_shares_ties():
    correct = [[True, False, False]]
    assert best_at_k(correct, [[0.9, 0.1, 0.2]]).tolist() == [1.0]
    assert best_at_k(correct, [[0.9, 0.9, 0.2]]).tolist() == [0.5]
    # Of the pairs, two hold the best and right one.
    assert best_at_k(correct, [[0.9, 0.1, 0.2]], 2)[0] == pytest.approx(2 / 3)


def test_standard_error_agrees_with_scipy_and_with_the_formula():
    values = GENERATOR.random(120)
    reference = stats.bootstrap((values,), np.mean, n_resamples=10_000, rng=np.random.default_rng(1))
    found = standard_error(values)
    assert found == pytest.approx(reference.standard_error, rel=0.03)
    assert found == pytest.approx(values.std() / math.sqrt(len(values)), rel=0.03)
    assert found == standard_error(values) != standard_error(values, seed=1)


def test_one_problem_has_no_standard_error():
    assert math.isnan(standard_error([1.0]))


@pytest.mark.parametrize(
    "call",
    [
        lambda: pass_at_k([[True, False], [True]], 2),
        lambda: pass_at_k([[True]], 0),
        lambda: avg_at_k([[]]),
        lambda: maj_at_k([[True, False]], [[1]]),
        lambda: maj_at_k([[True]], [[1]], 2),
        lambda: best_at_k([[True]], [[0.5, 0.5]]),
    ],
)
def test_too_few_samples_or_lists_that_do_not_match_are_refused(call):
    with pytest.raises(ValueError, match="sample|expected"):
        call()


def test_powers_of_a_curve_end_at_the_number_of_samples():
    assert (powers_up_to(1), powers_up_to(16), powers_up_to(20)) == ([1], [1, 2, 4, 8, 16], [1, 2, 4, 8, 16, 20])


def test_metrics_load_neither_torch_nor_ray_nor_verl():
    code = "import sys, verl_ext.reward.accuracy; print({'torch', 'ray', 'verl'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
