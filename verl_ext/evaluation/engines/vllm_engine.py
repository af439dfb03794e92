"""Generation with vLLM: one process for each GPU (or group of GPUs), fed from one queue.

Each process steps an engine of its own and is sent the next request when one of its is finished, so that none waits for
another's long responses. The processes end with this one, however it ends.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from multiprocessing.connection import Connection, wait
from typing import Any

from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.evaluation.engines import Completion, Request, vllm_params
from verl_ext.evaluation.prompts import PromptBuilder
from verl_ext.model_folder import read_hf_config

DEFAULT_AHEAD = 512
"""Requests that a process holds, where `max_num_seqs` does not say how many it runs: enough to choose from."""
CPU_BATCHED_TOKENS = 2048
_PR_SET_PDEATHSIG = 1


class VLLMEngine:
    """vLLM's offline engine over the visible GPUs, or on the CPU where vLLM is built for it.

    Args:
        config: keys of the engine: dtype, max_num_seqs, tensor_parallel_size, gpu_memory_utilization.
        model_path: a Hugging Face folder or hub id.
        builder: knows where a response stops.
        longest: tokens of the longest prompt with its response.

    Raises:
        UserError: vLLM is not installed, the GPUs do not divide, or an engine does not start.
    """

    def __init__(self, config: EvaluationConfig, model_path: str, builder: PromptBuilder, longest: int) -> None:
        if find_spec("vllm") is None:
            raise ConfigError("engine", given="vllm", expected="transformers, or vLLM installed (docs/install.md)")
        self._stop = builder.stop
        self._ahead = 2 * config.max_num_seqs if config.max_num_seqs else DEFAULT_AHEAD
        arguments = {
            "model": model_path,
            "tokenizer": config.tokenizer or model_path,
            "trust_remote_code": config.trust_remote_code,
            "dtype": config.dtype,
            "max_model_len": longest,
            "tensor_parallel_size": config.tensor_parallel_size,
            "gpu_memory_utilization": config.gpu_memory_utilization,
            "seed": 0,
            "disable_log_stats": True,
        }
        if config.max_num_seqs:
            arguments["max_num_seqs"] = config.max_num_seqs
        groups = _device_groups(config.tensor_parallel_size)
        if groups == [None]:
            # Threads that spin while they wait take the cores from those that work: ten times slower on two of them.
            os.environ.setdefault("OMP_WAIT_POLICY", "passive")
            # Where a prompt is computed in parts, vLLM 0.31 takes back what a seeded request has drawn too early, which
            # the CPU's random generator cannot (v1/worker/gpu_model_runner.py, _bookkeeping_sync): no parts there.
            arguments["enable_chunked_prefill"] = False
            arguments["max_num_batched_tokens"] = max(longest, CPU_BATCHED_TOKENS)
            arguments["kv_cache_memory_bytes"] = _keys_and_values_bytes(config, model_path, longest)
        context = multiprocessing.get_context("spawn")
        self._workers: dict[Connection, multiprocessing.Process] = {}
        try:
            for devices in groups:
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(theirs, devices, arguments))
                process.start()
                theirs.close()
                self._workers[ours] = process
            for pipe in self._workers:
                self._receive(pipe)  # ready, or why not
        except BaseException:
            self.close()
            raise

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """See `Engine`."""
        waiting = deque(requests)
        under_way = dict.fromkeys(self._workers, 0)
        while waiting or any(under_way.values()):
            for pipe in under_way:
                while waiting and under_way[pipe] < self._ahead:
                    # One more to each in turn: the last requests are spread over all.
                    if under_way[pipe] > min(under_way.values()):
                        break
                    request = waiting.popleft()
                    pipe.send(
                        (
                            request.request_id,
                            list(request.prompt.token_ids),
                            vllm_params(request.params, self._stop),
                        )
                    )
                    under_way[pipe] += 1
            if waiting and min(under_way.values()) < self._ahead:
                continue
            for pipe in wait(list(under_way)):
                for completion in self._receive(pipe):
                    under_way[pipe] -= 1
                    yield completion

    def close(self) -> None:
        """See `Engine`."""
        for pipe in self._workers:
            pipe.close()
        for process in self._workers.values():
            process.join(timeout=10)
            if process.is_alive():
                process.kill()
                process.join()

    def _receive(self, pipe: Connection) -> list[Completion]:
        try:
            kind, content = pipe.recv()
        except EOFError:
            process = self._workers[pipe]
            process.join(timeout=10)
            raise UserError(
                f"engine: a vLLM process ended (exit code {process.exitcode}); see its output above"
            ) from None
        if kind == "failed":
            raise UserError(f"engine: vLLM does not start: {content}")
        return content


def _keys_and_values_bytes(config: EvaluationConfig, model_path: str, longest: int) -> int | None:
    """Of memory on a processor; see `vllm_cpu_memory`."""
    import torch

    from verl_ext.platform.free_memory import free_bytes
    from verl_ext.rollout.vllm_cpu_memory import keys_and_values_bytes

    model = read_hf_config(model_path, trust_remote_code=config.trust_remote_code)
    dtype = model.dtype if config.dtype == "auto" else getattr(torch, config.dtype)
    return keys_and_values_bytes(
        model,
        dtype or torch.bfloat16,
        sequences=config.max_num_seqs,
        length=longest,
        free=free_bytes(),
        share=config.gpu_memory_utilization,
        keys=("dtype", "max_tokens", "gpu_memory_utilization"),
    )


def _device_groups(size: int) -> list[str | None]:
    """What each process sees as CUDA_VISIBLE_DEVICES; one process that sees what we see where there is no GPU."""
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = visible.split(",") if visible else [str(index) for index in range(torch.cuda.device_count())]
    if not torch.cuda.is_available() or not devices:
        return [None]
    if len(devices) % size:
        raise ConfigError("tensor_parallel_size", given=size, expected=f"a number that divides the {len(devices)} GPUs")
    return [",".join(devices[start : start + size]) for start in range(0, len(devices), size)]


def _serve(pipe: Connection, devices: str | None, arguments: dict[str, Any]) -> None:
    """The process of one engine: takes requests while it steps, sends what is finished, ends when the pipe does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    if devices is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices
    if arguments["tensor_parallel_size"] == 1:
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # no further process that could outlive us
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    from vllm import EngineArgs, LLMEngine, SamplingParams

    try:
        engine = LLMEngine.from_engine_args(EngineArgs(**arguments))
    except (ValueError, RuntimeError, OSError) as error:  # too little memory, a model that vLLM does not know, ...
        pipe.send(("failed", " ".join(f"{type(error).__name__}: {error}".split())[:400]))
        return
    pipe.send(("ready", []))
    try:
        while True:
            while pipe.poll() or not engine.has_unfinished_requests():
                request_id, token_ids, params = pipe.recv()
                engine.add_request(request_id, {"prompt_token_ids": token_ids}, SamplingParams(**params))
            finished = [_completion(output) for output in engine.step() if output.finished]
            if finished:
                pipe.send(("finished", finished))
    except (EOFError, BrokenPipeError, ConnectionResetError):
        pass  # the parent is done with us, or gone


def _completion(output: Any) -> Completion:
    (result,) = output.outputs
    reason = "length" if result.finish_reason == "length" else "stop"
    return Completion(output.request_id, result.text, len(result.token_ids), reason)
