"""One response to one problem, graded as the configuration says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from verl_ext.evaluation.code_prompts import as_program
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.reward.grading import Grade
from verl_ext.reward.policy import GradingPolicy
from verl_ext.reward.pool import GraderPool
from verl_ext.reward.sources import rule_for


def grader_pool(config: EvaluationConfig) -> GraderPool:
    """Worker processes as the configuration says."""
    return GraderPool(
        config.workers, config.grader_timeout_s, evaluating_scorers=config.evaluating_scorers, code=config.code_options
    )


def answer_of(record: Mapping[str, Any]) -> str:
    """What is graded of a sample: the response, or where it goes on with a program that the prompt begins, both."""
    if record.get("completes"):
        return as_program(record["question"], record["response"])
    return record["response"]


def submit_grade(
    pool: GraderPool,
    config: EvaluationConfig,
    response: str,
    gold: str | Sequence[str],
    data_source: str,
    *,
    tolerance: float | None,
) -> Future[Grade]:
    """Start to grade; a tolerance of the problem's own replaces the absolute one of the policy."""
    policy = policy_for(config, data_source, tolerance)
    return pool.submit(response, gold, data_source, policy=policy, after_think=config.after_think)


def policy_for(config: EvaluationConfig, data_source: str, tolerance: float | None) -> GradingPolicy:
    """The choices by which answers of one problem are compared."""
    policy = config.policy or rule_for(data_source).policy
    return policy if tolerance is None else replace(policy, absolute_tolerance=tolerance)
