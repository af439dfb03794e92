"""How the next token of a request is drawn.

Nothing here knows verl, Ray or a model: logits in, tokens and their log-probabilities out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from verl_ext.rollout.requests import SamplingParams

GOLDEN_GAMMA = 0x9E3779B97F4A7C15

FIRST_LOOK = 1024
"""Top-p usually keeps fewer tokens than this; sorting a whole vocabulary for each token would cost milliseconds."""


class TokenStream:
    """The sampling state of one request: its parameters, its random stream and the tokens seen.

    Args:
        params: of the request.
        seed: of the random stream.
        prompt_ids: what the repetition penalty has seen before the first token; the stream begins after it.
        vocab_size: of the logits.
        device: where the logits will be.
    """

    def __init__(
        self, params: SamplingParams, *, seed: int, prompt_ids: Sequence[int], vocab_size: int, device: torch.device
    ) -> None:
        self.params = params
        self._state = mix(seed) + len(prompt_ids) * GOLDEN_GAMMA
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
        return (mix(self._state) >> 11) * 2.0**-53

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


def mix(word: int) -> int:
    """The finaliser of splitmix64, 64 bits to 64 bits: neighbouring words end up with nothing in common."""
    word = (word ^ (word >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    word = (word ^ (word >> 27)) * 0x94D049BB133111EB % 2**64
    return word ^ (word >> 31)


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
