"""Offline NFT: from the command line to a run. `fsdp_nft_trainer` calls it under torchrun."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.supervised.checks import check_device, ranks_from_environment
from verl_ext.trainer.supervised.nft_checks import check_config, check_groups
from verl_ext.trainer.supervised.vocabulary import NFT_OFFLINE_VOCABULARY

if TYPE_CHECKING:
    from verl_ext.data.rollout_dataset import RolloutDataset
    from verl_ext.data.rollout_rows import RolloutDataConfig

CONFIG_NAME = "nft_offline"


def run(arguments: Sequence[str]) -> int:
    """Train on graded generations with `key=value` arguments; returns the exit code.

    Raises:
        UserError: the input cannot work.
    """
    only_print = "--cfg" in arguments
    config = compose_config(
        CONFIG_NAME, [argument for argument in arguments if argument != "--cfg"], NFT_OFFLINE_VOCABULARY
    )
    if only_print:
        print(OmegaConf.to_yaml(config))
        return 0
    world_size = ranks_from_environment()
    defaults = compose_config(CONFIG_NAME, [])
    check_config(config, world_size=world_size)

    # torch and verl are imported from here on
    from verl_ext.trainer.run import startup
    from verl_ext.trainer.run.launch import choose_device, complete_config

    device = choose_device(config)
    check_device(config, device)
    hf_config = complete_config(config, device)
    from verl_ext.engine.shared_prompts import shares_prompts

    config.trainer.share_prompts = shares_prompts(
        config.trainer.share_prompts,
        hf_config,
        config.model,
        on_gpu=device != "cpu",
        key="trainer.share_prompts",
    )
    startup.reached("imports")
    train_dataset, val_dataset = load_datasets(config)
    check_groups(config, len(train_dataset))
    startup.reached("data")

    from verl_ext.trainer.supervised.nft import NFTOfflineTrainer
    from verl_ext.trainer.supervised.run import train

    return train(
        *(NFTOfflineTrainer, config, train_dataset, val_dataset),
        defaults=defaults,
        device=device,
        world_size=world_size,
    )


def rollout_data_config(data: DictConfig) -> RolloutDataConfig:
    """What a configuration's group `data` says about rows.

    Raises:
        ConfigError: a value that cannot work.
    """
    from verl_ext.data.rollout_rows import RolloutDataConfig

    names = RolloutDataConfig.__dataclass_fields__
    values = OmegaConf.to_container(data, resolve=True)
    return RolloutDataConfig(**{name: value for name, value in values.items() if name in names})


def load_datasets(config: DictConfig) -> tuple[RolloutDataset, RolloutDataset | None]:
    """Read and tokenise the training and validation groups.

    Raises:
        UserError: a file, column, row or the chat template cannot be used.
    """
    from verl_ext.data.rollout_dataset import RolloutDataset
    from verl_ext.trainer.run.launch import as_list, load_tokenizer, say_summaries

    tokenizer = load_tokenizer(config)
    columns = rollout_data_config(config.data)
    train = RolloutDataset(as_list(config.data.rollouts), tokenizer, columns, max_samples=config.data.train_max_samples)
    val = None
    if config.data.val_rollouts:
        val = RolloutDataset(
            as_list(config.data.val_rollouts),
            tokenizer,
            columns,
            key="data.val_rollouts",
            max_samples=config.data.val_max_samples,
        )
    say_summaries(train, val)
    return train, val
