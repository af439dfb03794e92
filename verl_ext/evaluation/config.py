"""What an evaluation can be told, as `key=value`; checked before anything is loaded."""

from __future__ import annotations

import os
import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from verl_ext.cli import refuse_stray_blanks
from verl_ext.errors import ConfigError, UnknownKeyError, UserError
from verl_ext.evaluation.prompts import BOXED, PromptOptions
from verl_ext.reward.code.compare import COMPARISONS
from verl_ext.reward.code.options import CodeOptions
from verl_ext.reward.code.store import FOLDER
from verl_ext.reward.policy import POLICIES, GradingPolicy
from verl_ext.reward.scorers import check_names
from verl_ext.rollout.requests import SamplingParams
from verl_ext.sandbox.pool import SANDBOXES
from verl_ext.sandbox.remote import REMOTE

DTYPES = ("auto", "bfloat16", "float16", "float32")
DIRECT, REASONING_CACHE = STRATEGIES = ("direct", "reasoning_cache")
ENGINES = ("vllm", "sglang", "openai", "transformers")
DEFAULT_GRADER = "default"
PAPER_BENCHMARKS = ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")


_OF_CHAINS = (
    *("rounds", "summariser", "summariser_url", "summary_tokens"),
    *("summary_temperature", "summary_top_p", "summary_top_k"),
)


