"""Every key of the composed configurations: read by something, or refused by name when it is set.

A configuration of verl has hundreds of keys; many belong to other engines or to other trainers of verl, and some to
nothing at all. A key that is set and that nothing reads is worse than an error. `config/keys/verl.yaml` says of each
what reads it or why it is refused; that the list is complete and true is tested against the installed verl.
"""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf, open_dict

from verl_ext.errors import UserError
from verl_ext.trainer.run.command_line import CONFIG_MODULE

TRAINERS = ("dft_trainer", "nft_offline", "nft_trainer")


@dataclass(frozen=True)
class Rule:
    """What holds for the keys of one pattern."""

    pattern: str
    """Dotted; `*` is one name, `**` any number of names."""
    kind: Literal["read", "refused"]
    why: str
    """Where it is read: "verl/FILE:LINE", a file of ours or a test; or the reason of the refusal."""
    trainers: tuple[str, ...] = TRAINERS
    only_with: tuple[str, str] | None = None
    """Key and value without which nothing reads it."""

    @property
    def specificity(self) -> tuple[int, int]:
        """Of several patterns that match a key, the one with the fewest wildcards counts, then the longest."""
        return -self.pattern.count("*"), len(self.pattern)

    def matches(self, key: str) -> bool:
        return _regex(self.pattern).fullmatch(key) is not None


def check_keys(config: DictConfig, trainer: str) -> None:
    """Refuse every key that was set and that nothing reads.

    Args:
        config: composed, resolved.
        trainer: one of TRAINERS, whose defaults `config` is compared with.

    Raises:
        UserError: names the key and the reason.
    """
    for refusal in refusals(config, trainer):
        raise UserError(refusal)


def refusals(config: DictConfig, trainer: str) -> Iterator[str]:
    """What `check_keys` has to say, key by key."""
    given = _flat(config)
    for key, default in _default_values(trainer).items():
        if given.get(key) == default or _follows(config, trainer, key, given.get(key)):
            continue
        rule = rule_of(key, trainer)
        if rule.kind == "refused":
            yield f"{key}: not supported here: {rule.why}"
        elif rule.only_with is not None:
            other, value = rule.only_with
            if given.get(other) != value:
                yield f"{key}: has no effect without {other}={value}"


def leaves(config: DictConfig, prefix: str = "") -> Iterator[str]:
    """Dotted names of all keys that are no groups; an empty group counts as a key."""
    for name in config:
        value, key = config._get_node(name), f"{prefix}{name}"
        if isinstance(value, DictConfig) and not value._is_none() and not value._is_missing() and len(value):
            yield from leaves(value, f"{key}.")
        else:
            yield key


@cache
def default_config(trainer: str) -> DictConfig:
    """The configuration of a trainer without a command line, interpolations unresolved."""
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        return compose(trainer)


@cache
def rules() -> tuple[Rule, ...]:
    """All rules, braces expanded."""
    table = OmegaConf.to_container(OmegaConf.load(str(resources.files(CONFIG_MODULE).joinpath("keys/verl.yaml"))))
    found = []
    for group in table["read"]:
        only_with = tuple(group["only_with"].split("=")) if "only_with" in group else None
        for pattern, where in group["keys"].items():
            for trainers, place in _by_trainers(where):
                found += [Rule(single, "read", place, trainers, only_with) for single in _expanded(pattern)]
    for group in table["refused"]:
        trainers = tuple(group.get("trainers", TRAINERS))
        for pattern in group["keys"]:
            found += [Rule(single, "refused", group["because"], trainers) for single in _expanded(pattern)]
    return tuple(found)


@cache
def rule_of(key: str, trainer: str) -> Rule:
    """The rule of a key.

    Raises:
        LookupError: there is none, or two that are equally specific.
    """
    exact, patterns = _index(trainer)
    found = exact.get(key) or [rule for rule in patterns if rule.matches(key)]
    best = max((rule.specificity for rule in found), default=None)
    best_rules = [rule for rule in found if rule.specificity == best]
    if len(best_rules) != 1:
        raise LookupError(f"{trainer}: {key} has {[rule.pattern for rule in best_rules] or 'no rule'}")
    return best_rules[0]


@cache
def _index(trainer: str) -> tuple[dict[str, list[Rule]], list[Rule]]:
    exact: dict[str, list[Rule]] = {}
    patterns = []
    for rule in rules():
        if trainer in rule.trainers and "*" in rule.pattern:
            patterns.append(rule)
        elif trainer in rule.trainers:
            exact.setdefault(rule.pattern, []).append(rule)
    return exact, patterns


@cache
def _default_values(trainer: str) -> dict[str, Any]:
    """Every key with its default, interpolations resolved."""
    values = _flat(default_config(trainer))
    return {key: values.get(key) for key in leaves(default_config(trainer))}


def _flat(config: DictConfig) -> dict[str, Any]:
    """Dotted names of keys and groups, each with its value; what is missing is None."""
    found: dict[str, Any] = {}

    def add(prefix: str, group: dict) -> None:
        for name, value in group.items():
            key = f"{prefix}{name}"
            found[key] = None if value == "???" else value
            if isinstance(value, dict):
                add(f"{key}.", value)

    add("", OmegaConf.to_container(config, resolve=True))
    return found


def _follows(config: DictConfig, trainer: str, key: str, given: Any) -> bool:
    """Whether a key holds what its default says that it takes from other keys."""
    parent, _, name = key.rpartition(".")
    defaults = default_config(trainer)
    default = (OmegaConf.select(defaults, parent) if parent else defaults)._get_node(name)
    if not default._is_interpolation():
        return False
    following = copy.deepcopy(config)
    with open_dict(following):
        OmegaConf.update(following, key, default._value(), force_add=True)
    value = OmegaConf.select(following, key)
    return given == (OmegaConf.to_container(value) if OmegaConf.is_config(value) else value)


def _by_trainers(where: str | dict[str, str]) -> list[tuple[tuple[str, ...], str]]:
    """A place for all trainers, or one for each of them."""
    return [(TRAINERS, where)] if isinstance(where, str) else [((name,), place) for name, place in where.items()]


def _expanded(pattern: str) -> list[str]:
    """`a.{b,c}.d` as `a.b.d` and `a.c.d`."""
    parts = [part.split(",") for part in re.split(r"[{}]", pattern)]
    choices = [part if index % 2 else [",".join(part)] for index, part in enumerate(parts)]
    return ["".join(chosen) for chosen in itertools.product(*choices)]


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    names = re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", r"[^.]+")
    return re.compile(names)
