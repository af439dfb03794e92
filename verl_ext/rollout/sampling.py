"""What a request asks of the sampler, what it gets back, and how the next token is drawn.

Nothing here knows verl, Ray or a model: logits in, tokens and their log-probabilities out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from verl_ext.errors import ConfigError

FinishReason = Literal["stop", "length", "abort"]

SEED_LIMIT = 2**63
GOLDEN_GAMMA = 0x9E3779B97F4A7C15

FIRST_LOOK = 1024
"""Top-p usually keeps fewer tokens than this; sorting a whole vocabulary for each token would cost milliseconds."""


@dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """How one request is continued.

    In the order in which they apply, as in vLLM: repetition penalty, temperature, top-k, top-p.

    Raises:
        ConfigError: a value that cannot work.
    """

    max_tokens: int
    """Most tokens to generate, at least 1."""
    temperature: float = 1.0
    """Divides the logits; 0 is greedy decoding, which ignores top-k, top-p and the seed."""
    top_p: float = 1.0
    """Keep the fewest tokens whose probability adds up to this; 1 is off."""
    top_k: int = -1
    """Keep this many tokens; -1 or 0 is off."""
    repetition_penalty: float = 1.0
    """Above 1, tokens of the prompt and of the response so far become less likely (arXiv 1909.05858); 1 is off."""
    stop_token_ids: tuple[int, ...] = ()
    """End the response like the model's own end tokens do; the stop token is part of the response."""
    ignore_eos: bool = False
    """Go on past the model's own end tokens (for measurements); `stop_token_ids` still end."""
    seed: int | None = None
    """Of this request's own random stream; None takes the next one of the generator's."""

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, expected: str) -> None:
            if not holds:
                raise ConfigError(f"sampling.{name}", given=getattr(self, name), expected=expected)

        require(_is_int(self.max_tokens) and self.max_tokens >= 1, "max_tokens", "a whole number of at least 1")
        require(
            _is_number(self.temperature) and self.temperature >= 0, "temperature", "0 (greedy) or a positive number"
        )
        require(_is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", "a number above 0 and at most 1")
        require(_is_int(self.top_k) and self.top_k >= -1, "top_k", "a whole number of at least 1, or -1 or 0 for off")
        require(_is_number(self.repetition_penalty) and self.repetition_penalty > 0, "repetition_penalty", "above 0")
        object.__setattr__(self, "stop_token_ids", tuple(self.stop_token_ids))
        require(all(_is_int(token) and token >= 0 for token in self.stop_token_ids), "stop_token_ids", "token ids")
        require(
            self.seed is None or (_is_int(self.seed) and 0 <= self.seed < SEED_LIMIT), "seed", "0 to 2**63-1, or null"
        )


@dataclass(frozen=True)
class Generation:
    """What became of a request.

    `log_probs[t]` is the natural log of the probability with which `token_ids[t]` was drawn, computed in fp32 from the
    model's logits: the log-softmax after repetition penalty, temperature, top-k and top-p, renormalised over the tokens
    that were left (vLLM calls this `processed_logprobs`, verl's default). With top-k, top-p and penalty off it is what
    verl's actor computes for the same weights and temperature, and that is what training assumes. For a greedy request
    it is the log-softmax at temperature 1, after the penalty.
    """

    request_id: str
    token_ids: list[int]
    log_probs: list[float]
    finish_reason: FinishReason


class TokenStream:
    """The sampling state of one request: its parameters, its random stream and the tokens seen.

    Args:
        params: of the request.
        seed: of the random stream.
        prompt_ids: what the repetition penalty has seen before the first token.
        vocab_size: of the logits.
        device: where the logits will be.
    """

    def __init__(
        self, params: SamplingParams, *, seed: int, prompt_ids: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        self.params = params
        self._state = _mix(seed)
        self._seen: Tensor | None = None  # (vocab_size,) bool
        if params.repetition_penalty != 1.0:
            self._seen = torch.zeros(vocab_size, dtype=torch.bool, device=device)
            self._seen[torch.tensor(prompt_ids, device=device)] = True

    @property
    def greedy(self) -> bool:
        return self.params.temperature == 0

    def uniform(self) -> float:
        """The next number of the stream, in [0, 1), by splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
        self._state = (self._state + GOLDEN_GAMMA) % 2**64
        return (_mix(self._state) >> 11) * 2.0**-53

    def penalize(self, logits: Tensor) -> None:
        """Apply the repetition penalty in place to this request's logits, shape (vocab,)."""
        if self._seen is not None:
            seen = logits[self._seen]
            penalty = self.params.repetition_penalty
            logits[self._seen] = torch.where(seen > 0, seen / penalty, seen * penalty)

    def saw(self, token_id: int) -> None:
        if self._seen is not None:
            self._seen[token_id] = True


def draw_tokens(logits: Tensor, streams: Sequence[TokenStream]) -> tuple[list[int], list[float]]:
    """Draw the next token of each request.

    A token is drawn by inverting the cumulative distribution in fp64 at one number of the request's own stream, so that
    what a request draws depends on its logits and its seed alone.

    Args:
        logits: shape (requests, vocab), any float dtype; overwritten if it is fp32. Minus infinity forbids a token.
        streams: of the requests, in the order of the rows.

    Returns:
        Token ids, and log-probabilities as `Generation` describes them.
    """
    logits = logits.float()
    for row, stream in enumerate(streams):
        stream.penalize(logits[row])
    divisors = [1.0 if stream.greedy else stream.params.temperature for stream in streams]
    if any(divisor != 1.0 for divisor in divisors):
        logits /= torch.tensor(divisors, device=logits.device).unsqueeze(-1)
    for row, stream in enumerate(streams):
        if not stream.greedy:
            _keep_likely(logits[row], stream.params.top_k, stream.params.top_p)
    log_probs = logits.log_softmax(-1)
    token_ids = torch.empty(len(streams), dtype=torch.long, device=logits.device)
    greedy = [row for row, stream in enumerate(streams) if stream.greedy]
    if greedy:
        token_ids[greedy] = log_probs[greedy].argmax(-1)
    sampled = [row for row, stream in enumerate(streams) if not stream.greedy]
    if sampled:
        numbers = torch.tensor([streams[row].uniform() for row in sampled], dtype=torch.float64, device=logits.device)
        token_ids[sampled] = _invert(log_probs[sampled], numbers)
    chosen = log_probs.gather(-1, token_ids.unsqueeze(-1)).squeeze(-1)
    drawn = token_ids.tolist()
    for stream, token_id in zip(streams, drawn, strict=True):
        stream.saw(token_id)
    return drawn, chosen.tolist()


def _keep_likely(logits: Tensor, top_k: int, top_p: float) -> None:
    """Forbid, in place, all but the tokens that top-k and then top-p keep; logits of shape (vocab,)."""
    vocab_size = logits.shape[-1]
    if 0 < top_k < vocab_size:
        values, order = logits.topk(top_k)  # descending
        kept = _nucleus_size(values.softmax(-1, dtype=torch.float64), top_p) if top_p < 1.0 else top_k
    elif top_p < 1.0:
        probs = logits.softmax(-1, dtype=torch.float64)
        count = min(FIRST_LOOK, vocab_size)
        if probs.topk(count).values.sum() < top_p:
            count = vocab_size
        values, order = logits.topk(count)
        kept = _nucleus_size(probs[order], top_p)
    else:
        return
    logits.fill_(-math.inf)
    logits[order[:kept]] = values[:kept]


def _nucleus_size(probs: Tensor, top_p: float) -> int:
    """How many of the descending probabilities stay: those before which the sum is below top_p, so at least one."""
    return int((probs.cumsum(-1) - probs < top_p).sum())


def _invert(log_probs: Tensor, numbers: Tensor) -> Tensor:
    """Token whose stretch of the cumulative distribution holds the number; (rows, vocab), (rows,) -> (rows,)."""
    cumulative = log_probs.double().exp_().cumsum_(-1)
    total = cumulative[:, -1:]
    # Rounding must not carry a number just below 1 to the total, where no token is.
    points = torch.minimum(numbers.unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(cumulative, points, right=True).squeeze(-1)


def _mix(word: int) -> int:
    """The finaliser of splitmix64: neighbouring words end up with nothing in common."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
