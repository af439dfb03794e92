"""What generates: one interface, and an engine by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.evaluation.prompts import Prompt, PromptBuilder
from verl_ext.rollout.requests import SamplingParams


@dataclass(frozen=True)
class Request:
    """One response to generate."""

    request_id: str
    prompt: Prompt
    params: SamplingParams


@dataclass(frozen=True)
class Completion:
    """One response."""

    request_id: str
    text: str
    """Up to where it stopped, without the stop."""
    tokens: int
    """Generated, with the stop token."""
    finish_reason: Literal["stop", "length"]


class Engine(Protocol):
    """Generates for many requests at once."""

    def generate(self, requests: Sequence[Request]) -> Iterator[Completion]:
        """The responses, in the order in which they are finished.

        Raises:
            UserError: the machine or the endpoint cannot do it.
        """

    def close(self) -> None:
        """Give back processes and memory."""


def make_engine(config: EvaluationConfig, model_path: str, builder: PromptBuilder, longest: int) -> Engine:
    """The engine that the configuration names.

    Args:
        model_path: of a Hugging Face folder, or a hub id.
        longest: tokens of the longest prompt with its response.

    Raises:
        UserError: it is not installed, or does not start.
    """
    if config.engine == "transformers":
        from verl_ext.evaluation.engines.transformers_engine import TransformersEngine

        return TransformersEngine(config, model_path, builder)
    if config.engine == "vllm":
        from verl_ext.evaluation.engines.vllm_engine import VLLMEngine

        return VLLMEngine(config, model_path, builder, longest)
    if config.engine == "sglang":
        from verl_ext.evaluation.engines.sglang_engine import SGLangEngine

        return SGLangEngine(config, model_path, builder, longest)
    from verl_ext.evaluation.engines.openai_engine import OpenAIEngine

    return OpenAIEngine(config, builder)


def cut_at_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first of the stop strings."""
    found = [position for position in (text.find(ending) for ending in stop) if position >= 0]
    return text[: min(found)] if found else text


def vllm_params(params: SamplingParams, stop: Sequence[str]) -> dict[str, Any]:
    """Arguments of vLLM's `SamplingParams` that mean what ours mean."""
    return {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k if params.top_k > 0 else -1,
        "min_p": 0.0,
        "repetition_penalty": params.repetition_penalty,
        "seed": params.seed,
        "stop": list(stop),
        "stop_token_ids": list(params.stop_token_ids),
        "skip_special_tokens": True,
        "n": 1,
    }


def sglang_params(params: SamplingParams, stop: Sequence[str]) -> dict[str, Any]:
    """Arguments of SGLang's `SamplingParams`."""
    return {
        "max_new_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k if params.top_k > 0 else -1,
        "min_p": 0.0,
        "repetition_penalty": params.repetition_penalty,
        "sampling_seed": params.seed,
        "stop": list(stop),
        "stop_token_ids": list(params.stop_token_ids),
        "skip_special_tokens": True,
    }


def openai_params(params: SamplingParams, stop: Sequence[str], *, extra: bool) -> dict[str, Any]:
    """Fields of a request to an OpenAI-compatible endpoint.

    All are sent, also those that are off: vLLM's and SGLang's servers fill the gaps from the model's
    `generation_config.json`, which often holds others.

    Args:
        extra: with those that OpenAI's own API does not know.
    """
    fields: dict[str, Any] = {
        "max_tokens": params.max_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "seed": params.seed,
        "n": 1,
    }
    if stop:
        # OpenAI takes four; a prompt type's own are last, and the text is cut at the others when it has come.
        fields["stop"] = list(stop) if extra else list(stop)[-4:]
    if extra:
        fields.update(
            top_k=params.top_k if params.top_k > 0 else -1,
            min_p=0.0,
            repetition_penalty=params.repetition_penalty,
            stop_token_ids=list(params.stop_token_ids),
        )
    return fields
