"""verl's configuration of a model, with keys of ours."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from verl.workers.config import HFModelConfig

from verl_ext.model_rope import lay_rope_on


@dataclass
class ModelConfig(HFModelConfig):
    """See `HFModelConfig`."""

    rope: dict[str, Any] = field(default_factory=dict)
    """What the run changes of the model's rotary position embeddings: see `verl_ext.model_rope.changed_rope`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        lay_rope_on(self.hf_config, self.rope)
