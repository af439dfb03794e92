"""Generation with nothing but transformers: the rollout's generator, for machines without vLLM or SGLang."""

from __future__ import annotations

import bisect
import sys
from collections import deque
from collections.abc import Iterator, Sequence

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from verl_ext.errors import UserError
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.evaluation.engines import Completion, Request, cut_at_stop
from verl_ext.evaluation.prompts import PromptBuilder
from verl_ext.platform.cpu_memory import keep_memory_small
from verl_ext.rollout.generator import Generator
from verl_ext.rollout.requests import Generation

DEFAULT_SEQUENCES = 32


class TransformersEngine:
    """One model in this process, on the first GPU or the CPU.

    What a request draws depends on its own seed, so that a resumed run, or one with another number of sequences at a
    time, generates the same text, up to rounding (see `Generator`).

    Stop strings are looked for when a response is finished, not while it grows: a response with one is cut there, and
    counts as stopped, but its generation goes on to a stop token or `max_tokens`.
    """

    def __init__(self, config: EvaluationConfig, model_path: str, builder: PromptBuilder) -> None:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            keep_memory_small()
        try:
            self._model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                model_path,
                dtype=config.dtype if config.dtype == "auto" else getattr(torch, config.dtype),
                attn_implementation="sdpa",
                trust_remote_code=config.trust_remote_code,
            ).to(device)
        except (OSError, ValueError) as error:
            raise UserError(f"model: cannot load {model_path}: {' '.join(str(error).split())[:300]}") from error
        self._builder = builder
        self._sequences = config.max_num_seqs or DEFAULT_SEQUENCES
        self._eos_ids = _end_tokens(self._model.generation_config, builder)

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """See `Engine`. Out of memory halves the number of sequences at a time and generates what was under way anew."""
        waiting = {request.request_id: request for request in requests}
        while waiting:
            yield from self._until_out_of_memory(waiting)
            if waiting:
                self._halve()

    def _until_out_of_memory(self, waiting: dict[str, Request]) -> Iterator[Completion]:
        """Generate, and take out of `waiting` what is finished; what is left there did not fit into memory."""
        generator = Generator(self._model, eos_token_ids=self._eos_ids, max_num_seqs=self._sequences)
        unsent = deque(waiting.values())
        under_way = 0
        while unsent or under_way:
            while unsent and under_way < 2 * self._sequences:  # one that waits has its state in memory, too
                request = unsent.popleft()
                generator.add_request(request.request_id, request.prompt.token_ids, request.params)
                under_way += 1
            try:
                finished = generator.step()
            except (RuntimeError, MemoryError) as error:
                if not _is_out_of_memory(error):
                    raise
                return
            for generation in finished:
                yield self._completion(generation)
                del waiting[generation.request_id]
                under_way -= 1

    def close(self) -> None:
        """See `Engine`."""
        del self._model
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _completion(self, generation: Generation) -> Completion:
        tokens = len(generation.token_ids)
        text = self._text(generation, tokens)
        if not self._has_stop(text):
            return Completion(generation.request_id, text, tokens, generation.finish_reason)
        stopped = bisect.bisect_left(range(tokens), True, key=lambda n: self._has_stop(self._text(generation, n)))
        text = cut_at_stop(self._text(generation, stopped), self._builder.stop)
        return Completion(generation.request_id, text, stopped, "stop")

    def _text(self, generation: Generation, tokens: int) -> str:
        return self._builder.tokenizer.decode(generation.token_ids[:tokens], skip_special_tokens=True)

    def _has_stop(self, text: str) -> bool:
        return any(ending in text for ending in self._builder.stop)

    def _halve(self) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if self._sequences == 1:
            raise UserError("max_num_seqs: out of memory with one sequence at a time; take a shorter max_tokens")
        before, self._sequences = self._sequences, self._sequences // 2
        print(f"out of memory with {before} sequences at a time: going on with {self._sequences}", file=sys.stderr)


def _end_tokens(generation_config: GenerationConfig, builder: PromptBuilder) -> set[int]:
    """The tokens that the model itself ends with."""
    ids = generation_config.eos_token_id
    ids = [] if ids is None else [ids] if isinstance(ids, int) else ids
    own = builder.tokenizer.eos_token_id
    return {*ids, *([] if own is None else [own])}


def _is_out_of_memory(error: Exception) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "DefaultCPUAllocator: can't allocate memory" in str(error) or "not enough memory" in str(error)
