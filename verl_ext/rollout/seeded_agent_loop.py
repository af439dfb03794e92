"""verl's single-turn agent loop, with a seed of its own for every answer: a run that is repeated or resumed samples
the same answers.
"""

from __future__ import annotations

import hashlib
import logging
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

NAME = "seeded_single_turn"
ENGINES_WITH_SEEDS = ("hf", "vllm")
"""Engines whose requests take a seed; SGLang's do so only in its deterministic mode."""


class SeededSingleTurnAgentLoop(SingleTurnAgentLoop):
    """One answer to one prompt."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput:
        """See verl's `AgentLoopBase.run`; adds `seed` to the sampling parameters."""
        if self.rollout_config.name in ENGINES_WITH_SEEDS:
            # A validation prompt has a random uid; its place in the data gives it the same seed every time.
            uid = kwargs["uid"]
            prompt = uid if uid.isdigit() else f"{kwargs.get('data_source')}/{kwargs.get('index')}"
            seed = answer_seed(self.rollout_config.seed, prompt, kwargs["session_id"])
            sampling_params = {**sampling_params, "seed": seed}
        return await super().run(sampling_params, **kwargs)


def answer_seed(seed: int, prompt: str, session_id: int) -> int:
    """A seed from 0 to 2^31 - 1 for answer `session_id` to a prompt."""
    digest = hashlib.sha256(f"{seed}/{prompt}/{session_id}".encode()).digest()
    return int.from_bytes(digest[:4], "big") & 0x7FFFFFFF


def register_agent_loop() -> None:
    """Make it known to verl as `NAME`."""
    # verl 0.9.1 says for every single answer that a text-only model uses its default way of building token ids.
    logging.getLogger("verl.utils.tokenizer.continuous_token_wiring").setLevel(logging.ERROR)
    register(NAME)(SeededSingleTurnAgentLoop)
