"""verl's agent loop workers, which try what failed once more and then say why it failed."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import ray
import transfer_queue as tq
from ray.exceptions import RayTaskError
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ, AgentLoopWorkerTQ

from verl_ext.errors import first_line
from verl_ext.trainer.online.outcomes import REASON

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1.0
"""A service that was too busy, or a connection that broke, is given a moment."""
MAX_REASON = 300
"""Characters."""


class RetryingAgentLoopWorker(AgentLoopWorkerTQ.__ray_actor_class__):
    """A sample whose generation or grading raises is made anew: the same prompt with the same seed.

    The other samples of its group stay. Where it fails again the group has failed, and its prompt's tag in TransferQueue
    says why.
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        # Ray sends each method of an actor by value, an inherited one too, and with it the class that its `super()`
        # names: of verl's class, whose name in its module is Ray's wrapper, that would be a copy, which is no base of
        # this one. A method of verl's that calls `super()` therefore has to be reached through one of ours.
        super().__init__(*arguments, **named)

    async def _run_agent_loop(
        self, sampling_params: dict[str, Any], trajectory: dict[str, Any], **arguments: Any
    ) -> None:
        try:
            return await super()._run_agent_loop(dict(sampling_params), trajectory, **arguments)
        except Exception as error:  # noqa: BLE001  whatever the agent loop or the reward of a user raises
            logger.warning(
                "prompt %s, sample %s: %s; trying once more",
                arguments["uid"],
                arguments["session_id"],
                failure_reason(error),
            )
        await asyncio.sleep(RETRY_AFTER_S)
        try:
            return await super()._run_agent_loop(dict(sampling_params), trajectory, **arguments)
        except Exception as error:
            partition = "val" if trajectory["validate"] else "train"
            await tq.async_kv_put(key=arguments["uid"], partition_id=partition, tag={REASON: failure_reason(error)})
            raise


class OnlineAgentLoopManager(AgentLoopManagerTQ):
    """verl's, with the workers above."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.agent_loop_workers_class = ray.remote(RetryingAgentLoopWorker)


def failure_reason(error: Exception) -> str:
    """What went wrong, in one line; behind Ray's account of it, what was raised there."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    return f"{type(cause).__name__}: {first_line(cause)}"[:MAX_REASON]
