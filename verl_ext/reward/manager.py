"""verl's reward manager `math_verify_pool`: grades that are right, fast, and cannot hang.

    reward.reward_manager.name=math_verify_pool +reward.reward_kwargs.timeout_s=5

Keys: `options.RewardOptions`. Per answer it reports `acc`, `pred`, `grade_status`, `grade_seconds`, `grade_program`,
`grade_judge` and `grade_requests`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import ray
from verl import DataProto
from verl.experimental.reward_loop.reward_manager import register
from verl.experimental.reward_loop.reward_manager.base import RewardManagerBase
from verl.utils.reward_score import default_compute_score

from verl_ext.errors import ConfigError
from verl_ext.reward import turns
from verl_ext.reward.code.grade import shared_code_grader
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.code.store import folder_beside
from verl_ext.reward.grading import Grade, Undecided, prepare
from verl_ext.reward.judge.config import read_judge
from verl_ext.reward.judge.grade import Judge
from verl_ext.reward.metrics import FailureWatch
from verl_ext.reward.options import PREFIX, RewardOptions, read_options
from verl_ext.reward.score import gold_of, policy_for, reward_of
from verl_ext.reward.sources import check_data_files, local_files, rule_for

NAME = "math_verify_pool"


class MathVerifyPoolRewardManager(RewardManagerBase):
    """Grades by text and number in this process and, where these cannot tell, in the node's shared worker processes.

    Args:
        config: verl's config; `reward.reward_kwargs` holds our options.
        tokenizer: decodes the response.
        compute_score: verl's default is ignored; a custom reward function together with this manager is an error.

    Raises:
        ConfigError: an option that cannot work, or a data source in the data files that no rule covers.
    """

    def __init__(self, config, tokenizer, compute_score=None, reward_router_address=None, reward_model_tokenizer=None):
        super().__init__(config, tokenizer, compute_score)
        if compute_score is not None and compute_score is not default_compute_score:
            raise ConfigError(
                "reward.custom_reward_function",
                given="a custom reward function",
                expected=f"none with the reward manager {NAME}, which grades by itself",
            )
        self.options = read_options(config.reward.get("reward_kwargs"))
        self.judge = _judge_of(self.options)
        data = config.get("data") or {}
        files = local_files([data.get("train_files"), data.get("val_files")])
        self._code_options = self.options.code_options(dict.fromkeys(map(folder_beside, files)))
        check_data_files(
            [data.get("train_files"), data.get("val_files")],
            column=data.get("reward_fn_key", "data_source"),
            has_judge=self.judge is not None,
            evaluating_scorers=self.options.evaluating_scorers,
            code=self._code_options,
        )
        drops = _drops_no_verdict(self.options, config)
        self.watch = FailureWatch(self.options.warn_share, "are dropped" if drops else "are rewarded as wrong")
        self._graders = _graders_of(self.options, self._code_options)

    async def run_single(self, data: DataProto) -> dict[str, Any]:
        """Grade the last sequence of `data`: its whole response, or what its loop says is the answer (`turns`).

        Returns:
            `reward_score`, and `reward_extra_info` with `score`, `acc`, `pred`, `grade_status`,
            `grade_seconds`, `grade_program`, `grade_judge` and `grade_requests`.

        Raises:
            UserError: a response of several turns without a word on which of them is the answer.
        """
        item = data[-1]
        response_length = turns.response_length(item)
        answer_ids = item.batch["responses"][turns.graded_span(item.non_tensor_batch, response_length)]
        response = await asyncio.to_thread(self.tokenizer.decode, answer_ids, skip_special_tokens=True)
        grade = await self._grade(item.non_tensor_batch, response)
        self.watch.add([grade.status])
        result = reward_of(grade, response, response_length, self.options)
        return {"reward_score": result["score"], "reward_extra_info": result}

    async def _grade(self, row: Mapping[str, Any], response: str) -> Grade:
        data_source = row["data_source"]
        gold = gold_of(row["reward_model"]["ground_truth"])
        extra_info = row.get("extra_info") or {}
        extraction = rule_for(data_source).extraction
        if extraction == "code":
            return await self._graders.grade_program(response, str(gold))
        if extraction == "judge":
            if self.judge is None:
                raise ConfigError(f"{PREFIX}.judge", given=None, expected=f"a judge for data source {data_source!r}")
            return await self.judge.grade(
                _problem_of(row, extra_info),
                response,
                gold if isinstance(gold, str) else "",
                rubric=extra_info.get("rubric"),
                data_source=data_source,
            )
        policy = policy_for(data_source, extra_info, self.options)
        result = await asyncio.to_thread(
            prepare, response, gold, data_source, policy=policy, after_think=self.options.after_think
        )
        return await self._graders.decide(result) if isinstance(result, Undecided) else result


class _LocalGraders:
    """Worker processes of this process, for use without Ray."""

    def __init__(self, options: RewardOptions, code: CodeOptions) -> None:
        from verl_ext.reward.pool import shared_pool

        self._workers, self._code = options.workers, code
        self._pool = shared_pool(options.workers, options.timeout_s, options.memory_mb, options.evaluating_scorers)

    async def decide(self, undecided: Undecided) -> Grade:
        return await asyncio.wrap_future(self._pool.send(undecided))

    async def grade_program(self, response: str, gold: str) -> Grade:
        grader = await asyncio.to_thread(shared_code_grader, self._workers, self._code)
        return await asyncio.wrap_future(grader.submit(response, gold))


def _drops_no_verdict(options: RewardOptions, config: Any) -> bool:
    """Whether the trainer takes answers without a verdict out of its steps.

    Raises:
        ConfigError: it was asked to and cannot: a reward manager alone can only pay them as wrong.
    """
    trainer = config.get("trainer") or {}
    if options.on_no_verdict == "drop" and "max_skipped_updates" not in trainer:  # a key of this package's trainer
        raise ConfigError(
            f"{PREFIX}.on_no_verdict",
            given="drop",
            expected="wrong with this trainer: only verl_ext.trainer.fsdp_nft_trainer can take answers out of a step",
        )
    return options.on_no_verdict == "drop"


def _graders_of(options: RewardOptions, code: CodeOptions) -> Any:
    if not ray.is_initialized():
        return _LocalGraders(options, code)
    from verl_ext.reward.node_graders import NodeGraders

    return NodeGraders(options, code)


def _judge_of(options: RewardOptions) -> Judge | None:
    if options.judge is None:
        return None
    return Judge(read_judge(options.judge))


def _problem_of(row: Mapping[str, Any], extra_info: Mapping[str, Any]) -> str:
    """The problem's text: the row's own, or the last message of its prompt."""
    problem = extra_info.get("problem") or extra_info.get("question")
    if problem:
        return str(problem)
    messages = row.get("raw_prompt")
    return str(messages[-1]["content"]) if messages is not None and len(messages) else ""


def register_reward_manager() -> None:
    """Make it known to verl as `NAME`."""
    register(NAME)(MathVerifyPoolRewardManager)
