"""Objectives of supervised training by name, and their parameters as a command line gives them."""

from __future__ import annotations

import importlib
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, TypeVar

from verl_ext.errors import ConfigError, UnknownKeyError, nearest
from verl_ext.objectives.objective import Objective, OfLogProbs, TokenLoss

Registered = TypeVar("Registered", bound=TokenLoss | type[Objective])

RESERVED = ("name", "reduction")
"""Keys of the group `objective` that belong to every objective."""

_objectives: dict[str, Any] = {}


@dataclass(frozen=True)
class Parameter:
    """A parameter of an objective."""

    name: str
    type: Any
    """int, float, bool, str, a Literal, or a union of one of these and None."""
    default: Any


def register_objective(name: str) -> Callable[[Registered], Registered]:
    """Make an objective available as `objective.name=<name>`.

    It decorates a subclass of `Objective`, or a function from the log-probabilities of the target tokens to the loss of
    each, where there is nothing else to say.

    Raises:
        ValueError: the name is taken, or the class cannot be configured from a command line.
    """

    def register(objective: Registered) -> Registered:
        if _objectives.get(name, objective) is not objective:
            raise ValueError(f"objective {name!r} is already registered")
        if isinstance(objective, type):
            _parameters_of_class(name, objective)
        _objectives[name] = objective
        return objective

    return register


def objective_names() -> list[str]:
    """Names of all registered objectives, sorted."""
    _load_own()
    return sorted(_objectives)


def get_objective(name: str) -> TokenLoss | type[Objective]:
    """What is registered as `name`.

    Raises:
        ConfigError: no such objective.
    """
    names = objective_names()
    if name not in names:
        suggestion = nearest(str(name), names)
        hint = f" (did you mean {suggestion}?)" if suggestion else ""
        raise ConfigError("objective.name", given=name, expected=f"one of {', '.join(names)}{hint}")
    return _objectives[name]


def parameters_of(name: str) -> list[Parameter]:
    """The parameters of an objective, in their order; none for a function.

    Raises:
        ConfigError: no such objective.
    """
    objective = get_objective(name)
    return _parameters_of_class(name, objective) if isinstance(objective, type) else []


def build_objective(name: str, values: Mapping[str, Any]) -> Objective:
    """The objective registered as `name`.

    Args:
        values: parameter -> value, as a configuration holds them; those left out have their defaults.

    Raises:
        UnknownKeyError: it has no such parameter.
        ConfigError: no such objective, or a value of another type or beyond what the parameter may be.
    """
    objective, parameters = get_objective(name), {p.name: p for p in parameters_of(name)}
    for key in values:
        if key not in parameters:
            raise UnknownKeyError(f"objective.{key}", {f"objective.{known}" for known in (*RESERVED, *parameters)})
    typed = {key: _typed(parameters[key], value) for key, value in values.items()}
    if not isinstance(objective, type):
        return OfLogProbs(objective)
    try:
        return objective(**typed)
    except ValueError as error:
        parameter, _, rest = str(error).partition(":")
        if parameter not in parameters:
            raise
        raise ConfigError(f"objective.{parameter}", given=typed.get(parameter), expected=_expected(rest)) from error


def _expected(message: str) -> str:
    _, found, expected = message.partition(", expected ")
    return expected if found else message.strip()


def _typed(parameter: Parameter, value: Any) -> Any:
    key, kinds = f"objective.{parameter.name}", _alternatives(parameter.type)
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        if typing.get_origin(kind) is Literal and value in typing.get_args(kind):
            return value
        if kind is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        if kind in (int, bool, str) and type(value) is kind:
            return value
    raise ConfigError(key, given=value, expected=" or ".join(_words(kind) for kind in kinds))


def _words(kind: Any) -> str:
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(str, typing.get_args(kind)))
    names = {int: "a whole number", float: "a number", bool: "True or False", str: "text", type(None): "null"}
    return names[kind]


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return typing.get_args(kind) if typing.get_origin(kind) in (typing.Union, types.UnionType) else (kind,)


def _parameters_of_class(name: str, objective: type[Objective]) -> list[Parameter]:
    if not issubclass(objective, Objective) or not is_dataclass(objective):
        raise ValueError(f"objective {name!r}: {objective.__name__} has to be a dataclass and a subclass of Objective")
    kinds = typing.get_type_hints(objective)
    found = []
    for field in fields(objective):
        kind = kinds[field.name]
        if field.name in RESERVED:
            raise ValueError(f"objective {name!r}: the name {field.name!r} has another meaning")
        if field.default is MISSING:
            raise ValueError(f"objective {name!r}: the parameter {field.name} has no default")
        if not all(
            kind in (int, float, bool, str, type(None)) or typing.get_origin(kind) is Literal
            for kind in _alternatives(kind)
        ):
            raise ValueError(
                f"objective {name!r}: the parameter {field.name} is {kind}, which no command line can give"
            )
        found.append(Parameter(field.name, kind, field.default))
    return found


def _load_own() -> None:
    """Import every module of this folder, so that a new file is enough to add an objective."""
    import verl_ext.objectives as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
