"""The actor through which a sender of weights and its receivers find each other's buckets.

In a module of its own without torch or verl: there is a new actor for each update of the weights, and its process
would need seconds to load them.
"""

from __future__ import annotations

import asyncio

import ray

BUCKETS_AHEAD = 2
"""Buckets in the store that some receiver has not finished with; the sender waits for the slowest."""


class BucketMailbox:
    """Hands references to buckets from one sender to several receivers, in order.

    Args:
        receivers: how many.
    """

    def __init__(self, receivers: int) -> None:
        self._queues: list[asyncio.Queue] = [asyncio.Queue(maxsize=BUCKETS_AHEAD) for _ in range(receivers)]

    async def post(self, boxed: list[ray.ObjectRef] | Exception | None) -> None:
        """Hand out a boxed reference; None: there are no more; an error: there will be no more."""
        await asyncio.gather(*[queue.put(boxed) for queue in self._queues])

    async def take(self, receiver: int) -> list[ray.ObjectRef] | Exception | None:
        """What comes next for a receiver."""
        return await self._queues[receiver].get()
