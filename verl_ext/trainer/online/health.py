"""Waiting that ends: a dead actor ends the run with the reason, and what takes long says what it is."""

from __future__ import annotations

import concurrent.futures
import logging
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NoReturn

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError

from verl_ext.trainer.run.exits import WorkerDiedError

logger = logging.getLogger(__name__)

PATIENCE_S = 5.0
SAY_EVERY_S = 60.0
"""How often a long wait says what it waits for."""


def wait_for(future: Future, what: str, *, limit_s: float, say_every_s: float = SAY_EVERY_S) -> Any:
    """The result of a future, however it ends; every minute of waiting says what for.

    Raises:
        WorkerDiedError: it has none within `limit_s` seconds.
    """
    started = time.monotonic()
    while (waited := time.monotonic() - started) < limit_s:
        done, _ = concurrent.futures.wait([future], timeout=min(say_every_s, limit_s - waited))
        if done:
            return future.result()
        logger.warning("waiting for %s for %.0f s", what, time.monotonic() - started)
    raise WorkerDiedError(f"{what} did not start within {limit_s:g} s; Ray's own log says what it lacks")


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
