"""When a run ends because there is nothing to learn, or because too much fails, and what it says then."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from verl_ext.trainer.online.outcomes import EmptySteps, Outcomes, in_words, too_many_failed
from verl_ext.trainer.run.exits import NothingToLearnError

WRONG = Outcomes(all_wrong=30, cut_off=10)


@pytest.mark.parametrize(
    ("failed", "prompts", "too_many"),
    [(3, 3, False), (4, 4, True), (4, 39, True), (4, 40, False), (51, 512, False), (52, 512, True)],
)
def test_a_tenth_and_at_least_four_prompts_are_too_many(failed, prompts, too_many):
    assert too_many_failed(failed, prompts) == too_many


def test_empty_steps_in_a_row_end_the_run_with_what_their_groups_were():
    steps = EmptySteps()
    for _ in range(2):
        steps.add(WRONG)
        steps.require_something_to_learn(3)
    steps.add(Outcomes(all_right=20, failed=20))
    with pytest.raises(NothingToLearnError) as raised:
        steps.require_something_to_learn(3)
    message = str(raised.value)
    assert "3 steps in a row (trainer.max_empty_steps=3)" in message
    assert (
        "of 120 groups: 50 % all wrong, 16.7 % all right, 16.7 % all wrong and cut off at the length limit, "
        "16.7 % failed in generation or grading; try easier prompts (data.train_files)"
    ) in message
    assert "\n" not in message


def test_a_step_with_something_to_learn_ends_the_row():
    steps = EmptySteps()
    for outcomes in (WRONG, WRONG, Outcomes(usable=1, all_wrong=40), WRONG, WRONG):
        steps.add(outcomes)
        steps.require_something_to_learn(3)
    assert (steps.count, steps.outcomes.total) == (2, 80)


@pytest.mark.parametrize(
    ("outcomes", "advice"),
    [
        (Outcomes(all_right=3, all_wrong=1), "try harder ones (data.train_files)"),
        (Outcomes(cut_off=3, all_wrong=1), "try a longer data.max_response_length"),
        (Outcomes(all_wrong=3, cut_off=1), "a larger actor_rollout_ref.rollout.n, a longer data.max_response_length"),
        (Outcomes(failed=3, all_wrong=1), "say why they failed"),
        (Outcomes(stale=3, all_wrong=1), "allow older groups"),
    ],
)
def test_the_advice_is_for_most_of_the_groups(outcomes, advice):
    steps = EmptySteps()
    steps.add(outcomes)
    with pytest.raises(NothingToLearnError) as raised:
        steps.require_something_to_learn(1)
    assert advice in str(raised.value)


def test_a_continued_run_counts_on():
    steps = EmptySteps()
    steps.add(WRONG)
    steps.add(WRONG)
    restored = EmptySteps.restored(json.loads(json.dumps(steps.state())))
    assert restored == steps
    restored.add(WRONG)
    with pytest.raises(NothingToLearnError, match="of 120 groups"):
        restored.require_something_to_learn(3)


def test_the_most_frequent_reasons_are_said():
    reasons = Counter({"A: 1": 5, "B: 2": 3, "C: 3": 2, "D: 4": 1, "E: 5": 1})
    assert in_words(reasons) == "5 x A: 1; 3 x B: 2; 2 x C: 3; and 2 other reasons"
    assert in_words(Counter({"A: 1": 5})) == "5 x A: 1"
