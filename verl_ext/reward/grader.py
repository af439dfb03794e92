"""What is a correct answer: `grade(response, gold)`. Loads neither torch, ray nor verl."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from verl_ext.reward.code.grade import DEFAULTS, shared_code_grader
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.grading import Grade, prepare
from verl_ext.reward.policy import GradingPolicy
from verl_ext.reward.pool import shared_pool
from verl_ext.reward.sources import rule_for

__all__ = ["Grade", "grade"]


def grade(
    response: str,
    gold: str | Sequence[str],
    *,
    data_source: str = "math",
    policy: GradingPolicy | None = None,
    after_think: bool = False,
    evaluating_scorers: Collection[str] = (),
    code: CodeOptions = DEFAULTS,
) -> Grade:
    """Grade one response.

    The first answer that needs sympy starts a worker process (a second or two), which is kept for the next ones;
    for batches use `pool.GraderPool`.

    Args:
        response: what the model wrote. Untrusted; nothing in it is evaluated, but for `evaluating_scorers`.
        gold: the right answer, or all parts of an answer of several parts; for code the tests as JSON
            (`code.tests.read_tests`), or the id of stored ones (`code.store`).
        data_source: a name from `sources.SOURCES`, or `reasoning_gym/TASK` (then gold is the entry as JSON).
        policy: replaces the choices of the data source.
        after_think: look only at what follows the last `</think>`; without one there is no answer.
        evaluating_scorers: reasoning-gym tasks that are graded although their scorer runs text as Python.
        code: how programs are run, and where stored tests are.

    Raises:
        ConfigError: the data source is unknown, or its scorer runs text as Python and was not allowed by name;
            code, where no isolation works.
    """
    if rule_for(data_source).extraction == "code":
        return shared_code_grader(options=code).submit(response, str(gold)).result()
    result = prepare(response, gold, data_source, policy=policy, after_think=after_think)
    if isinstance(result, Grade):
        return result
    return shared_pool(evaluating_scorers=evaluating_scorers).decide(result)
