"""What cannot work in the offline NFT trainer, found before a model is loaded."""

from __future__ import annotations

import math

from omegaconf import DictConfig

from verl_ext.errors import ConfigError, UserError
from verl_ext.objectives.nft_config import NFTConfig
from verl_ext.trainer.run.required import require_values
from verl_ext.trainer.supervised.checks import check_choice, check_common


def check_config(config: DictConfig, *, world_size: int) -> None:
    """Check everything that the configuration alone decides.

    Args:
        config: composed, resolved.
        world_size: ranks of the run.

    Raises:
        UserError: the first thing that cannot work.
    """
    expected = {"model.path": "a model folder or hub id", "data.rollouts": "a file or a list of files"}
    require_values(config, expected)
    check_common(config, "nft_offline", world_size=world_size)
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
