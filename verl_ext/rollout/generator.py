"""Continuous batching over a transformers model: requests join and leave the running batch at every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from verl_ext.errors import ConfigError, DataError
from verl_ext.rollout.kv_cache import SlotCache
from verl_ext.rollout.model_limits import cache_bytes_per_token, context_length, require_full_attention
from verl_ext.rollout.packed_attention import Segment, StepPlan, packed_steps
from verl_ext.rollout.requests import SEED_LIMIT, FinishReason, Generation, SamplingParams
from verl_ext.rollout.sampling import TokenStream, draw_tokens, mix

SHORTEST_SHARED_PREFIX = 8
"""Fewer common tokens than this are computed again: looking for them and waiting for them would cost more."""


@dataclass
class _Request:
    request_id: str
    tokens: list[int]
    """The prompt and the response so far."""
    prompt_length: int
    stream: TokenStream
    stop_ids: frozenset[int]
    weights: int = -1
    """Number of the weights that its keys and values come from; -1: none, or more than one."""
    computed: int = 0
    """How many of its tokens are in its slot of the cache."""
    log_probs: list[float] = field(default_factory=list)

    @property
    def longest(self) -> int:
        """Tokens of prompt and response, if it does not stop early."""
        return self.prompt_length + self.stream.params.max_tokens

    def add_token(self, token_id: int, log_prob: float) -> None:
        self.tokens.append(token_id)
        self.log_probs.append(log_prob)

    def finish_reason(self) -> FinishReason | None:
        if not self.log_probs:
            return None
        if self.tokens[-1] in self.stop_ids:
            return "stop"
        return "length" if len(self.log_probs) >= self.stream.params.max_tokens else None

    def result(self, reason: FinishReason) -> Generation:
        return Generation(self.request_id, self.tokens[self.prompt_length :], self.log_probs, reason)


class Generator:
    """Generates for many requests at once, each with its own sampling parameters.

    A step is one forward pass over the tokens of all running requests that are not in the cache yet: the last token of
    those that are under way, and as much of the new prompts as `max_num_batched_tokens` lets in. Every request whose
    tokens are then complete draws its next one. A request that ends frees its slot, and the next one takes it.

    A request whose prompt begins like another one's (several samples of one prompt, examples in front of a question)
    takes over that part of the cache instead of computing it again.

    What a request draws depends on its logits and its own random stream. Its logits do not depend on its neighbours,
    but a matrix product of another shape is rounded differently (about 1e-6 of a logit in fp32, 1e-2 in bf16). So the
    same seed gives the same tokens in any company, but for draws that fall that close to a boundary, and log-probs that
    are equal to that precision; in the same company they are the same to the last digit.

    Args:
        model: causal language model with full attention in every layer. Each step puts it in evaluation mode and uses
            `packed_attention` instead of its own attention. Its weights may change between steps: see
            `weights_changed`.
        eos_token_ids: tokens that end every response that does not ignore them.
        max_num_seqs: most requests that run at the same time.
        max_model_len: most tokens of prompt and response together; default and limit: what the model was made for.
        vocab_size: forbid token ids from here on (rows of the embedding that the tokenizer has no token for).
        max_num_batched_tokens: most tokens of a step, beyond the one of each request that is under way.
        max_cache_bytes: most memory for keys and values, but for the rounding by which it grows (up to a quarter). A
            request waits until it and those that run fit at their full length; None: no limit.
        seed: of the random streams of requests that bring none.

    Raises:
        ConfigError: an argument that cannot work, or a model of another kind.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        eos_token_ids: Iterable[int],
        max_num_seqs: int = 32,
        max_model_len: int | None = None,
        vocab_size: int | None = None,
        max_num_batched_tokens: int = 2048,
        max_cache_bytes: int | None = None,
        seed: int = 0,
    ) -> None:
        if max_num_seqs < 1:
            raise ConfigError("max_num_seqs", given=max_num_seqs, expected="at least 1")
        if max_num_batched_tokens < 1:
            raise ConfigError("max_num_batched_tokens", given=max_num_batched_tokens, expected="at least 1")
        self.model = model
        self.max_num_seqs = max_num_seqs
        self.max_num_batched_tokens = max_num_batched_tokens
        self.eos_token_ids = frozenset(eos_token_ids)
        self.max_model_len = context_length(model, max_model_len)
        require_full_attention(model, self.max_model_len)
        self._max_cache_tokens = None if max_cache_bytes is None else max_cache_bytes // cache_bytes_per_token(model)
        self._vocab_size = model.get_output_embeddings().weight.shape[0]
        self._allowed_vocab = self._vocab_size if vocab_size is None else vocab_size
        if not 0 < self._allowed_vocab <= self._vocab_size:
            raise ConfigError("vocab_size", given=vocab_size, expected=f"1 to {self._vocab_size}, what the model has")
        # Spread, so that generators with neighbouring seeds do not hand the same ones to their requests.
        self._next_seed = mix(seed) % SEED_LIMIT
        self._weights = 0
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers)
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        """The request in each slot of the cache."""
        self._ids: set[str] = set()

    def add_request(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Queue a request. A response that would not fit into `max_model_len` ends there with reason "length".

        Raises:
            DataError: an empty prompt, one that leaves no room for a token, one with ids that the model has not, or a
                request that alone would need more than `max_cache_bytes`.
            ValueError: a request of that id has not ended yet.
        """
        if request_id in self._ids:
            raise ValueError(f"request {request_id} is there already")
        tokens = [int(token) for token in prompt_ids]
        if not tokens:
            raise DataError(f"request {request_id}: the prompt is empty")
        room = self.max_model_len - len(tokens)
        if room < 1:
            raise DataError(
                f"request {request_id}: the prompt has {len(tokens)} tokens, which leaves no room for a response "
                f"in a context of {self.max_model_len}"
            )
        if not 0 <= min(tokens) <= max(tokens) < self._vocab_size:
            raise DataError(f"request {request_id}: the prompt has token ids outside 0 to {self._vocab_size - 1}")
        request = self._new_request(request_id, tokens, params, room)
        if self._max_cache_tokens is not None and request.longest > self._max_cache_tokens:
            raise DataError(
                f"request {request_id}: {request.longest} tokens of prompt and response do not fit into the memory for "
                f"keys and values, which holds {self._max_cache_tokens}"
            )
        self._waiting.append(request)
        self._ids.add(request_id)

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting or self._running)

    @torch.inference_mode()
    def step(self) -> list[Generation]:
        """Compute one step; returns the requests that it ended. Without requests it does nothing."""
        while self._waiting and self._fits(self._waiting[0]):
            self._running.append(self._waiting.popleft())
        if not self._running:
            return []
        segments = self._schedule()
        complete = [segment for segment in segments if segment.end == len(self._running[segment.slot].tokens)]
        logits = self._forward(segments, complete)
        for segment in segments:
            self._running[segment.slot].computed = segment.end
        if complete:
            drawing = [self._running[segment.slot] for segment in complete]
            for request, token_id, log_prob in zip(
                drawing, *draw_tokens(logits, [request.stream for request in drawing]), strict=True
            ):
                request.add_token(token_id, log_prob)
        return self._retire()

    def abort_request(self, request_id: str | None = None) -> list[Generation]:
        """End a request, or all of them, at once; returns them with the tokens that they have so far.

        An id that is not there (it may just have ended) gives an empty list.
        """
        aborted = []
        for slot in reversed(range(len(self._running))):
            if request_id is None or self._running[slot].request_id == request_id:
                aborted.append(self._leave(slot).result("abort"))
        kept: deque[_Request] = deque()
        for request in self._waiting:
            if request_id is None or request.request_id == request_id:
                self._ids.remove(request.request_id)
                aborted.append(request.result("abort"))
            else:
                kept.append(request)
        self._waiting = kept
        return aborted

    def weights_changed(self) -> None:
        """Must be called after a change of the weights: later requests take over nothing that the old ones computed.

        Running requests go on: their next tokens come from the new weights, over keys and values of the old ones.
        Abort them first where that is not wanted.
        """
        self._weights += 1

    def release_memory(self) -> None:
        """Give back the memory of the cache.

        Raises:
            RuntimeError: requests are running.
        """
        if self._running:
            raise RuntimeError(f"{len(self._running)} requests are running")
        self._cache.clear()

    def _new_request(self, request_id: str, tokens: list[int], params: SamplingParams, room: int) -> _Request:
        if params.max_tokens > room:
            params = replace(params, max_tokens=room)
        seed = params.seed
        if seed is None:
            seed = self._next_seed
            self._next_seed = (seed + 1) % SEED_LIMIT
        stream = TokenStream(
            params, seed=seed, prompt_ids=tokens, vocab_size=self._vocab_size, device=self.model.device
        )
        eos = frozenset() if params.ignore_eos else self.eos_token_ids
        return _Request(request_id, tokens, len(tokens), stream, eos | frozenset(params.stop_token_ids))

    def _fits(self, request: _Request) -> bool:
        """Whether a request can run beside those that do; the slots of the cache are all as long as the longest."""
        slots = len(self._running) + 1
        if self._max_cache_tokens is None or slots > self.max_num_seqs:
            return slots <= self.max_num_seqs
        return slots * max(other.longest for other in [request, *self._running]) <= self._max_cache_tokens

    def _schedule(self) -> list[Segment]:
        """The tokens of this step: one of each request under way, and new prompts as far as the budget goes."""
        singles, longer = [], []
        budget = self.max_num_batched_tokens
        for slot, request in enumerate(self._running):
            if request.computed == 0 and self._follows(slot, request):
                continue
            missing = len(request.tokens) - request.computed
            if missing > 1:
                missing = min(missing, budget)
                budget -= missing
            if missing == 1:
                singles.append(Segment(slot, request.computed, 1))
            elif missing > 1:
                longer.append(Segment(slot, request.computed, missing))
            if request.computed == 0:
                request.weights = self._weights
        return singles + longer

    def _follows(self, slot: int, request: _Request) -> bool:
        """Take over what another slot has of this prompt; True: wait, that slot is about to compute it."""
        best, source = SHORTEST_SHARED_PREFIX - 1, -1
        for other, candidate in enumerate(self._running):
            # What a candidate has or, if it is at its prompt still, is about to have. The last token of this request
            # is computed in any case: the logits after it are needed.
            reach = candidate.computed if candidate.log_probs else candidate.prompt_length
            shared = _common_prefix(candidate.tokens[:reach], request.tokens[:-1])
            usable = candidate.weights == self._weights and (candidate.computed or other < slot)
            if usable and shared > best:
                best, source = shared, other
        if source < 0:
            return False
        if self._running[source].computed < best:
            return True
        self._cache.copy(source, slot, best)
        request.computed, request.weights = best, self._weights
        return False

    def _forward(self, segments: Sequence[Segment], complete: Sequence[Segment]) -> Tensor:
        """Compute the segments; returns the logits after the complete ones, fp32, shape (complete, vocab)."""
        device = self.model.device
        tokens, positions, last = [], [], []
        complete_slots = {segment.slot for segment in complete}
        for segment in segments:
            tokens += self._running[segment.slot].tokens[segment.start : segment.end]
            positions += range(segment.start, segment.end)
            if segment.slot in complete_slots:
                last.append(len(tokens) - 1)
        plan = StepPlan(self._cache, segments, device)
        self.model.eval()
        with packed_steps(self.model):
            output = self.model(
                input_ids=torch.tensor([tokens], device=device),
                position_ids=torch.tensor([positions], device=device),
                use_cache=False,
                logits_to_keep=torch.tensor(last, device=device, dtype=torch.long),
                step_plan=plan,
            )
        if plan.layers_done != len(self._cache.layers):
            raise RuntimeError(f"{type(self.model).__name__} does not call the attention it is told to")
        logits = output.logits[0].float()
        logits[:, self._allowed_vocab :] = -torch.inf
        return logits

    def _retire(self) -> list[Generation]:
        finished = []
        for slot in reversed(range(len(self._running))):
            reason = self._running[slot].finish_reason()
            if reason is not None:
                finished.append(self._leave(slot).result(reason))
        return finished

    def _leave(self, slot: int) -> _Request:
        """Take a request out of its slot; the last slot's moves there."""
        request, last = self._running[slot], self._running.pop()
        if last is not request:
            self._cache.copy(len(self._running), slot, last.computed)
            self._running[slot] = last
        self._ids.remove(request.request_id)
        return request


def _common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    for position, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return position
    return min(len(first), len(second))
