"""Weights from trainers to servers of their own through Ray's object store: one machine or several, no GPU.

verl's engines for this (`nccl`, `hccl`, `nixl`, ...) need an accelerator or a transport that a plain machine has not.
`actor_rollout_ref.rollout.checkpoint_engine.backend=ray_object_store` puts each bucket once into the store, which is
shared memory on the machine and fetches it once to every other.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from verl.checkpoint_engine.base import CheckpointEngine, CheckpointEngineRegistry
from verl.workers.rollout.utils import ensure_async_iterator

from verl_ext.rollout.bucket_mailbox import BucketMailbox
from verl_ext.rollout.weights import pack_buckets

NAME = "ray_object_store"


class RayObjectStoreEngine(CheckpointEngine):
    """One end of the transfer.

    Args:
        bucket_size: in bytes.
        is_master: whether this rank of the trainer sends; the others only help to gather.
    """

    def __init__(self, bucket_size: int, is_master: bool = False) -> None:
        self.bucket_size = bucket_size
        self.is_master = is_master
        self._mailbox: ActorHandle | None = None
        self._receiver = -1

    def prepare(self) -> str:
        """The machine of this process, where the mailbox goes if it is the sender's."""
        return ray.get_runtime_context().get_node_id()

    @classmethod
    def build_topology(
        cls, actor_wg_world_size: int, rollout_world_size: int, metadata: list[str]
    ) -> tuple[dict[str, list[Any]], dict[str, list[Any]]]:
        """Give all of them one mailbox, and each receiver its number."""
        mailbox = ray.remote(BucketMailbox).options(num_cpus=0).remote(rollout_world_size)
        senders = {"mailbox": [mailbox] * actor_wg_world_size, "receiver": [-1] * actor_wg_world_size}
        receivers = {"mailbox": [mailbox] * rollout_world_size, "receiver": list(range(rollout_world_size))}
        return senders, receivers

    def init_process_group(self, mailbox: ActorHandle, receiver: int) -> None:
        self._mailbox, self._receiver = mailbox, receiver

    def finalize(self) -> None:
        """Forget the mailbox, which ends with the last one who knows it."""
        self._mailbox = None

    @torch.no_grad()
    async def send_weights(self, weights: Iterable[tuple[str, torch.Tensor]], global_steps: int | None = None) -> None:
        """Send the weights; see `CheckpointEngine`."""
        if not self.is_master:
            async for _ in ensure_async_iterator(weights):
                pass
            return
        try:
            async for bucket in pack_buckets(weights, bucket_bytes=self.bucket_size):
                await self._mailbox.post.remote([ray.put(bucket)])
        except Exception as error:
            await self._mailbox.post.remote(RuntimeError(f"the trainer could not send its weights: {error}"))
            raise
        await self._mailbox.post.remote(None)

    async def receive_weights(self, global_steps: int | None = None) -> AsyncIterator[tuple[str, torch.Tensor]]:
        """Yield the weights; see `CheckpointEngine`. They are views of the object store: not to be written to."""
        while (boxed := await self._mailbox.take.remote(self._receiver)) is not None:
            if isinstance(boxed, Exception):
                raise boxed
            for packed in await boxed[0]:
                yield packed.name, packed.unpack()


def register_checkpoint_engine() -> None:
    """Make it known to verl as `NAME`."""
    CheckpointEngineRegistry.register(NAME)(RayObjectStoreEngine)
