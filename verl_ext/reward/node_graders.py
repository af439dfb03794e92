"""One pool of grader processes per node, shared by all reward workers there, in a Ray actor that Ray restarts.

It holds the slots of programs as well. An answer that was under way when the actor was killed is graded again by its
successor.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from typing import Any

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from verl_ext.errors import ConfigError
from verl_ext.reward.code.grade import DEFAULTS, shared_code_grader
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.grading import Grade, Undecided
from verl_ext.reward.options import RewardOptions
from verl_ext.reward.pool import GraderPool

MAX_CONCURRENT = 10_000
MAX_ATTEMPTS = 20


class GraderActor:
    """Holds the pool."""

    def __init__(
        self, workers: int, timeout_s: float, memory_mb: int, evaluating_scorers: tuple[str, ...], code: CodeOptions
    ) -> None:
        self._pool = GraderPool(workers, timeout_s, memory_mb, evaluating_scorers)
        self._workers, self._code = workers, code

    async def decide(self, undecided: Undecided) -> Grade:
        """See `GraderPool.decide`."""
        return await asyncio.wrap_future(self._pool.send(undecided))

    async def grade_program(self, response: str, gold: str) -> Grade:
        """See `CodeGrader.submit`."""
        grader = await asyncio.to_thread(shared_code_grader, self._workers, self._code)
        return await asyncio.wrap_future(grader.submit(response, gold))

    def pid(self) -> int:
        """The actor's process id."""
        return os.getpid()


class NodeGraders:
    """The way to this node's `GraderActor`, and for programs to those of the machines with a Ray resource; an actor is
    started by whoever needs it first.

    Args:
        options: of grading.
        code: how programs are run, and where (`code.resource`).

    Raises:
        ConfigError: no machine of the cluster has the resource.
    """

    def __init__(self, options: RewardOptions, code: CodeOptions = DEFAULTS) -> None:
        self._arguments = (
            options.workers,
            options.timeout_s,
            options.memory_mb,
            tuple(sorted(options.evaluating_scorers)),
            code,
        )
        self._own = ray.get_runtime_context().get_node_id()
        self._for_programs = _nodes_with(code) if code.resource else [self._own]
        # Neighbours begin at different machines.
        self._turn = itertools.count(int(self._own[:8], 16) + os.getpid())
        self._actors: dict[str, ray.actor.ActorHandle] = {}
        self._actor_of(self._own)

    def _actor_of(self, node: str) -> ray.actor.ActorHandle:
        if node not in self._actors:
            *limits, scorers, code = self._arguments
            kinds = hashlib.sha256(repr((scorers, code)).encode()).hexdigest()[:8]
            self._actors[node] = (
                ray.remote(GraderActor)
                .options(
                    name="-".join(["verl_ext_grader", node, *(f"{limit:g}" for limit in limits), kinds]),
                    get_if_exists=True,
                    num_cpus=0,
                    max_restarts=-1,
                    max_task_retries=-1,
                    max_concurrency=MAX_CONCURRENT,
                    scheduling_strategy=NodeAffinitySchedulingStrategy(node_id=node, soft=True),
                )
                .remote(*self._arguments)
            )
        return self._actors[node]

    async def decide(self, undecided: Undecided) -> Grade:
        """Grade in this node's actor."""
        return await self._call(self._own, "decide", undecided)

    async def grade_program(self, response: str, gold: str) -> Grade:
        """Grade a program, on the next of the machines for programs."""
        node = self._for_programs[next(self._turn) % len(self._for_programs)]
        return await self._call(node, "grade_program", response, gold)

    async def pid(self) -> int:
        """Process id of this node's actor."""
        return await self._call(self._own, "pid")

    async def _call(self, node: str, method: str, *arguments: Any) -> Any:
        """The actor belongs to the process that started it; when that one is gone, another is started."""
        for _ in range(MAX_ATTEMPTS - 1):
            try:
                return await getattr(self._actor_of(node), method).remote(*arguments)
            except (ActorDiedError, ActorUnavailableError):
                await asyncio.sleep(0.5)
                self._actors.pop(node, None)
        return await getattr(self._actor_of(node), method).remote(*arguments)


def _nodes_with(code: CodeOptions) -> list[str]:
    """The living nodes that have the resource for programs.

    Raises:
        ConfigError: there are none.
    """
    nodes = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["Resources"].get(code.resource)]
    if not nodes:
        raise ConfigError(
            f"{code.key}resource", given=code.resource, expected="a Ray resource that a machine of the cluster has"
        )
    return sorted(nodes)
