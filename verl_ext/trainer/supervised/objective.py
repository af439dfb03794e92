"""From the group `objective` of a configuration to the objective."""

from __future__ import annotations

import importlib
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from verl_ext.errors import UserError, first_line
from verl_ext.objectives.objective import Objective
from verl_ext.objectives.registry import RESERVED, build_objective, parameters_of


def complete_objective(config: DictConfig) -> Objective:
    """The objective that a configuration names; writes the defaults of its parameters into the configuration.

    Modules in `model.external_lib` are imported first: they may register it.

    Raises:
        UserError: there is no such module, objective or parameter, or a value cannot work.
    """
    _import_external(config.model.external_lib)
    objective = objective_of(config)
    with open_dict(config):
        for parameter in parameters_of(config.objective.name):
            config.objective[parameter.name] = getattr(objective, parameter.name)
    return objective


def objective_of(config: DictConfig) -> Objective:
    """The objective of a configuration whose modules are imported.

    Raises:
        UserError: see `complete_objective`.
    """
    group: dict[str, Any] = OmegaConf.to_container(config.objective, resolve=True)
    return build_objective(group["name"], {key: value for key, value in group.items() if key not in RESERVED})


def _import_external(modules: Any) -> None:
    if not modules:
        return
    for module in [modules] if isinstance(modules, str) else modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            raise UserError(
                f"model.external_lib: no module {module!r}; it has to be on PYTHONPATH ({first_line(error)})"
            ) from error
