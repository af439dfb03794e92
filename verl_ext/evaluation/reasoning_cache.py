"""Reasoning with a cache: reason, summarise, reason again from the summary (QED-Nano's strategy at test time).

A round asks the model for a solution, given the problem and a summary of the attempts before; its reasoning is then
summarised, by the same model or another, and the summary replaces the one before. The answer is what the last round says.

It goes around an engine, in passes over all samples: every reasoning of round 1, every summary of round 1, and so on, each
kept in `samples/NAME.rounds.jsonl` as it is finished. A run that was killed goes on in the middle of a pass, and draws
what it would have drawn.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from verl_ext.errors import ConfigError
from verl_ext.evaluation.benchmarks import Problem
from verl_ext.evaluation.config import REASONING_CACHE, EvaluationConfig
from verl_ext.evaluation.engines import Completion, Engine, Request, make_engine
from verl_ext.evaluation.progress import Progress
from verl_ext.evaluation.prompts import Prompt, PromptBuilder
from verl_ext.evaluation.store import Lines, key_of

Kind = Literal["reasoning", "summary"]
NO_SUMMARY = "[No previous summary]"
REASONING = """\
Here is a problem, and a summary of what was tried before. Use of the summary what is right, mend what is wrong, and go on from there; it may be empty or mistaken.

# Problem

{problem}

# Summary of earlier attempts

{summary}

# Task

Solve the problem. Write the whole solution, so that it can be read without the summary."""
SUMMARY = """\
Someone works on a problem in several rounds and remembers nothing between them but one summary. Write the summary for the next round.

# Problem

{problem}

# Summary so far

{summary}

# Reasoning of this round

{reasoning}

# Task

Write one summary that replaces the one so far. Keep what helps to solve the problem: results that were proven and how, cases that are done, ideas that failed and why, and what is left to do. Mark what is a guess. Do not solve the problem further, and leave out everything else."""
_PLACEHOLDER = re.compile(r"\{(problem|summary|reasoning)\}")
SEED_LIMIT = 2**31


def _fill(template: str, **values: str) -> str:
    """One substitution, which does not look at what it put in."""
    return _PLACEHOLDER.sub(lambda match: values[match.group(1)], template)


def reasoning_prompt(builder: PromptBuilder, problem: Problem, summary: str) -> Prompt:
    """What the model is asked in a round; `summary` is empty in the first."""
    return builder.build(
        problem, around=lambda content: _fill(REASONING, problem=content, summary=summary or NO_SUMMARY)
    )


def summary_prompt(builder: PromptBuilder, problem: Problem, summary: str, reasoning: str) -> Prompt:
    """What the summariser is asked behind a round."""
    return builder.build_text(
        _fill(SUMMARY, problem=problem.question, summary=summary or NO_SUMMARY, reasoning=reasoning)
    )


def cached(response: str) -> str:
    """What of a round's response is summarised: its reasoning, without the tags, also where it was cut off."""
    return response.partition("</think>")[0].replace("<think>", "").strip()


