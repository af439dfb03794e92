"""The step that samples: every problem's missing responses, appended as they are finished."""

from __future__ import annotations

import hashlib
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.benchmarks import (
    BENCHMARKS,
    CODE_BENCHMARKS,
    Problem,
    canonical_names,
    fingerprint,
    load_problems,
)
from verl_ext.evaluation.checkpoints import model_folder_of
from verl_ext.evaluation.config import REASONING_CACHE, EvaluationConfig
from verl_ext.evaluation.engines import Completion, Request, make_engine
from verl_ext.evaluation.grading import answer_of, grader_pool, submit_grade
from verl_ext.evaluation.judging import check_judges
from verl_ext.evaluation.progress import Progress
from verl_ext.evaluation.prompts import Prompt, PromptBuilder
from verl_ext.evaluation.reasoning_cache import Chains, longest_request
from verl_ext.evaluation.run_identity import Run, require_same_run, run_of
from verl_ext.evaluation.store import Lines, key_of, samples_file
from verl_ext.model_folder import read_hf_config
from verl_ext.reward.code import store
from verl_ext.reward.code.tests import MalformedTests, read_tests, require_place
from verl_ext.reward.pool import GraderPool
from verl_ext.reward.scorers import require_allowed
from verl_ext.reward.sources import rule_for
from verl_ext.sandbox.pool import choose
from verl_ext.sandbox.remote import REMOTE

SEED_LIMIT = 2**31
"""Servers of other makes take no larger seed."""


def generate(config: EvaluationConfig, *, to_be_graded: bool = False) -> Run:
    """Generate what is missing of a run; returns what it is, complete.

    Args:
        config: of the evaluation.
        to_be_graded: whether the step `score` comes next with the same keys, so that a judge has to be there.

    Raises:
        UserError: the input cannot work, or the folder holds another run.
    """
    config.require_model()
    if not sys.stderr.isatty():
        transformers_logging.disable_progress_bar()
    sources = canonical_names(config.benchmarks)
    problems = {name: _load(name, source, config) for name, source in sources.items()}
    if to_be_graded:
        for loaded in problems.values():
            check_judges(config, loaded)
    model_path = model_folder_of(config.model, Path(config.output_dir)) if config.engine != "openai" else config.model
    run = run_of(
        config,
        model_path,
        {
            name: {
                "source": sources[name],
                "problems": len(loaded[: config.num_problems]),
                "n_samples": config.n_samples,
                "fingerprint": fingerprint(loaded),
            }
            for name, loaded in problems.items()
        },
    )
    output_dir = Path(config.output_dir)
    require_same_run(run, output_dir)
    problems = {name: loaded[: config.num_problems] for name, loaded in problems.items()}
    builder = PromptBuilder(config.prompt_options(), load_tokenizer(config, model_path))
    prompts = {problem.name: builder.build(problem) for loaded in problems.values() for problem in loaded}
    context = _context_length(config, model_path)
    _require_room(prompts, config, context)
    if config.strategy == REASONING_CACHE:
        longest_request(config, builder, (problem for loaded in problems.values() for problem in loaded), context)
    run.write(output_dir)
    _generate_missing(config, model_path, builder, problems, prompts, context)
    return run


def request_seed(seed: int, benchmark: str, problem: int, sample: int) -> int:
    """The seed of one sample, which depends on nothing else, so that a resumed run draws what it would have drawn."""
    digest = hashlib.sha256(f"{seed}/{benchmark}/{problem}/{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") % SEED_LIMIT


def load_tokenizer(config: EvaluationConfig, model_path: str) -> PreTrainedTokenizerBase | None:
    """The tokenizer; None for an endpoint whose model is not here either.

    Raises:
        UserError: it cannot be loaded.
    """
    path = config.tokenizer or model_path
    if config.engine == "openai" and config.tokenizer is None and not Path(path).is_dir():
        return None
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=config.trust_remote_code)
    except (OSError, ValueError) as error:
        hint = "; name it with tokenizer=..." if config.tokenizer is None else ""
        raise UserError(f"tokenizer: cannot load it from {path}: {' '.join(str(error).split())[:300]}{hint}") from error