def _key(default: Any, meaning: str = "") -> Any:
    """A key with its default and, for `--help`, what it means."""
    return field(default=default, metadata={"help": meaning})


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Keys of the steps `generate` and `score`; the first group is what a run is, and may not change when it goes on."""

    model: str = _key("", "a Hugging Face folder or hub id, a trainer's checkpoint, a LoRA adapter")
    prompt_type: str = _key("chat", "chat (the tokenizer's own template) or a published template by name")
    system_prompt: str | None = _key(None, "with chat: a system message, may be empty; null leaves it to the template")
    instruction: str = _key("\n" + BOXED, "with chat: put behind each problem")
    thinking: bool | None = _key(None, "with chat: enable_thinking of the template; null leaves it to the template")
    temperature: float = _key(1.0, "0 is greedy")
    top_p: float = _key(1.0)
    top_k: int = _key(-1, "-1 or 0 is off")
    repetition_penalty: float = _key(1.0)
    max_tokens: int = _key(4096, "most tokens of a response")
    fit_context: bool = _key(False, "a response may end where the model's context does, as in the published runs")
    seed: int = _key(0)
    strategy: str = _key("direct", "direct, or reasoning_cache: reason, summarise, reason again from the summary")
    rounds: int = _key(3, "reasoning_cache: how often the model reasons; the last time gives the answer")
    summariser: str | None = _key(
        None, "reasoning_cache: the summariser's name at an endpoint; null is the model itself"
    )
    summary_tokens: int = _key(2048, "reasoning_cache: most tokens of a summary")
    summary_temperature: float = _key(0.7, "reasoning_cache: of summaries")
    summary_top_p: float = _key(0.8, "reasoning_cache: of summaries")
    summary_top_k: int = _key(20, "reasoning_cache: of summaries")
    engine: str = _key("vllm", f"one of {', '.join(ENGINES)}")
    dtype: str = _key("auto", f"of the weights: one of {', '.join(DTYPES)}")

    output_dir: str = _key("", "where everything goes")
    benchmarks: tuple[str, ...] = _key(PAPER_BENCHMARKS, "names or files (PATH or NAME:PATH), with commas between them")
    data_dir: str | None = _key(None, "where the benchmarks' files are; null fetches them from the hub")
    data_source: str | None = _key(None, "by which rule files are graded that do not say so; null is math")
    num_problems: int | None = _key(None, "of each benchmark only so many, from the first on")
    n_samples: int = _key(1, "of each problem")

    tokenizer: str | None = _key(None, "where it is not with the model")
    trust_remote_code: bool = _key(False)
    max_num_seqs: int | None = _key(None, "at a time; null: vllm and sglang choose, transformers 32, openai 64")
    tensor_parallel_size: int = _key(1, "GPUs that share a model; the other GPUs hold further copies")
    gpu_memory_utilization: float = _key(0.9, "vllm and sglang: share of a GPU's memory; on a CPU, of what is free")
    base_url: str = _key("http://localhost:8000/v1", "openai: the endpoint, without /completions")
    served_model: str | None = _key(None, "openai: the model's name there; null: the only one that is served")
    api_key_env: str = _key("OPENAI_API_KEY", "openai: the environment variable that holds the key")
    extra_params: bool = _key(True, "openai: send top_k and others that vLLM and SGLang know and OpenAI refuses")
    request_timeout_s: float = _key(3600.0, "openai: for one response")

    summariser_url: str | None = _key(None, "reasoning_cache: the summariser's endpoint; null is base_url")
    grader: str = _key("default", f"{DEFAULT_GRADER} (each source's own choices), {', '.join(POLICIES)}")
    grader_workers: int = _key(0, "processes; 0: as many as there are cores, 8 at most")
    grader_timeout_s: float = _key(5.0, "for one answer")
    evaluating_scorers: tuple[str, ...] = _key((), "reasoning-gym tasks whose scorer may run text as Python")
    code_cpu_s: float = _key(6.0, "programs: CPU seconds of one test")
    code_wall_s: float | None = _key(None, "programs: wall seconds of one test; null: 3 code_cpu_s + 2")
    code_memory_mb: int = _key(1024, "programs: address space")
    code_comparison: str = _key("lcb", f"programs: of standard output, one of {', '.join(COMPARISONS)}")
    code_sandbox: str = _key("auto", f"programs: the isolation, one of {', '.join(SANDBOXES)}")
    code_url: str | None = _key(None, f"programs: with code_sandbox={REMOTE}, the service without /run_code")
    judge: str | None = _key(
        None, "proofs: a YAML file of the judge's keys (docs/rewards.md), base_url and model among them"
    )
    judge_base_url: str | None = _key(None, "proofs: the judge's endpoint, in place of the file's")
    judge_model: str | None = _key(None, "proofs: the judge's name there, in place of the file's")
    after_think: bool = _key(False, "grade only what follows the last </think>")
    rm_scores: str | None = _key(None, "JSON lines with benchmark, problem, sample, score of a reward model, for rm@k")

    def __post_init__(self) -> None:
        def require(holds: bool, name: str, expected: str) -> None:
            if not holds:
                raise ConfigError(name, given=getattr(self, name), expected=expected)

        require(bool(self.output_dir), "output_dir", "a folder for the results")
        require(self.engine in ENGINES, "engine", f"one of {', '.join(ENGINES)}")
        require(self.dtype in DTYPES, "dtype", f"one of {', '.join(DTYPES)}")
        require(self.n_samples >= 1, "n_samples", "1 or more")
        require(self.n_samples == 1 or self.temperature > 0, "n_samples", "1 at temperature 0, where all are the same")
        require(self.num_problems is None or self.num_problems >= 1, "num_problems", "1 or more, or null for all")
        require(self.max_num_seqs is None or self.max_num_seqs >= 1, "max_num_seqs", "1 or more")
        require(self.tensor_parallel_size >= 1, "tensor_parallel_size", "1 or more")
        require(0 < self.gpu_memory_utilization <= 1, "gpu_memory_utilization", "a share above 0 and at most 1")
        require(self.base_url.startswith(("http://", "https://")), "base_url", "http://... or https://...")
        require(self.request_timeout_s > 0, "request_timeout_s", "a positive number of seconds")
        require(0 <= self.seed < 2**63, "seed", "0 to 2**63-1")
        require(self.grader in (DEFAULT_GRADER, *POLICIES), "grader", f"one of {DEFAULT_GRADER}, {', '.join(POLICIES)}")
        require(self.grader_workers >= 0, "grader_workers", "0 or more")
        require(self.grader_timeout_s > 0, "grader_timeout_s", "a positive number of seconds")
        require(self.strategy in STRATEGIES, "strategy", f"one of {', '.join(STRATEGIES)}")
        if self.strategy == REASONING_CACHE:
            require(self.rounds >= 1, "rounds", "1 or more")
            require(self.summary_tokens >= 1, "summary_tokens", "1 or more")
            require(self.summary_temperature >= 0, "summary_temperature", "0 or more")
            self.summary_sampling(seed=0, stop_token_ids=())
        else:
            for each in fields(self):
                if each.name in _OF_CHAINS and getattr(self, each.name) != each.default:
                    require(False, each.name, f"nothing without strategy={REASONING_CACHE}")
        url = self.summariser_url
        require(url is None or self.summariser is not None, "summariser_url", "nothing without a summariser")
        require(url is None or url.startswith(("http://", "https://")), "summariser_url", "http://... or https://...")
        check_names(self.evaluating_scorers)
        self.code_options  # noqa: B018 - refuses what cannot work
        self.sampling(seed=0, stop_token_ids=())
        self.prompt_options()

    def require_model(self) -> None:
        """Raises:
        ConfigError: no model was given, which only `generate` needs.
        """
        if not self.model:
            raise ConfigError("model", given=self.model, expected="a model folder, a hub id or a checkpoint")

    def prompt_options(self) -> PromptOptions:
        return PromptOptions(
            prompt_type=self.prompt_type,
            system_prompt=self.system_prompt,
            instruction=self.instruction,
            thinking=self.thinking,
        )

    def sampling(self, *, seed: int, stop_token_ids: Sequence[int], max_tokens: int | None = None) -> SamplingParams:
        """The sampling parameters of one request."""
        return SamplingParams(
            max_tokens=self.max_tokens if max_tokens is None else max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            stop_token_ids=tuple(stop_token_ids),
            seed=seed,
        )

    def summary_sampling(self, *, seed: int, stop_token_ids: Sequence[int]) -> SamplingParams:
        """The sampling parameters of one summary."""
        return SamplingParams(
            max_tokens=self.summary_tokens,
            temperature=self.summary_temperature,
            top_p=self.summary_top_p,
            top_k=self.summary_top_k,
            stop_token_ids=tuple(stop_token_ids),
            seed=seed,
        )

    @property
    def tests_dir(self) -> Path:
        """Where tests of programs are kept that are too large for every sample."""
        return Path(self.output_dir) / FOLDER

    @property
    def code_options(self) -> CodeOptions:
        """How programs are run and compared."""
        return CodeOptions(
            cpu_s=self.code_cpu_s,
            wall_s=self.code_wall_s,
            memory_mb=self.code_memory_mb,
            comparison=self.code_comparison,
            sandbox=self.code_sandbox,
            url=self.code_url or "",
            tests_dirs=(str(self.tests_dir),),
            key="code_",
        )

    @property
    def policy(self) -> GradingPolicy | None:
        """The grading policy, or None for each source's own."""
        return POLICIES.get(self.grader)

    @property
    def workers(self) -> int:
        """Grader processes."""
        return self.grader_workers or min(os.cpu_count() or 1, 8)


