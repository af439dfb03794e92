"""verl's configuration of the actor, with a key of ours."""

from __future__ import annotations

from dataclasses import dataclass

from verl.workers.config import FSDPActorConfig


@dataclass
class OnlineActorConfig(FSDPActorConfig):
    """See `FSDPActorConfig`."""

    share_prompts: bool = False
    """Whether a prompt goes through the model once for all of its answers in a micro-batch."""