def _load(name: str, source: str, config: EvaluationConfig) -> list[Problem]:
    problems = load_problems(
        source, data_dir=config.data_dir, data_source=config.data_source, tests_dir=str(config.tests_dir)
    )
    for data_source in sorted({problem.data_source for problem in problems}):
        require_allowed(rule_for(data_source).task, config.evaluating_scorers)
        if rule_for(data_source).extraction == "code":
            choose(config.code_sandbox, config.code_url or "")
            _require_place(problems, config)
    published = BENCHMARKS[name].problems if name in BENCHMARKS else CODE_BENCHMARKS.get(name)
    if published is not None and len(problems) != published:
        print(f"{name}: {len(problems)} problems; the published file has {published}", file=sys.stderr)
    return problems


def _require_place(problems: Sequence[Problem], config: EvaluationConfig) -> None:
    """Raises:
    ConfigError: programs with tests that the sandbox cannot run.
    """
    for problem in problems if config.code_sandbox == REMOTE else ():
        try:
            require_place(read_tests(store.get(str(problem.gold), config.code_options.tests_dirs)), REMOTE)
        except MalformedTests as error:
            raise ConfigError(
                "code_sandbox", given=REMOTE, expected=f"another one for {problem.name} ({error})"
            ) from None


def _context_length(config: EvaluationConfig, model_path: str) -> int | None:
    if config.engine == "openai" and not Path(model_path).is_dir():
        return None
    text_config = read_hf_config(model_path, trust_remote_code=config.trust_remote_code).get_text_config()
    return getattr(text_config, "max_position_embeddings", None)


def _require_room(prompts: Mapping[str, Prompt], config: EvaluationConfig, context: int | None) -> None:
    """Check that prompts and responses fit into the model's context.

    Raises:
        ConfigError: they do not; it says what would fit.
    """
    if context is None or config.engine == "openai" and config.tokenizer is None:
        return
    longest = max(prompts, key=lambda name: len(prompts[name].token_ids))
    room = context - len(prompts[longest].token_ids)
    if room < 1:
        raise ConfigError(
            "model", given=config.model, expected=f"a context above {context}: {longest} has {context - room} tokens"
        )
    if room < config.max_tokens and not config.fit_context:
        raise ConfigError(
            "max_tokens",
            given=config.max_tokens,
            expected=f"{room} or less: the model's context is {context} and {longest} has {context - room} tokens "
            "(or fit_context=true: a response may end where the context does)",
        )
    short = sum(context - len(prompt.token_ids) < config.max_tokens for prompt in prompts.values())
    if short:
        print(
            f"fit_context: {short} of {len(prompts)} prompts leave less than {config.max_tokens} tokens "
            f"in a context of {context}; their responses end there",
            file=sys.stderr,
        )