_NAMES = [each.name for each in fields(EvaluationConfig)]
IDENTITY = tuple(_NAMES[: _NAMES.index("output_dir")])
"""Keys that make a sample what it is."""


def read_config(arguments: Sequence[str]) -> EvaluationConfig:
    """The configuration of a command line.

    Raises:
        UserError: an argument that is not `key=value`, an unknown key, or a value that cannot work.
    """
    given: dict[str, Any] = {}
    kinds = typing.get_type_hints(EvaluationConfig)
    for argument in refuse_stray_blanks(arguments):
        key, equals, value = argument.partition("=")
        key = key.lstrip("+")
        if not equals:
            raise UserError(f"cannot read the argument {argument!r}: expected key=value")
        if key not in kinds:
            raise UnknownKeyError(key, kinds)
        given[key] = _read_value(key, value, kinds[key])
    return EvaluationConfig(**given)


def _read_value(key: str, value: str, kind: Any) -> Any:
    if isinstance(kind, types.UnionType):
        if value.lower() in ("null", "none"):
            return None
        kind = typing.get_args(kind)[0]
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ConfigError(key, given=value, expected="true or false")
        return value.lower() == "true"
    if kind in (int, float):
        try:
            return kind(value)
        except ValueError:
            expected = "a whole number" if kind is int else "a number"
            raise ConfigError(key, given=value, expected=expected) from None
    if typing.get_origin(kind) is tuple:
        return tuple(item.strip().strip("'\"") for item in value.strip("[]").split(",") if item.strip())
    return value.replace("\\n", "\n") if key in ("instruction", "system_prompt") else value
