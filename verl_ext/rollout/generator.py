"""Continuous batching over a transformers model: requests join and leave the running batch at every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from verl_ext.errors import ConfigError, DataError
from verl_ext.rollout.kv_cache import SlotCache
from verl_ext.rollout.sampling import FinishReason, Generation, SamplingParams, TokenStream, draw_tokens


@dataclass
class _Request:
    request_id: str
    prompt_ids: tuple[int, ...]
    stream: TokenStream
    stop_ids: frozenset[int]
    token_ids: list[int] = field(default_factory=list)
    log_probs: list[float] = field(default_factory=list)

    def finish_reason(self) -> FinishReason | None:
        if self.token_ids[-1] in self.stop_ids:
            return "stop"
        return "length" if len(self.token_ids) >= self.stream.params.max_tokens else None

    def result(self, reason: FinishReason) -> Generation:
        return Generation(self.request_id, self.token_ids, self.log_probs, reason)


@dataclass
class _Prefilled:
    """A prompt whose keys and values are computed, kept while requests with that prompt wait for a slot."""

    cache: DynamicCache
    row: int
    start: int
    logits: Tensor
    """Of the first response token, shape (vocab,), in the model's dtype."""


class Generator:
    """Generates for many requests at once, each with its own sampling parameters.

    A step fills free slots with waiting requests in the order in which they came (their prompts in one or more batches,
    a prompt that several of them share once) and then computes one token for every running request. A request that ends
    frees its slot at once.

    What a request draws depends on its logits and its own random stream. Its logits do not depend on its neighbours,
    but matrix products of another shape are rounded differently (about 1e-6 of a logit in fp32, 1e-2 in bf16), so that
    the same seed gives the same tokens in any company up to draws that fall within that of a boundary, and log-probs
    equal to that precision; alone or in the same company, exactly.

    Args:
        model: causal language model with full attention in every layer, its attention set to sdpa. It is put in
            evaluation mode at each step. Its weights may be changed between steps: call `weights_changed`.
        eos_token_ids: tokens that end every response, unless it asks to ignore them.
        max_num_seqs: most requests that run at the same time.
        max_model_len: most tokens of prompt and response together; default and limit: the model's own.
        vocab_size: forbid token ids from here on (rows of the embedding that the tokenizer has no token for).
        max_num_batched_tokens: most prompt tokens, padding included, that are computed in one batch.
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
        max_num_batched_tokens: int = 8192,
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
        self.max_model_len = _context_length(model, max_model_len)
        _require_full_attention(model, self.max_model_len)
        self._vocab_size = model.get_output_embeddings().weight.shape[0]
        self._allowed_vocab = vocab_size if vocab_size is not None else self._vocab_size
        if not 0 < self._allowed_vocab <= self._vocab_size:
            raise ConfigError("vocab_size", given=vocab_size, expected=f"1 to {self._vocab_size}, what the model has")
        self._next_seed = seed
        self._cache = SlotCache(model.config.get_text_config().num_hidden_layers)
        self._waiting: deque[_Request] = deque()
        self._running: list[_Request] = []
        """In the order of the cache's slots."""
        self._prefilled: dict[tuple[int, ...], _Prefilled] = {}
        self._ids: set[str] = set()

    def add_request(self, request_id: str, prompt_ids: Sequence[int], params: SamplingParams) -> None:
        """Queue a request. A response that would not fit into `max_model_len` ends there with reason "length".

        Raises:
            DataError: an empty prompt, one that leaves no room for a token, or one with ids that the model has not.
            ValueError: a request of that id has not ended yet.
        """
        if request_id in self._ids:
            raise ValueError(f"request {request_id} is there already")
        prompt = tuple(int(token) for token in prompt_ids)
        if not prompt:
            raise DataError(f"request {request_id}: the prompt is empty")
        room = self.max_model_len - len(prompt)
        if room < 1:
            raise DataError(
                f"request {request_id}: the prompt has {len(prompt)} tokens, which leaves no room for a response "
                f"in a context of {self.max_model_len}"
            )
        if not 0 <= min(prompt) <= max(prompt) < self._vocab_size:
            raise DataError(f"request {request_id}: the prompt has token ids outside 0 to {self._vocab_size - 1}")
        self._waiting.append(self._new_request(request_id, prompt, params, room))
        self._ids.add(request_id)

    def has_unfinished_requests(self) -> bool:
        return bool(self._waiting or self._running)

    @torch.inference_mode()
    def step(self) -> list[Generation]:
        """Admit what fits, compute one token for every running request; returns those that ended by it.

        With nothing to do it returns an empty list.
        """
        self.model.eval()
        finished = self._admit()
        if self._running:
            positions, visible = self._cache.next_column(self.model.device)
            last = [[request.token_ids[-1]] for request in self._running]
            output = self.model(
                input_ids=torch.tensor(last, device=self.model.device),
                attention_mask=visible,
                position_ids=positions,
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
            self._extend(self._running, output.logits[:, -1])
            finished += self._retire()
        return finished

    def abort_request(self, request_id: str | None = None) -> list[Generation]:
        """End a request, or all of them, at once; returns them with the tokens that they have so far.

        An id that is not there (it may just have ended) gives an empty list.
        """
        aborted = []
        for slot in reversed(range(len(self._running))):
            if request_id is None or self._running[slot].request_id == request_id:
                aborted.append(self._leave(slot).result("abort"))
        for request in list(self._waiting):
            if request_id is None or request.request_id == request_id:
                self._waiting.remove(request)
                self._ids.remove(request.request_id)
                aborted.append(request.result("abort"))
        self._forget_prompts()
        return aborted

    def weights_changed(self) -> None:
        """Forget prompts that were computed with other weights.

        Running requests go on: their next tokens come from the new weights, over keys and values of the old ones.
        Abort them first where that is not wanted.
        """
        self._prefilled.clear()

    def release_memory(self) -> None:
        """Give back the memory of the cache.

        Raises:
            RuntimeError: requests are running.
        """
        if self._running:
            raise RuntimeError(f"{len(self._running)} requests are running")
        self._prefilled.clear()
        self._cache.clear()

    def _new_request(self, request_id: str, prompt: tuple[int, ...], params: SamplingParams, room: int) -> _Request:
        if params.max_tokens > room:
            params = replace(params, max_tokens=room)
        if params.seed is None:
            seed = self._next_seed
            self._next_seed += 1
        else:
            seed = params.seed
        stream = TokenStream(
            params, seed=seed, prompt_ids=prompt, vocab_size=self._vocab_size, device=self.model.device
        )
        eos = frozenset() if params.ignore_eos else self.eos_token_ids
        return _Request(request_id, prompt, stream, eos | frozenset(params.stop_token_ids))

    def _admit(self) -> list[Generation]:
        """Move waiting requests into free slots; returns those that their first token already ends."""
        finished = []
        while self._waiting and len(self._running) < self.max_num_seqs:
            free = self.max_num_seqs - len(self._running)
            entering = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
            self._prefill({request.prompt_ids for request in entering})
            prompts = [self._prefilled[request.prompt_ids] for request in entering]
            self._extend(entering, torch.stack([prompt.logits for prompt in prompts]))
            for request, prompt in zip(entering, prompts, strict=True):
                reason = request.finish_reason()
                if reason is None:
                    self._cache.append(prompt.cache, prompt.row, prompt.start)
                    self._running.append(request)
                else:
                    self._ids.remove(request.request_id)
                    finished.append(request.result(reason))
            self._forget_prompts()
        return finished

    def _prefill(self, prompts: Iterable[tuple[int, ...]]) -> None:
        """Compute the prompts that are not there yet, those of similar length together."""
        missing = sorted((prompt for prompt in prompts if prompt not in self._prefilled), key=len, reverse=True)
        while missing:
            count = max(1, self.max_num_batched_tokens // len(missing[0]))
            self._prefill_batch(missing[:count])
            missing = missing[count:]

    def _prefill_batch(self, prompts: list[tuple[int, ...]]) -> None:
        width, device = len(prompts[0]), self.model.device
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device).unsqueeze(-1)
        # Padded in front, so that the last column is every prompt's last token.
        ids = torch.tensor([(0,) * (width - len(prompt)) + prompt for prompt in prompts], device=device)
        positions = torch.arange(width, device=device) - (width - lengths)
        output = self.model(
            input_ids=ids,
            attention_mask=(positions >= 0).long(),
            position_ids=positions.clamp(min=0),
            past_key_values=DynamicCache(config=self.model.config),
            use_cache=True,
            logits_to_keep=1,
        )
        for row, prompt in enumerate(prompts):
            start = width - len(prompt)
            self._prefilled[prompt] = _Prefilled(output.past_key_values, row, start, output.logits[row, -1])

    def _extend(self, requests: Sequence[_Request], logits: Tensor) -> None:
        """Draw the next token of each request; logits of shape (requests, vocab)."""
        logits = logits.float()
        logits[:, self._allowed_vocab :] = -torch.inf
        token_ids, log_probs = draw_tokens(logits, [request.stream for request in requests])
        for request, token_id, log_prob in zip(requests, token_ids, log_probs, strict=True):
            request.token_ids.append(token_id)
            request.log_probs.append(log_prob)

    def _retire(self) -> list[Generation]:
        finished = []
        for slot in reversed(range(len(self._running))):
            reason = self._running[slot].finish_reason()
            if reason is not None:
                finished.append(self._leave(slot).result(reason))
        return finished

    def _leave(self, slot: int) -> _Request:
        """Take a request out of its slot; as in the cache, the last one moves there."""
        request = self._running[slot]
        self._cache.remove(slot)
        self._running[slot] = self._running[-1]
        self._running.pop()
        self._ids.remove(request.request_id)
        return request

    def _forget_prompts(self) -> None:
        wanted = {request.prompt_ids for request in self._waiting}
        self._prefilled = {prompt: kept for prompt, kept in self._prefilled.items() if prompt in wanted}


def _context_length(model: PreTrainedModel, asked: int | None) -> int:
    own = model.config.get_text_config().max_position_embeddings
    if asked is None:
        return own
    if not 2 <= asked <= own:
        raise ConfigError("max_model_len", given=asked, expected=f"2 to {own}, the model's max_position_embeddings")
    return asked


def _require_full_attention(model: PreTrainedModel, context: int) -> None:
    config = model.config.get_text_config()
    others = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    window = getattr(config, "sliding_window", None)
    if others or (window is not None and window < context):
        found = ", ".join(sorted(others)) or f"a sliding window of {window}"
        raise ConfigError("model", given=found, expected="full attention in every layer (use vLLM for others)")
    if config._attn_implementation != "sdpa":
        raise ConfigError("attn_implementation", given=config._attn_implementation, expected="sdpa")
