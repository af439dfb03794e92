"""Ways in which an online run ends before its time."""

from __future__ import annotations

from verl_ext.errors import UserError


class WorkerDiedError(RuntimeError):
    """A process that the run depends on has died, or cannot do its work."""


class NoGroupsError(RuntimeError):
    """Dynamic sampling reached its bound without a single usable group."""


class TrainingDivergedError(UserError):
    """Too many updates in a row had a gradient that is not finite."""
