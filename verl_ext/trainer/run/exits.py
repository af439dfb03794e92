"""How a run can end, beside well: the exit codes that every trainer shares, and what leads to them."""

from __future__ import annotations

from verl_ext.errors import UserError

DIVERGED_EXIT_CODE = 3
"""Going on would be in vain: gradients that are not finite, or nothing to learn from."""
WORKER_DIED_EXIT_CODE = 4
ABORTED_EXIT_CODE = 130
"""A second Ctrl-C: nothing was saved."""
INTERRUPTED_EXIT_CODE = 75
"""EX_TEMPFAIL: the run stopped early and was saved; the same command continues it."""


class TrainingDivergedError(UserError):
    """Too many updates in a row had a gradient that is not finite."""


class NothingToLearnError(UserError):
    """Step after step generates answers from which nothing can be learned."""


class WorkerDiedError(RuntimeError):
    """A process that the run depends on has died, or cannot do its work."""
