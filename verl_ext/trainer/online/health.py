"""Whether the Ray actors that a run depends on are alive: a dead one ends the run with the reason, not with a hang."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import NoReturn

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from verl_ext.trainer.run.exits import WorkerDiedError

PATIENCE_S = 5.0


class ActorWatch:
    """Asks actors whether they live, without waiting for an answer.

    Args:
        actors: what each one is, in words for the user -> its handle.
    """

    def __init__(self, actors: Mapping[str, ActorHandle]) -> None:
        self._actors = dict(actors)
        self._questions = {name: actor.__ray_ready__.remote() for name, actor in self._actors.items()}

    def check(self) -> None:
        """Look at the answers that have come since, and ask again.

        Raises:
            WorkerDiedError: an actor has died; says which, and Ray's reason.
        """
        for name, question in self._questions.items():
            answered, _ = ray.wait([question], timeout=0)
            if not answered:  # at work, or starting
                continue
            try:
                ray.get(answered)
            except RayActorError as error:
                raise WorkerDiedError(f"{name} died: {_reason(error)}") from error
            self._questions[name] = self._actors[name].__ray_ready__.remote()

    def explain(self, error: RayActorError) -> NoReturn:
        """Say which actor was behind an error that a call of another one brought up.

        Ray tells of a death a moment after the calls that it broke, hence the patience.

        Raises:
            WorkerDiedError: always; without a name if none of these actors has died.
        """
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            self.check()
            time.sleep(0.1)
        raise WorkerDiedError(f"a worker died: {_reason(error)}") from error


def _reason(error: RayActorError) -> str:
    """Ray's message in one line; it begins with the class name and ends with advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:600]
