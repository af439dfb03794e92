"""The side of the engine `hf` that lives in a trainer's rank: it sends the weights to the server of its group."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import ray
import torch
from ray.actor import ActorHandle
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.utils import ensure_async_iterator

from verl_ext.rollout.hf_replica import server_name
from verl_ext.rollout.settings import HFSettings
from verl_ext.rollout.weights import pack_buckets


class HFServerAdapter(BaseRollout):
    """Sends weights to one server; of the ranks that share it, the first one does.

    Args:
        config: verl's RolloutConfig.
        model_config: verl's HFModelConfig.
        device_mesh: not used.
        replica_rank: of the server; -1: the one that this rank's number says.
    """

    def __init__(self, config: Any, model_config: Any, device_mesh: Any, replica_rank: int = -1) -> None:
        super().__init__(config, model_config, device_mesh)
        self.settings = HFSettings(self.config, self.model_config)
        server_index, rank_in_group = divmod(int(os.environ["RANK"]), self.settings.ranks_per_server)
        self.replica_rank = server_index if replica_rank == -1 else replica_rank
        self.is_leader_rank = rank_in_group == 0
        self._server: ActorHandle | None = None

    async def resume(self, tags: list[str]) -> None:
        """Nothing to do: see `HFServer.wake_up`."""

    async def release(self) -> None:
        """Let the server sleep."""
        if self.is_leader_rank:
            await self._get_server().sleep.remote()

    @torch.no_grad()
    async def update_weights(
        self,
        weights: Iterable[tuple[str, torch.Tensor]],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Replace the weights of the server.

        Every rank walks through the weights, since gathering them takes all; one of them sends.

        Args:
            weights: pairs of name and whole tensor, an ordinary or an asynchronous iterable.
            wire_format: "named_tensors"; this engine takes no deltas.
            global_steps: their version.

        Raises:
            WeightMismatchError: they are not those of the server's model.
        """
        if wire_format != "named_tensors":
            raise NotImplementedError(f"rollout.name=hf takes whole weights, not wire_format={wire_format!r}")
        if not self.is_leader_rank:
            async for _ in ensure_async_iterator(weights):
                pass
            return
        server = self._get_server()
        bucket_bytes = self.config.checkpoint_engine.update_weights_bucket_megabytes << 20
        await server.begin_update.remote()
        try:
            written = None
            async for bucket in pack_buckets(weights, bucket_bytes=bucket_bytes, dtype=self.settings.dtype):
                if written is not None:
                    await written  # at most one bucket is under way while the next one is gathered
                written = server.load_bucket.remote(bucket)
            if written is not None:
                await written
        except Exception as error:
            await server.fail_update.remote(str(error))
            raise
        await server.finish_update.remote(global_steps)

    def _get_server(self) -> ActorHandle:
        if self._server is None:  # it is launched after the ranks
            self._server = ray.get_actor(server_name(self.replica_rank))
        return self._server
