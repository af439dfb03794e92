"""Objectives of supervised training by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

TokenLoss = Callable[[Tensor], Tensor]
"""log p of the target tokens, natural log, any shape -> loss of each, same shape, not masked, not reduced."""

_objectives: dict[str, TokenLoss] = {}


def register_objective(name: str) -> Callable[[TokenLoss], TokenLoss]:
    """Make a token loss available as `objective.name=<name>`.

    Raises:
        ValueError: the name is taken.
    """

    def register(token_loss: TokenLoss) -> TokenLoss:
        if _objectives.get(name, token_loss) is not token_loss:
            raise ValueError(f"objective {name!r} is already registered")
        _objectives[name] = token_loss
        return token_loss

    return register


def objective_names() -> list[str]:
    """Names of all registered objectives, sorted."""
    _load_own()
    return sorted(_objectives)


def get_objective(name: str) -> TokenLoss:
    """The token loss registered as `name`.

    Raises:
        KeyError: no such objective.
    """
    _load_own()
    return _objectives[name]


def _load_own() -> None:
    """Import every module of this folder, so that a new file is enough to add an objective."""
    import importlib
    import pkgutil

    import verl_ext.objectives as folder

    for module in pkgutil.iter_modules(folder.__path__):
        importlib.import_module(f"{folder.__name__}.{module.name}")
