"""What a request asks of the sampler and what it gets back; loads no torch, so that a command line can be checked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from verl_ext.errors import ConfigError

FinishReason = Literal["stop", "length", "abort"]

SEED_LIMIT = 2**63


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
    """Of this request's own random numbers, one for each position after the prompt: a response that was interrupted and
    is continued as part of the prompt goes on with the numbers it would have had. None: the generator's next seed."""

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
        require(
            _is_number(self.repetition_penalty) and self.repetition_penalty > 0,
            "repetition_penalty",
            "a number above 0",
        )
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


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
