"""A generation server of the engine `hf`: a Ray actor whose requests are awaited and whose weights a trainer replaces."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import ray
from verl.utils.config import omega_conf_to_dataclass
from verl.utils.tokenizer import normalize_token_ids
from verl.workers.config import HFModelConfig
from verl.workers.rollout.replica import RolloutMode, TokenOutput

from verl_ext.errors import ConfigError
from verl_ext.platform.cpu_memory import keep_memory_small, trim_heap
from verl_ext.rollout.generation_loop import GenerationFailedError, GenerationLoop
from verl_ext.rollout.hf_model import build_generator, build_model
from verl_ext.rollout.settings import HFSettings
from verl_ext.rollout.weights import Bucket, ModelWeights

STOP_REASONS = {"stop": "completed", "length": "completed", "abort": "aborted"}
"""What verl's clients know: an aborted request is sent again with what it has."""

DRAIN_POLL_S = 0.01


class HFServer:
    """What verl asks of a generation server, over a `GenerationLoop`.

    Requests wait while generation is paused (between `abort_all_requests` and `resume_generation`) and while the server
    sleeps without weights. A weight update is seen by no forward pass until it is complete: generation stands still
    from `begin_update` to `finish_update`. An update that fails, or whose sender falls silent, ends all requests with
    the reason.

    Args:
        config: verl's RolloutConfig.
        model_config: verl's HFModelConfig, or the group of the configuration that becomes one.
        rollout_mode: how the server shares its machine with training.
        replica_rank: number of the server.
        threads: of torch.
    """

    def __init__(
        self, config: Any, model_config: Any, rollout_mode: RolloutMode, replica_rank: int, threads: int
    ) -> None:
        keep_memory_small()
        self.config = omega_conf_to_dataclass(config)
        self.model_config = omega_conf_to_dataclass(model_config, dataclass_type=HFModelConfig)
        self.settings = HFSettings(self.config, self.model_config)
        self.rollout_mode = rollout_mode
        self.replica_rank = replica_rank
        self.threads = threads
        self._paused = False
        self._rejecting = False
        self._resumed = asyncio.Event()
        self._has_weights = asyncio.Event()
        self._weights_error: GenerationFailedError | None = None
        self._watch: asyncio.TimerHandle | None = None

    async def launch(self) -> str:
        """Build the model and start generating; returns the address of this server."""
        if self.rollout_mode is not RolloutMode.HYBRID and "dummy" in self.config.load_format:
            self.config.load_format = "auto"  # as verl's servers do: nobody else may bring weights
        load_weights = "dummy" not in self.config.load_format
        await asyncio.to_thread(self._build, load_weights)
        if load_weights:
            self._has_weights.set()
        else:
            self._weights_error = GenerationFailedError(
                f"rollout server {self.replica_rank} has no weights: load_format={self.config.load_format}, and no "
                "trainer has sent any"
            )
        return f"{ray.util.get_node_ip_address().strip('[]')}/hf_server_{self.replica_rank}/{os.getpid()}"

    def _build(self, load_weights: bool) -> None:
        model = build_model(self.model_config, self.settings, load_weights=load_weights)
        seed = self.config.seed + self.replica_rank
        self._generator = build_generator(model, self.model_config, self.settings, seed=seed)
        self._weights = ModelWeights(model)
        self._loop = GenerationLoop(self._generator, threads=self.threads)

    async def generate(
        self,
        prompt_ids: list[int],
        sampling_params: dict[str, Any],
        request_id: str,
        image_data: list[Any] | None = None,
        video_data: list[Any] | None = None,
        audio_data: list[Any] | None = None,
        mm_processor_kwargs: dict[str, Any] | None = None,
    ) -> TokenOutput:
        """Continue a prompt.

        Args:
            prompt_ids: tokens of the prompt.
            sampling_params: see `HFSettings.sampling_params`; `logprobs` says whether to return log-probs.
            request_id: unique among those that have not ended.

        Returns:
            The response's tokens and, if asked for, their log-probs (see `Generation`). `stop_reason` is "completed",
            or "aborted" with the tokens so far. `extra_fields["global_steps"]`: the version of the weights at the end.

        Raises:
            UserError: a prompt or a parameter that cannot work.
            GenerationFailedError: generation or a weight update has failed.
        """
        if image_data or video_data or audio_data:
            raise ConfigError(
                "actor_rollout_ref.rollout.name", given="hf", expected="vllm or sglang for images and sound"
            )
        prompt_ids = normalize_token_ids(prompt_ids)
        params = self.settings.sampling_params(
            sampling_params,
            prompt_length=len(prompt_ids),
            max_model_len=self._generator.max_model_len,
            request_id=request_id,
            replica_rank=self.replica_rank,
        )
        wants_log_probs = bool(sampling_params.get("logprobs"))
        if not await self._admitted():
            return self._output([], [], "abort", wants_log_probs, self._loop.version)
        answer = self._loop.submit(request_id, prompt_ids, params)
        try:
            generation, version = await asyncio.wrap_future(answer)
        except asyncio.CancelledError:  # nobody waits for it any more
            self._loop.abort(request_id)
            raise
        return self._output(
            generation.token_ids, generation.log_probs, generation.finish_reason, wants_log_probs, version
        )

    async def _admitted(self) -> bool:
        """Wait until requests are let in; False: this one is turned away, its client asks another server."""
        while True:
            if self._paused and self._rejecting:
                return False
            if self._paused:
                await self._resumed.wait()
            elif self._has_weights.is_set():
                return True
            elif self._weights_error is not None:
                raise self._weights_error
            else:
                await self._has_weights.wait()

    @staticmethod
    def _output(
        token_ids: list[int], log_probs: list[float], reason: str, wants_log_probs: bool, version: int | None
    ) -> TokenOutput:
        return TokenOutput(
            token_ids=token_ids,
            log_probs=log_probs if wants_log_probs else None,
            stop_reason=STOP_REASONS[reason],
            extra_fields={"global_steps": version},
        )

    async def abort_request(self, request_id: str) -> dict[str, Any]:
        """End a request with the tokens that it has."""
        ended = await asyncio.wrap_future(self._loop.abort(request_id))
        return {"aborted": bool(ended), "request_id": request_id}

    async def abort_all_requests(self, reject_request: bool = False) -> dict[str, Any]:
        """Pause: end every request with the tokens that it has, and let none in until `resume_generation`.

        Args:
            reject_request: turn new requests away instead of letting them wait.
        """
        self._paused, self._rejecting = True, reject_request
        self._wake_waiting()
        ended = await asyncio.wrap_future(self._loop.abort())
        return {"aborted_count": len(ended), "request_ids": ended}

    async def resume_generation(self) -> None:
        """Let requests in again."""
        self._paused = self._rejecting = False
        self._wake_waiting()

    def _wake_waiting(self) -> None:
        """Those who wait for an end of the pause look again at how things stand."""
        self._resumed.set()
        self._resumed = asyncio.Event()

    async def begin_update(self) -> None:
        """Stop generating; weights follow."""
        await asyncio.wrap_future(self._loop.hold())
        await asyncio.wrap_future(self._loop.call(self._weights.begin))
        self._watch_update()

    async def load_bucket(self, bucket: Bucket) -> None:
        """Write a part of the weights.

        Raises:
            WeightMismatchError: they are not this model's; the update has failed.
        """
        try:
            await asyncio.wrap_future(self._loop.call(lambda: self._weights.load(bucket)))
        except Exception as error:
            await self.fail_update(str(error))
            raise
        self._watch_update()

    async def finish_update(self, global_steps: int | None) -> None:
        """Generate with the new weights.

        Args:
            global_steps: their version; None leaves it as it is.

        Raises:
            WeightMismatchError: some weights have not come; the update has failed.
        """

        def finish() -> None:
            self._weights.finish()
            self._generator.weights_changed()
            if global_steps is not None:
                self._loop.version = global_steps

        self._end_watch()
        try:
            await asyncio.wrap_future(self._loop.call(finish))
        except Exception as error:
            await self.fail_update(str(error))
            raise
        self._weights_error = None
        self._has_weights.set()
        await asyncio.wrap_future(self._loop.release())

    async def fail_update(self, reason: str) -> None:
        """Give an update up: the weights are neither the old nor the new ones, and requests get the reason."""
        self._end_watch()
        self._weights_error = GenerationFailedError(
            f"rollout server {self.replica_rank} has no weights: their update failed: {reason}"
        )
        # Who waits for weights must see the error: set, so that they look, and cleared before they do.
        self._has_weights.set()
        self._has_weights.clear()
        await asyncio.wrap_future(self._loop.fail_requests(self._weights_error))

    def _watch_update(self) -> None:
        self._end_watch()
        seconds = self.settings.options.update_timeout_s
        reason = f"no weights came for {seconds:g} s"
        loop = asyncio.get_running_loop()
        self._watch = loop.call_later(seconds, lambda: loop.create_task(self.fail_update(reason)))

    def _end_watch(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None

    async def sleep(self) -> None:
        """Give memory back while training needs it: keys and values, and weights that training will send again.

        Waits for the requests that run.
        """
        if not self.config.free_cache_engine or self.rollout_mode is RolloutMode.STANDALONE:
            return
        await self.release_kv_cache()
        if self.rollout_mode is RolloutMode.HYBRID:
            self._has_weights.clear()
            await asyncio.wrap_future(self._loop.call(self._weights.discard))

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Nothing to do: memory for weights comes with their update, that for keys and values with requests."""

    async def release_kv_cache(self) -> None:
        """Give the memory of keys and values back, once the requests that run have ended."""
        while await asyncio.wrap_future(self._loop.unfinished()):
            await asyncio.sleep(DRAIN_POLL_S)
        await asyncio.wrap_future(self._loop.call(self._generator.release_memory))
        trim_heap()

    async def resume_kv_cache(self) -> None:
        """Nothing to do: see `wake_up`."""

    async def clear_kv_cache(self) -> None:
        """Nothing to do: keys and values are shared among requests of the same weights only."""

    async def set_global_steps(self, global_steps: int) -> None:
        """Say which version the weights are."""

        def set_version() -> None:
            self._loop.version = global_steps

        await asyncio.wrap_future(self._loop.call(set_version))

    def get_rollout_config(self) -> Any:
        return self.config

    async def start_profile(self, **kwargs: Any) -> None:
        """This engine has no profiler of its own."""

    async def stop_profile(self) -> None:
        """This engine has no profiler of its own."""
