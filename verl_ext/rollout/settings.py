"""What verl's rollout configuration means for the engine `hf`, checked before anything is started."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from verl_ext.errors import ConfigError, UnknownKeyError
from verl_ext.rollout.requests import SEED_LIMIT, SamplingParams
from verl_ext.rollout.sampling import mix

GROUP = "actor_rollout_ref.rollout"
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
REQUEST_KEYS = ("temperature", "top_p", "top_k", "repetition_penalty", "stop_token_ids", "ignore_eos", "seed")
LIMIT_KEYS = ("max_tokens", "max_new_tokens")


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """`actor_rollout_ref.rollout.engine_kwargs.hf`."""

    num_threads: int | None = None
    """Of a server; None: as many as the training ranks that it serves have together."""
    kv_cache_gb: float = 4.0
    """Most memory of a server for keys and values, in 2^30 bytes."""
    update_timeout_s: float = 600.0
    """A weight update that stands still for so long has lost its sender, and fails."""

    def __post_init__(self) -> None:
        prefix = f"{GROUP}.engine_kwargs.hf"
        if self.num_threads is not None and (not isinstance(self.num_threads, int) or self.num_threads < 1):
            raise ConfigError(f"{prefix}.num_threads", given=self.num_threads, expected="at least 1, or null")
        for name in ("kv_cache_gb", "update_timeout_s"):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or value <= 0:
                raise ConfigError(f"{prefix}.{name}", given=value, expected="a positive number")


@dataclass(frozen=True)
class HFSettings:
    """The settings of the engine `hf`.

    Args:
        rollout: verl's RolloutConfig, or the group of the configuration that becomes one.
        model: verl's HFModelConfig, or the group that becomes one.

    Raises:
        ConfigError: something that this engine cannot do, by the key that asks for it.
    """

    rollout: Any
    model: Any

    def __post_init__(self) -> None:
        rollout = self.rollout
        if rollout.dtype not in DTYPES:
            raise ConfigError(f"{GROUP}.dtype", given=rollout.dtype, expected=f"{' or '.join(DTYPES)} with name=hf")
        if rollout.logprobs_mode not in (None, "processed_logprobs"):
            raise ConfigError(
                f"{GROUP}.logprobs_mode", given=rollout.logprobs_mode, expected="processed_logprobs with name=hf"
            )
        if _has_unmerged_lora(self.model):
            raise ConfigError(
                "actor_rollout_ref.model.lora.merge",
                given=False,
                expected="True with name=hf: its servers take whole weights, not adapters",
            )
        for key in ("quantization", "enable_rollout_routing_replay"):
            if rollout.get(key):
                raise ConfigError(f"{GROUP}.{key}", given=rollout.get(key), expected="null or False with name=hf")
        SamplingParams(
            max_tokens=rollout.response_length,
            temperature=rollout.temperature,
            top_p=rollout.top_p,
            top_k=rollout.top_k,
            repetition_penalty=rollout.get("repetition_penalty", 1.0),
        )
        self.options  # noqa: B018  a property that checks itself

    @property
    def options(self) -> EngineOptions:
        given = dict((self.rollout.engine_kwargs or {}).get("hf") or {})
        known = [field.name for field in fields(EngineOptions)]
        for key in given:
            if key not in known:
                prefix = f"{GROUP}.engine_kwargs.hf."
                raise UnknownKeyError(prefix + key, [prefix + name for name in known])
        return EngineOptions(**given)

    @property
    def dtype(self) -> torch.dtype:
        return DTYPES[self.rollout.dtype]

    @property
    def ranks_per_server(self) -> int:
        """Training ranks that share a server: what for other engines is the size of their model parallelism."""
        rollout = self.rollout
        return rollout.tensor_model_parallel_size * rollout.data_parallel_size * rollout.pipeline_model_parallel_size

    def sampling_params(
        self, given: Mapping[str, Any], *, prompt_length: int, max_model_len: int, request_id: str, replica_rank: int
    ) -> SamplingParams:
        """The parameters of a request, with verl's defaults for what it does not say.

        Without a limit of its own a response may have `response_length` tokens, less what a prompt exceeds
        `prompt_length` by; it always gets one.

        Raises:
            ConfigError: a parameter that this engine has not, or a value that cannot work.
        """
        rollout, values = self.rollout, {name: given[name] for name in REQUEST_KEYS if given.get(name) is not None}
        for name, value in given.items():
            if name not in (*REQUEST_KEYS, *LIMIT_KEYS, "logprobs") and value is not None:
                known = ", ".join((*REQUEST_KEYS, *LIMIT_KEYS, "logprobs"))
                raise ConfigError(f"sampling.{name}", given=value, expected=f"one of {known} with name=hf")
        limit = next((given[name] for name in LIMIT_KEYS if given.get(name) is not None), None)
        if limit is None:
            longer_prompt = max(0, prompt_length - rollout.prompt_length)
            limit = rollout.response_length - longer_prompt
        values.setdefault("temperature", rollout.temperature)
        values.setdefault("top_p", rollout.top_p)
        values.setdefault("top_k", rollout.top_k)
        values.setdefault("repetition_penalty", rollout.get("repetition_penalty", 1.0))
        values.setdefault("ignore_eos", rollout.ignore_eos)
        if rollout.full_determinism:
            values.setdefault("seed", _request_seed(rollout.seed + replica_rank, request_id))
        return SamplingParams(max_tokens=max(1, min(limit, max_model_len - prompt_length)), **values)


def _has_unmerged_lora(model: Any) -> bool:
    lora = model.get("lora") or {}
    return (model.get("lora_rank", 0) > 0 or lora.get("rank", 0) > 0) and not lora.get("merge", False)


def _request_seed(seed: int, request_id: str) -> int:
    """A seed that a request id has in every run."""
    for character in request_id:
        seed = mix((seed + ord(character)) % 2**64)
    return seed % SEED_LIMIT
