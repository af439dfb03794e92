"""Generation with SGLang's offline engine, which spreads requests over its copies of the model itself."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.evaluation.engines import Completion, Request, sglang_params
from verl_ext.evaluation.engines.as_finished import as_finished
from verl_ext.evaluation.prompts import PromptBuilder

AT_ONCE = 2048
"""Requests handed over at a time; SGLang queues what it cannot run yet."""


class SGLangEngine:
    """SGLang with a copy of the model for each group of `tensor_parallel_size` GPUs.

    Deterministic inference is on, without which SGLang ignores the seeds of requests.

    Raises:
        UserError: SGLang is not installed, the GPUs do not divide, or it does not start.
    """

    def __init__(self, config: EvaluationConfig, model_path: str, builder: PromptBuilder, longest: int) -> None:
        if find_spec("sglang") is None:
            raise ConfigError("engine", given="sglang", expected="transformers, or SGLang installed (docs/install.md)")
        import sglang
        import torch

        gpus, size = torch.cuda.device_count(), config.tensor_parallel_size
        if gpus % size:
            raise ConfigError("tensor_parallel_size", given=size, expected=f"a number that divides the {gpus} GPUs")
        arguments = {"max_running_requests": config.max_num_seqs} if config.max_num_seqs else {}
        try:
            self._engine = sglang.Engine(
                model_path=model_path,
                tokenizer_path=config.tokenizer or model_path,
                trust_remote_code=config.trust_remote_code,
                dtype=config.dtype,
                context_length=longest,
                tp_size=size,
                dp_size=max(gpus // size, 1),
                mem_fraction_static=config.gpu_memory_utilization,
                enable_deterministic_inference=True,
                **arguments,
            )
        except (ValueError, RuntimeError, OSError) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            raise UserError(f"engine: SGLang does not start: {reason}") from error
        self._stop = builder.stop

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """See `Engine`."""
        return as_finished(self._loop(), requests, self._ask, at_once=AT_ONCE)

    def close(self) -> None:
        """See `Engine`."""
        self._engine.shutdown()

    def _loop(self) -> asyncio.AbstractEventLoop:
        return self._engine.loop  # its own tasks run in this one

    async def _ask(self, request: Request) -> Completion:
        result = await self._engine.async_generate(
            input_ids=list(request.prompt.token_ids), sampling_params=sglang_params(request.params, self._stop)
        )
        meta = result["meta_info"]
        kind = meta["finish_reason"]["type"]
        if kind not in ("stop", "length"):
            raise UserError(f"engine: SGLang ended {request.request_id} with {meta['finish_reason']}")
        return Completion(request.request_id, result["text"], meta["completion_tokens"], kind)
