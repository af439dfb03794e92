"""From the command line to a composed configuration: old names, stray blanks, unknown keys.

Hydra reports an unknown key with a chained traceback; here it is one line with the nearest known key, before
torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_ext.cli import refuse_stray_blanks
from verl_ext.errors import UnknownKeyError, UserError

CONFIG_MODULE = "verl_ext.trainer.config"

OLD_NAMES = {
    # The DFT repository's trainer (a verl of 2025) -> verl 0.9.1.
    "model.partial_pretrain": "model.path",
    "model.strategy": "engine.strategy",
    "model.fsdp_config.model_dtype": "engine.model_dtype",
    "model.fsdp_config.wrap_policy.min_num_params": "engine.wrap_policy.min_num_params",
    "model.fsdp_config.cpu_offload": "engine.offload_policy",
    "model.fsdp_config.offload_params": "engine.param_offload",
    "ulysses_sequence_parallel_size": "engine.ulysses_sequence_parallel_size",
    "use_remove_padding": "model.use_remove_padding",
    "optim.warmup_steps_ratio": "optim.lr_warmup_steps_ratio",
    "optim.lr_scheduler": "optim.lr_scheduler_type",
    "data.micro_batch_size": "data.micro_batch_size_per_gpu",
    "data.multiturn.messages_key": "data.messages_key",
    "data.multiturn.tools_key": "data.tools_key",
    "data.multiturn.enable_thinking_key": "data.enable_thinking_key",
    "data.chat_template": "model.custom_chat_template",
    "trainer.checkpoint.save_contents": "checkpoint.save_contents",
    "trainer.checkpoint.load_contents": "checkpoint.load_contents",
}
"""Old key -> today's key. The values kept their meaning."""

OPEN_GROUPS = ("model.override_config.", "model.fused_kernel_options.", "data.apply_chat_template_kwargs.", "hydra.")
"""Where `+key=value` may add what the defaults do not name; anywhere else nobody would read it."""


def compose_config(config_name: str, arguments: Sequence[str]) -> DictConfig:
    """Compose `config_name` of `verl_ext.trainer.config` with the overrides of a command line.

    Args:
        config_name: for example "dft_trainer".
        arguments: `key=value` overrides in Hydra's grammar; old names are mapped, and said on stderr.

    Raises:
        UnknownKeyError: a key that does not exist.
        UserError: an argument that is no override at all, or a value that has no place at its key.
    """
    overrides = [_modernise(argument) for argument in refuse_stray_blanks(arguments)]
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        defaults = compose(config_name)
        overrides = _refuse_unknown_keys(overrides, _keys(defaults))
        try:
            config = compose(config_name, overrides=overrides)
            OmegaConf.resolve(config)
        except (ConfigCompositionException, OmegaConfBaseException) as error:
            raise UserError(str(error).splitlines()[0]) from error
    return config


def _modernise(argument: str) -> str:
    key, separator, value = argument.partition("=")
    prefix = key[: len(key) - len(key.lstrip("+~"))]
    name = key[len(prefix) :]
    if name not in OLD_NAMES:
        return argument
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(f"{name} is now {OLD_NAMES[name]}", file=sys.stderr)
    return f"{prefix}{OLD_NAMES[name]}{separator}{value}"


def _refuse_unknown_keys(overrides: list[str], known: set[str]) -> list[str]:
    """Check each key; `+key` of a known key loses its plus, which Hydra would refuse."""
    groups = {key.rpartition(".")[0] for key in known}
    checked = []
    for argument in overrides:
        try:
            override = OverridesParser.create().parse_overrides([argument])[0]
        except OverrideParseException:
            raise UserError(f"cannot read the argument {argument!r}: expected key=value") from None
        key = override.key_or_group
        if key in known or key in groups:
            checked.append(argument.removeprefix("+").removeprefix("+"))
        elif key.startswith(OPEN_GROUPS):
            checked.append(argument if argument.startswith("+") else f"+{argument}")
        else:
            raise UnknownKeyError(key, known | OLD_NAMES.keys())
    return checked


def _keys(config: DictConfig, prefix: str = "") -> set[str]:
    keys = set()
    for name in config:
        key = f"{prefix}{name}"
        keys.add(key)
        value = config._get_node(name)
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            keys |= _keys(value, f"{key}.")
    return keys
