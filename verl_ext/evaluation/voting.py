"""Which answers to one problem are the same answer: by equivalence, not by text."""

from __future__ import annotations

from collections.abc import Sequence

from verl_ext.reward.grading import Undecided
from verl_ext.reward.math import qwen_equal
from verl_ext.reward.math.equivalence import equivalent
from verl_ext.reward.policy import GradingPolicy
from verl_ext.reward.pool import GraderPool

RIGHT = 0


def answer_groups(
    predictions: Sequence[str | None], correct: Sequence[bool], pool: GraderPool, policy: GradingPolicy
) -> list[int | None]:
    """A number for each sample of one problem, equal for equivalent answers; for `metrics.maj_at_k`.

    All answers that are right are one group. A wrong one joins the first group whose first answer it equals, so that
    a problem costs as many comparisons as it has different wrong texts and groups.

    Args:
        predictions: the extracted answers; None where there is none.
        correct: whether each is right.
        pool: compares what text and numbers cannot.
        policy: by which answers were graded.

    Returns:
        `RIGHT` for right answers, 1, 2, ... for groups of wrong ones, None for no answer.
    """
    group_of: dict[str, int] = {}
    firsts: list[str] = []
    groups: list[int | None] = []
    for prediction, is_correct in zip(predictions, correct, strict=True):
        if is_correct:
            groups.append(RIGHT)
        elif prediction is None:
            groups.append(None)
        else:
            if prediction not in group_of:
                group_of[prediction] = _group(prediction, firsts, pool, policy)
            groups.append(group_of[prediction])
    return groups


def _group(prediction: str, firsts: list[str], pool: GraderPool, policy: GradingPolicy) -> int:
    for number, first in enumerate(firsts, start=RIGHT + 1):
        if _same(first, prediction, pool, policy):
            return number
    firsts.append(prediction)
    return RIGHT + len(firsts)


def _same(one: str, other: str, pool: GraderPool, policy: GradingPolicy) -> bool:
    compare = qwen_equal.same_answer(other, one) if policy.rules == "qwen" else equivalent(one, other, policy)
    if compare is None:
        return pool.decide(Undecided(one, other, policy, "", 0.0)).correct
    return compare
