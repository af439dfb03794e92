"""What cannot work in the offline NFT trainer, found before a model is loaded."""

from __future__ import annotations

import math

from omegaconf import DictConfig

from verl_ext.errors import ConfigError, UserError
from verl_ext.objectives.nft_config import NFTConfig
from verl_ext.trainer.run.required import require_values
from verl_ext.trainer.supervised.checks import check_choice, check_common

_NO_COLUMN = "the columns of graded generations are named by data.prompt_key, data.responses_key and data.correct_key"

NOT_SUPPORTED = {
    # keys of verl's SFT configuration that have no effect in this trainer, with the reason
    "data.train_files": "graded generations are data.rollouts",
    "data.val_files": "graded generations are data.val_rollouts",
    "data.messages_key": _NO_COLUMN,
    "data.tools_key": _NO_COLUMN,
    "data.enable_thinking_key": _NO_COLUMN,
    "data.enable_thinking_default": "say it in data.apply_chat_template_kwargs",
    "data.ignore_input_ids_mismatch": "prompt and response are tokenised on their own",
}


def check_config(config: DictConfig, *, defaults: DictConfig, world_size: int) -> None:
    """Check everything that the configuration alone decides.

    Args:
        config: composed, resolved.
        defaults: the same without the user's overrides.
        world_size: ranks of the run.

    Raises:
        UserError: the first thing that cannot work.
    """
    expected = {"model.path": "a model folder or hub id", "data.rollouts": "a file or a list of files"}
    require_values(config, expected)
    check_common(config, defaults=defaults, world_size=world_size, not_supported=NOT_SUPPORTED)
    check_choice(config, "objective.reduction", ("token_mean", "response_mean", "published"))
    _check_objective(config)
    temperature = config.data.temperature
    if not isinstance(temperature, (int, float)) or not 0 < temperature < math.inf:
        raise ConfigError("data.temperature", given=temperature, expected="a positive number")
    if not isinstance(config.trainer.log_entropy, bool):
        raise ConfigError("trainer.log_entropy", given=config.trainer.log_entropy, expected="True or False")


def check_groups(config: DictConfig, num_groups: int) -> None:
    """Check that the prompts fill at least one batch.

    Raises:
        ConfigError: there are too few.
    """
    if num_groups < config.data.train_batch_size:
        raise ConfigError(
            "data.train_batch_size",
            given=config.data.train_batch_size,
            expected=f"at most {num_groups}, the prompts of data.rollouts that have right and wrong responses",
        )


def _check_objective(config: DictConfig) -> None:
    objective = config.objective
    if isinstance(objective.neg_weight, (int, float)) and objective.neg_weight < 0:
        raise ConfigError(
            "objective.neg_weight",
            given=objective.neg_weight,
            expected="0 (RFT) or more; a negative one meant DAPO in the published code, which needs online training",
        )
    try:
        NFTConfig(**{name: objective[name] for name in NFTConfig.__dataclass_fields__})
    except ValueError as error:
        raise UserError(f"objective.{error}") from None
