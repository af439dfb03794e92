"""From a checked configuration to data, device and process group: what comes before the first model weight."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from verl_ext.data.sft_dataset import SFTDataConfig, SFTDataset
from verl_ext.errors import UserError
from verl_ext.model_folder import read_hf_config, require_sequence_parallel_heads
from verl_ext.platform.cpu_memory import keep_memory_small
from verl_ext.trainer.run.adapters import check_adapter
from verl_ext.trainer.run.model_checks import check_model
from verl_ext.trainer.run.quiet import quiet_libraries

COLLECTIVE_TIMEOUT = timedelta(minutes=30)
"""A rank that waits longer for another one fails and says so; saving a large model stays far below."""


def choose_device(config: DictConfig, *, must_be_here: bool = True) -> str:
    """The device of this machine, and the environment that makes verl use our engine on it.

    Args:
        config: composed; `trainer.device` may name the device.
        must_be_here: False where other machines train: then this one needs no accelerator of its own.

    Raises:
        UserError: there is an accelerator that torch cannot use.
    """
    quiet_libraries()
    os.environ.setdefault("NCCL_DEBUG", "WARN")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if config.trainer.device == "cpu":
        os.environ["VERL_PLATFORM"] = "cpu"
    from verl.plugin.platform import get_platform

    from verl_ext.engine import ENGINE_VENDOR

    os.environ["VERL_ENGINE_VENDOR"] = ENGINE_VENDOR
    platform = get_platform()
    if must_be_here and not platform.is_available():
        raise UserError(
            f"trainer.device: verl chose the platform {platform.vendor_name!r}, but torch sees no such device here; "
            "install a torch build for it, or set trainer.device=cpu"
        )
    return platform.device_name


def complete_config(config: DictConfig, device: str) -> PretrainedConfig:
    """Read the model's configuration, check it, and fill in what verl expects; returns the model's.

    Raises:
        UserError: the configuration cannot be read, is of a model that cannot be trained here or is changed in a way
            that cannot work, its adapter could not be merged, or sequence parallelism does not fit its heads.
    """
    hf_config = read_hf_config(config.model.path, trust_remote_code=config.model.trust_remote_code)
    check_model(config.model, hf_config, "model", max_length=config.data.max_length)
    check_adapter(config.model, hf_config, "model")
    sp_size = config.engine.ulysses_sequence_parallel_size
    if sp_size > 1:
        require_sequence_parallel_heads(hf_config, sp_size)
    if config.data.chat_template_file:
        config.model.custom_chat_template = Path(config.data.chat_template_file).read_text()
    config.trainer.device = device
    with open_dict(config):
        config.engine.use_dynamic_bsz = config.data.use_dynamic_bsz
    return hf_config


def load_tokenizer(config: DictConfig) -> PreTrainedTokenizerBase:
    """The tokenizer, with the chat template of the configuration where there is one.

    Raises:
        UserError: it has no chat template, or no EOS token.
    """
    from verl.utils import hf_tokenizer
    from verl.utils.import_utils import import_external_libs

    import_external_libs(config.model.external_lib)
    tokenizer = hf_tokenizer(
        config.model.tokenizer_path or config.model.path, trust_remote_code=config.model.trust_remote_code
    )
    if config.model.custom_chat_template:
        tokenizer.chat_template = config.model.custom_chat_template
    if not tokenizer.chat_template:
        raise UserError(
            f"data.chat_template_file: not set, and the tokenizer of {config.model.path} has no chat template; "
            "give a file with one (base models ship none)"
        )
    if tokenizer.eos_token is None:
        raise UserError(f"model.path: the tokenizer of {config.model.path} has no EOS token to end a response with")
    return tokenizer


def load_datasets(config: DictConfig) -> tuple[SFTDataset, SFTDataset | None]:
    """Read and tokenise the training and validation rows.

    Raises:
        UserError: a file, column, row or the chat template cannot be used.
    """
    tokenizer = load_tokenizer(config)
    rows = sft_data_config(config.data)
    train = SFTDataset(as_list(config.data.train_files), tokenizer, rows, max_samples=config.data.train_max_samples)
    val = None
    if config.data.val_files:
        val = SFTDataset(
            as_list(config.data.val_files),
            tokenizer,
            rows,
            key="data.val_files",
            max_samples=config.data.val_max_samples,
        )
    say_summaries(train, val)
    return train, val


def say_summaries(train: Any, val: Any | None) -> None:
    """Print what the data sets hold, once a run."""
    if int(os.environ.get("RANK", "0")) == 0:
        print(f"train: {train.summary()}", flush=True)
        if val is not None:
            print(f"val: {val.summary()}", flush=True)


@contextmanager
def join_ranks(device: str) -> Iterator[None]:
    """The process group of this run, destroyed at its end; a single process needs no torchrun."""
    alone = {}
    if "RANK" not in os.environ:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        alone = {
            "RANK": "0",
            "LOCAL_RANK": "0",
            "WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        os.environ.update(alone)
    if device == "cpu":
        keep_memory_small()
        # verl would ask for "cpu:gloo,cpu:gloo", which torch refuses (utils/distributed.py, verl 0.9.1).
        dist.init_process_group("gloo", timeout=COLLECTIVE_TIMEOUT)
    else:
        from verl.utils.distributed import initialize_global_process_group

        initialize_global_process_group(timeout_second=int(COLLECTIVE_TIMEOUT.total_seconds()))
    try:
        yield
    finally:
        dist.destroy_process_group()
        for name in alone:  # what this process starts next is not a rank of a group that is gone
            os.environ.pop(name, None)


def as_list(files: str | ListConfig) -> list[str]:
    """Files of a key that takes one or many."""
    return [files] if isinstance(files, str) else list(files)


def sft_data_config(data: DictConfig) -> SFTDataConfig:
    """What a configuration's group `data` says about rows.

    Raises:
        ConfigError: a value that cannot work.
    """
    names = SFTDataConfig.__dataclass_fields__
    values = {name: value for name, value in OmegaConf.to_container(data, resolve=True).items() if name in names}
    if values["enable_thinking_default"] == "none":  # verl's spelling of null
        values["enable_thinking_default"] = None
    return SFTDataConfig(**values)
