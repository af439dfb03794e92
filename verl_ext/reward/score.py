"""From a grade to a reward: what verl's reward managers expect of a score function.

As a custom reward function, with any of verl's managers:

    reward.custom_reward_function.path=pkg://verl_ext.reward.score reward.custom_reward_function.name=compute_score
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from verl_ext.errors import ConfigError
from verl_ext.reward.grading import Grade
from verl_ext.reward.math.extraction import has_closed_box
from verl_ext.reward.options import PREFIX, RewardOptions, read_options
from verl_ext.reward.policy import GradingPolicy
from verl_ext.reward.sources import rule_for
from verl_ext.reward.turns import require_single_turn


def reward_of(grade: Grade, response: str, response_length: int, options: RewardOptions) -> dict[str, Any]:
    """The reward of one answer and what to log beside it.

    `acc` is correctness alone, whatever the coding and the shaping of `score`: objectives that need to know whether an
    answer was right read `acc`.
    """
    score = options.base_score(grade.share)
    if options.format_bonus and has_closed_box(response):
        score += options.format_bonus
    overlong = options.overlong_buffer_cfg
    penalty = overlong.penalty(response_length, options.max_resp_len or 0)
    result = {
        "score": score + penalty,
        "acc": float(grade.correct),
        "pred": grade.prediction or "",
        "grade_status": grade.status,
        "grade_seconds": grade.seconds,
        "grade_program": _outcome(grade) if grade.is_program else "",
        "grade_judge": _judged(grade) if grade.is_judged else "",
        "grade_requests": grade.requests,
    }
    if overlong.enable and overlong.log:
        result.update(overlong_reward=penalty, overlong=penalty < 0)
    return result


def _outcome(grade: Grade) -> str:
    """What became of a program: `passed`, why it is wrong, or why there is no verdict."""
    if grade.status != "ok":
        return grade.status
    return "passed" if grade.correct else grade.detail


def _judged(grade: Grade) -> str:
    """The points that the judge gave, or why there are none."""
    return (grade.prediction or "") if grade.status == "ok" else grade.status


def policy_for(data_source: str, extra_info: Mapping[str, Any] | None, options: RewardOptions) -> GradingPolicy | None:
    """The grading policy of one row: its own tolerance, where its benchmark states one (OlympiadBench's `error`)."""
    policy = options.grading_policy
    error = (extra_info or {}).get("error")
    try:
        tolerance = float(error)
    except (TypeError, ValueError):
        return policy
    return replace(policy or rule_for(data_source).policy, absolute_tolerance=tolerance)


async def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Mapping[str, Any] | None = None,
    **reward_kwargs: Any,
) -> dict[str, Any]:
    """Score one response, for `reward.custom_reward_function`; worker processes are shared within this process.

    Args:
        data_source: a name that `sources.rule_for` knows.
        solution_str: the response.
        ground_truth: the gold answer, or the parts of an answer of several parts.
        extra_info: the row's own; only OlympiadBench's `error` is read, and verl's `num_turns`.
        reward_kwargs: keys of `RewardOptions`. The overlong penalty needs a length in tokens, which verl does not hand
            to a score function, so it is not available here; verl's own `dapo` manager adds it.

    Raises:
        ConfigError: an option that cannot work, or that only the manager `math_verify_pool` has.
        UserError: a response of several turns, of which only the manager can grade the last.
    """
    from verl_ext.reward.pool import shared_pool

    for name in ("reward_router_address", "reward_model_tokenizer"):
        reward_kwargs.pop(name, None)
    if "on_no_verdict" in reward_kwargs:
        raise ConfigError(
            "reward.custom_reward_function.reward_kwargs.on_no_verdict",
            given=reward_kwargs["on_no_verdict"],
            expected=f"nothing: {PREFIX}.on_no_verdict says what the trainer does with such answers",
        )
    options = read_options(reward_kwargs)
    require_single_turn((extra_info or {}).get("num_turns"))
    pool = shared_pool(
        options.workers, options.timeout_s, options.memory_mb, options.evaluating_scorers, options.code_options()
    )
    policy = policy_for(data_source, extra_info, options)
    gold = gold_of(ground_truth)
    future = await asyncio.to_thread(
        pool.submit, solution_str, gold, data_source, policy=policy, after_think=options.after_think
    )
    return reward_of(await asyncio.wrap_future(future), solution_str, 0, options)


def gold_of(ground_truth: Any) -> str | list[str]:
    """The gold as text: parquet gives arrays for lists, and some data sets hold numbers."""
    if isinstance(ground_truth, str):
        return ground_truth
    if hasattr(ground_truth, "tolist"):
        ground_truth = ground_truth.tolist()
    if isinstance(ground_truth, list | tuple):
        return [str(part) for part in ground_truth]
    return str(ground_truth)