def seed_of(seed: int, problem: Problem, sample: int, number: int, kind: Kind) -> int:
    """The seed of one text of a chain, which depends on nothing else."""
    digest = hashlib.sha256(f"{seed}/{problem.benchmark}/{problem.index}/{sample}/{number}/{kind}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEED_LIMIT


def rounds_file(output_dir: Path, benchmark: str) -> Path:
    """Where the texts between the rounds are kept."""
    return output_dir / "samples" / f"{benchmark}.rounds.jsonl"


@dataclass(frozen=True)
class _Step:
    """One text of one chain."""

    chain: str
    number: int
    kind: Kind


class Chains:
    """The chains of all samples that are wanted.

    Args:
        config: `rounds`, and how summaries are sampled.
        builder: renders prompts.
        wanted: chain -> (problem, sample).
        context: tokens that the model can hold; None where nobody knows.
    """

    def __init__(
        self,
        config: EvaluationConfig,
        builder: PromptBuilder,
        wanted: Mapping[str, tuple[Problem, int]],
        context: int | None,
    ) -> None:
        self._config, self._builder, self._wanted, self._context = config, builder, wanted, context
        self._texts: dict[_Step, str] = {}
        self._summariser_builder = builder if config.summariser is None else PromptBuilder(builder.options, None)

    def complete(self, engine: Engine) -> None:
        """Make what is missing of every round but the last."""
        output_dir = Path(self._config.output_dir)
        with ExitStack() as stack:
            benchmarks = {problem.benchmark for problem, _ in self._wanted.values()}
            files = {name: stack.enter_context(Lines(rounds_file(output_dir, name))) for name in sorted(benchmarks)}
            for name, file in files.items():
                for record in file.read():
                    problem, sample = key_of(record)
                    step = _Step(f"{name}/{problem}/{sample}", record["round"], record["kind"])
                    self._texts[step] = record["text"]
            summariser = engine
            if self._config.summariser is not None:
                summariser = stack.enter_context(closing(self._summariser()))
            for number in range(1, self._config.rounds):
                self._pass(number, "reasoning", engine, files)
                self._pass(number, "summary", summariser, files)

    def prompt(self, chain: str) -> Prompt:
        """Of the last round, whose response is the answer."""
        return reasoning_prompt(self._builder, self._wanted[chain][0], self._summary(chain, self._config.rounds))

    def _summary(self, chain: str, number: int) -> str:
        """What round `number` starts from."""
        return self._texts[_Step(chain, number - 1, "summary")] if number > 1 else ""

    def _summariser(self) -> Engine:
        config = replace(
            self._config,
            engine="openai",
            base_url=self._config.summariser_url or self._config.base_url,
            served_model=self._config.summariser,
        )
        return make_engine(config, self._config.model, self._summariser_builder, 0)

    def _pass(self, number: int, kind: Kind, engine: Engine, files: Mapping[str, Lines]) -> None:
        missing = [chain for chain in self._wanted if _Step(chain, number, kind) not in self._texts]
        if not missing:
            return
        requests = [self._request(chain, number, kind) for chain in missing]
        done = len(self._wanted) - len(missing)
        with Progress(f"round {number} of {self._config.rounds}, {kind}", len(self._wanted), done) as progress:
            for completion in engine.generate(requests):
                problem, sample = self._wanted[completion.request_id]
                files[problem.benchmark].append(_record(problem, sample, number, kind, completion))
                self._texts[_Step(completion.request_id, number, kind)] = completion.text
                progress.add(completion.tokens)

    def _request(self, chain: str, number: int, kind: Kind) -> Request:
        problem, sample = self._wanted[chain]
        before = self._summary(chain, number)
        seed = seed_of(self._config.seed, problem, sample, number, kind)
        if kind == "reasoning":
            prompt = reasoning_prompt(self._builder, problem, before)
            params = self._config.sampling(
                seed=seed, stop_token_ids=self._builder.stop_token_ids, max_tokens=self._room(prompt)
            )
            return Request(chain, prompt, params)
        prompt = self._summary_prompt(problem, before, cached(self._texts[_Step(chain, number, "reasoning")]))
        stops = self._summariser_builder.stop_token_ids
        return Request(chain, prompt, self._config.summary_sampling(seed=seed, stop_token_ids=stops))

    def _summary_prompt(self, problem: Problem, before: str, reasoning: str) -> Prompt:
        """With the end of a reasoning that does not fit: read again, a text can be more tokens than it was written in."""
        prompt = summary_prompt(self._summariser_builder, problem, before, reasoning)
        if self._context is None or prompt.token_ids is None:
            return prompt
        while reasoning and (over := len(prompt.token_ids) + self._config.summary_tokens - self._context) > 0:
            reasoning = reasoning[max(over, len(reasoning) // 20) :]
            prompt = summary_prompt(self._summariser_builder, problem, before, reasoning)
        return prompt

    def _room(self, prompt: Prompt) -> int:
        if self._context is None or prompt.token_ids is None:
            return self._config.max_tokens
        return max(1, min(self._config.max_tokens, self._context - len(prompt.token_ids)))


def longest_request(
    config: EvaluationConfig, builder: PromptBuilder, problems: Iterable[Problem], context: int | None
) -> int:
    """Tokens of the longest prompt of any round with its response; 0 where there is no tokenizer here.

    Raises:
        ConfigError: they do not fit into the model's context; it says what would.
    """
    fixed = 0
    for problem in problems:
        prompts = [reasoning_prompt(builder, problem, "")]
        if config.summariser is None:
            prompts.append(summary_prompt(builder, problem, "", ""))
        if prompts[0].token_ids is None:
            return 0
        # A summary stands in the prompt; behind a round, its reasoning does too, and another summary is written.
        more = (config.summary_tokens, 2 * config.summary_tokens)
        fixed = max(fixed, *(len(prompt.token_ids) + add for prompt, add in zip(prompts, more, strict=False)))
    if context is not None and fixed + config.max_tokens > context:
        raise ConfigError(
            "max_tokens",
            given=config.max_tokens,
            expected=f"{max(context - fixed, 0)} or less with strategy={REASONING_CACHE}: the model's context is {context}, "
            f"and problem, summaries and instructions take up to {fixed}",
        )
    return fixed + config.max_tokens


def _record(problem: Problem, sample: int, number: int, kind: Kind, completion: Completion) -> dict[str, object]:
    return {
        "problem": problem.index,
        "sample": sample,
        "round": number,
        "kind": kind,
        "text": completion.text,
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
    }
