"""The door of a worker process. Kept apart so that the host, which only hands out work, never imports sympy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from verl_ext.reward.confined import Outcome
    from verl_ext.reward.grader import Undecided


def start(memory_mb: int) -> None:
    """Prepare this process: everything is imported (by `warm`, before the fork) and then given up."""
    from verl_ext.reward import confined, warm  # noqa: F401

    confined.confine(memory_mb)


def run(undecided: Undecided, timeout_s: float) -> tuple[Outcome, float]:
    """See `confined.run`."""
    from verl_ext.reward import confined

    return confined.run(undecided, timeout_s)
