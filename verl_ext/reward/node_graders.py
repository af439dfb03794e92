"""One pool of grader processes per node, shared by all reward workers there, in a Ray actor that Ray restarts.

An answer that was under way when the actor was killed is graded again by its successor.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from verl_ext.reward.grading import Grade, Undecided
from verl_ext.reward.options import RewardOptions
from verl_ext.reward.pool import GraderPool

MAX_CONCURRENT = 10_000
MAX_ATTEMPTS = 20


class GraderActor:
    """Holds the pool."""

    def __init__(self, workers: int, timeout_s: float, memory_mb: int, evaluating_scorers: tuple[str, ...]) -> None:
        self._pool = GraderPool(workers, timeout_s, memory_mb, evaluating_scorers)

    async def decide(self, undecided: Undecided) -> Grade:
        """See `GraderPool.decide`."""
        return await asyncio.wrap_future(self._pool.send(undecided))

    def pid(self) -> int:
        """The actor's process id."""
        return os.getpid()


class NodeGraders:
    """The way to this node's `GraderActor`, started by whoever needs it first."""

    def __init__(self, options: RewardOptions) -> None:
        self._arguments = (
            options.workers,
            options.timeout_s,
            options.memory_mb,
            tuple(sorted(options.evaluating_scorers)),
        )
        self._actor = self._find()

    def _find(self) -> ray.actor.ActorHandle:
        node = ray.get_runtime_context().get_node_id()
        *limits, scorers = self._arguments
        name = "-".join(["verl_ext_grader", node, *(f"{limit:g}" for limit in limits), *scorers])
        return (
            ray.remote(GraderActor)
            .options(
                name=name,
                get_if_exists=True,
                num_cpus=0,
                max_restarts=-1,
                max_task_retries=-1,
                max_concurrency=MAX_CONCURRENT,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=True),
            )
            .remote(*self._arguments)
        )

    async def decide(self, undecided: Undecided) -> Grade:
        """Grade in the actor."""
        return await self._call("decide", undecided)

    async def pid(self) -> int:
        """Process id of the actor."""
        return await self._call("pid")

    async def _call(self, method: str, *arguments: Any) -> Any:
        """The actor belongs to the process that started it; when that one is gone, another is started."""
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await getattr(self._actor, method).remote(*arguments)
            except (ActorDiedError, ActorUnavailableError):
                await asyncio.sleep(0.5)
                self._actor = self._find()
        return await getattr(self._actor, method).remote(*arguments)