def _generate_missing(
    config: EvaluationConfig,
    model_path: str,
    builder: PromptBuilder,
    problems: Mapping[str, Sequence[Problem]],
    prompts: Mapping[str, Prompt],
    context: int | None,
) -> None:
    output_dir = Path(config.output_dir)
    with ExitStack() as stack:
        files = {name: stack.enter_context(Lines(samples_file(output_dir, name))) for name in problems}
        verdicts = RunningVerdicts(stack.enter_context(grader_pool(config)), config)
        wanted = {
            f"{name}/{problem.index}/{sample}": (problem, sample)
            for sample in range(config.n_samples)  # every problem's first sample first: the running accuracy is fair
            for name, loaded in problems.items()
            for problem in loaded
        }
        total = len(wanted)
        for name, file in files.items():
            for record in file.read():
                problem, sample = key_of(record)
                found = wanted.pop(f"{name}/{problem}/{sample}", None)
                if found is not None:
                    verdicts.add(answer_of(record), found[0])
        if not wanted:
            return
        longest = max(len(prompts[problem.name].token_ids or ()) for problem, _ in wanted.values()) + config.max_tokens
        longest = longest if context is None else min(longest, context)
        asked = {chain: prompts[problem.name] for chain, (problem, _) in wanted.items()}
        if config.strategy == REASONING_CACHE:
            longest = longest_request(config, builder, (problem for problem, _ in wanted.values()), context) or longest
        engine = stack.enter_context(closing(make_engine(config, model_path, builder, longest)))
        if config.strategy == REASONING_CACHE:
            chains = Chains(config, builder, wanted, context)
            chains.complete(engine)
            asked = {chain: chains.prompt(chain) for chain in wanted}
        requests = [
            _request(request_id, config, builder, asked[request_id], problem, sample, context)
            for request_id, (problem, sample) in wanted.items()
        ]
        progress = stack.enter_context(Progress("generate", total, total - len(wanted)))
        for completion in _checked(engine.generate(requests), len(wanted)):
            problem, sample = wanted[completion.request_id]
            prompt = asked[completion.request_id]
            record = _record(problem, sample, prompt, completion, completes=builder.completes)
            files[problem.benchmark].append(record)
            verdicts.add(answer_of(record), problem)
            for correct in verdicts.settled():
                progress.graded(correct)
            progress.add(completion.tokens)


def _request(
    request_id: str,
    config: EvaluationConfig,
    builder: PromptBuilder,
    prompt: Prompt,
    problem: Problem,
    sample: int,
    context: int | None,
) -> Request:
    room = config.max_tokens if context is None else min(config.max_tokens, context - len(prompt.token_ids or ()))
    seed = request_seed(config.seed, problem.benchmark, problem.index, sample)
    return Request(
        request_id, prompt, config.sampling(seed=seed, stop_token_ids=builder.stop_token_ids, max_tokens=room)
    )


def _checked(completions: Iterator[Completion], expected: int) -> Iterator[Completion]:
    """The completions, once it is sure at the end that none is missing: an engine that loses one must not pass."""
    count = 0
    for completion in completions:
        count += 1
        yield completion
    if count != expected:
        raise RuntimeError(f"the engine returned {count} responses to {expected} requests")


def _record(
    problem: Problem, sample: int, prompt: Prompt, completion: Completion, *, completes: bool
) -> dict[str, Any]:
    more = {"tags": dict(problem.tags), "completes": completes} if problem.is_code else {}
    if problem.is_judged:
        more["rubric"] = problem.rubric
    return {
        **more,
        "problem": problem.index,
        "sample": sample,
        "question": problem.question,
        "gold": problem.gold,
        "data_source": problem.data_source,
        "tolerance": problem.tolerance,
        "prompt": prompt.text,
        "prompt_tokens": None if prompt.token_ids is None else len(prompt.token_ids),
        "response": completion.text,
        "tokens": completion.tokens,
        "finish_reason": completion.finish_reason,
    }


class RunningVerdicts:
    """Grades beside the generation, for the running accuracy alone: the step `score` is what counts."""

    def __init__(self, pool: GraderPool, config: EvaluationConfig) -> None:
        self._pool = pool
        self._config = config
        self._settled: deque[bool] = deque()  # filled from the pool's threads

    def add(self, response: str, problem: Problem) -> None:
        if problem.is_judged:  # one request more for each answer, for a number that is only shown
            return
        future = submit_grade(
            self._pool, self._config, response, problem.gold, problem.data_source, tolerance=problem.tolerance
        )
        future.add_done_callback(lambda done: self._settled.append(done.result().correct))

    def settled(self) -> Iterator[bool]:
        """The verdicts that have come since the last call."""
        while self._settled:
            yield self._settled.popleft()
