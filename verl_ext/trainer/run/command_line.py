"""From the command line to a composed configuration: old names, stray blanks, unknown keys.

Hydra reports an unknown key with a chained traceback; here it is one line with the nearest known key, before
torch is imported.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from verl_ext.cli import refuse_stray_blanks
from verl_ext.errors import ConfigError, UnknownKeyError, UserError

CONFIG_MODULE = "verl_ext.trainer.config"


def model_name(path: str | None) -> str:
    """What a model is called, in names of runs and folders: the last part of its path or hub id.

    A checkpoint's `huggingface` folder says nothing, so there it is the run and the step that it is of.
    """
    parts = [part for part in str(path or "model").rstrip("/").split("/") if part]
    if len(parts) >= 3 and parts[-1] == "huggingface" and parts[-2].startswith("global_step_"):
        return f"{parts[-3]}-step{parts[-2].removeprefix('global_step_')}"
    return parts[-1] if parts else "model"


# What the defaults of `trainer.experiment_name`, and with it of the run's folder, are made of.
OmegaConf.register_new_resolver("verl_ext.model_name", model_name, replace=True)
OmegaConf.register_new_resolver("verl_ext.nft_or_rft", lambda weight: "rft" if weight == 0 else "nft", replace=True)


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """What a trainer's command line may say beside the keys of its configuration."""

    old_names: Mapping[str, str] = field(default_factory=dict)
    """Old key -> today's key; the value kept its meaning."""
    translations: Mapping[str, Callable[[str, Any], str]] = field(default_factory=dict)
    """Published key -> what makes of key and value the argument that stands for them today."""
    open_groups: tuple[str, ...] = ()
    """Where `+key=value` may add what the defaults do not name; anywhere else nobody would read it."""
    choices: tuple[str, ...] = ()
    """Groups of configuration files, of which an argument chooses one."""

    @property
    def names(self) -> set[str]:
        return {*self.old_names, *self.translations, *self.choices}


NOTHING_MORE = Vocabulary()


def compose_config(config_name: str, arguments: Sequence[str], vocabulary: Vocabulary = NOTHING_MORE) -> DictConfig:
    """Compose `config_name` of `verl_ext.trainer.config` with the overrides of a command line.

    Args:
        config_name: for example "dft_trainer".
        arguments: `key=value` overrides in Hydra's grammar; old names are mapped, and said on stderr.
        vocabulary: of the trainer.

    Raises:
        UnknownKeyError: a key that does not exist.
        UserError: an argument that is no override at all, or a value that has no place at its key.
    """
    overrides = [_modernise(argument, vocabulary) for argument in refuse_stray_blanks(arguments)]
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        overrides = _refuse_unknown_keys(overrides, _default_keys(config_name), vocabulary)
        try:
            config = compose(config_name, overrides=overrides)
            OmegaConf.resolve(config)
        except (ConfigCompositionException, OmegaConfBaseException) as error:
            raise UserError(str(error).splitlines()[0]) from error
    return config


def known_keys(config_name: str) -> set[str]:
    """Every key and group of a configuration of `verl_ext.trainer.config`, dotted."""
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return _default_keys(config_name)


def _modernise(argument: str, vocabulary: Vocabulary) -> str:
    key, separator, value = argument.partition("=")
    prefix = key[: len(key) - len(key.lstrip("+~"))]
    name = key[len(prefix) :]
    if name in vocabulary.translations and separator:
        today = vocabulary.translations[name](name, _parse(argument).value())
        _say(f"{argument} is now {today}")
        return today
    if name in vocabulary.old_names:
        _say(f"{name} is now {vocabulary.old_names[name]}")
        return f"{prefix}{vocabulary.old_names[name]}{separator}{value}"
    return argument


def _say(text: str) -> None:
    if int(os.environ.get("LOCAL_RANK", "0")) == 0:
        print(text, file=sys.stderr)


def _parse(argument: str) -> Override:
    try:
        return OverridesParser.create().parse_overrides([argument])[0]
    except OverrideParseException:
        raise UserError(f"cannot read the argument {argument!r}: expected key=value") from None


def _refuse_unknown_keys(overrides: list[str], known: set[str], vocabulary: Vocabulary) -> list[str]:
    """Check each key; `+key` of a known key loses its plus, which Hydra would refuse."""
    groups = {key.rpartition(".")[0] for key in known}
    checked = []
    for argument in overrides:
        override = _parse(argument)
        key = override.key_or_group
        if key in vocabulary.choices:
            _require_choice(key, override.value())
        if key in known or key in groups or key in vocabulary.choices:
            checked.append(argument.removeprefix("+").removeprefix("+"))
        elif key.startswith(vocabulary.open_groups):
            # `++`: an objective's file may have set the key already
            checked.append(f"++{argument.lstrip('+')}")
        else:
            raise UnknownKeyError(key, known | vocabulary.names)
    return checked


def _require_choice(group: str, name: Any) -> None:
    files = resources.files(CONFIG_MODULE).joinpath(group).iterdir()
    names = sorted(file.name.removesuffix(".yaml") for file in files if file.name.endswith(".yaml"))
    if name not in names:
        raise ConfigError(group, given=name, expected=f"one of {', '.join(names)}")


@cache
def _default_keys(config_name: str) -> set[str]:
    return _keys(compose(config_name))


def _keys(config: DictConfig, prefix: str = "") -> set[str]:
    keys = set()
    for name in config:
        key = f"{prefix}{name}"
        keys.add(key)
        value = config._get_node(name)
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing():
            keys |= _keys(value, f"{key}.")
    return keys
