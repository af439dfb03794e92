"""reasoning-gym tasks whose scorer runs text as Python: used only where their names are given."""

from __future__ import annotations

from collections.abc import Collection

from verl_ext.errors import ConfigError

PREFIX = "reasoning_gym/"
KEY = "evaluating_scorers"
"""The argument of whoever makes a pool; as a key of `reward.reward_kwargs` and of the evaluation it has the same name."""

EVALUATING = frozenset(
    {
        # eval(answer)
        *("binary_matrix", "n_queens", "spiral_matrix", "string_insertion"),
        # sympy's parse_expr(answer), which evaluates what it has rewritten
        *("countdown", "intermediate_integration", "polynomial_multiplication", "puzzle24", "simple_integration"),
        # eval of a text in the row's entry
        *("bitwise_arithmetic", "number_sorting"),
        # hands the answer to the scorers of other tasks
        "composite",
    }
)
"""The tasks of reasoning-gym 0.1.25 whose `score_answer` evaluates text as Python."""


def evaluates(task: str) -> bool:
    """Whether the scorer of a reasoning-gym task runs text as Python."""
    return task in EVALUATING


def check_names(allowed: Collection[str], key: str = KEY) -> None:
    """Refuse names that allow nothing.

    Raises:
        ConfigError: a name of no task whose scorer evaluates.
    """
    for name in sorted(set(allowed) - EVALUATING):
        raise ConfigError(key, given=name, expected=f"tasks whose scorer evaluates: {', '.join(sorted(EVALUATING))}")


def require_allowed(task: str, allowed: Collection[str], key: str = KEY) -> None:
    """Refuse a task whose scorer evaluates text, unless it is among those that the user named.

    Raises:
        ConfigError: names the key, and what to put there.
    """
    if evaluates(task) and task not in allowed:
        raise ConfigError(
            key,
            given=sorted(allowed),
            expected=f"{task} among them for data source {PREFIX + task!r}: its scorer runs text as Python",
        )
