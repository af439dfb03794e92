"""vLLM, where it is installed: the prompts and the greedy responses of the transformers engine, and repeatable samples."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.tiny_model import byte_tokenizer, save_tiny_model
from verl_ext.evaluation.benchmarks import Problem
from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.engines import Request, make_engine
from verl_ext.evaluation.generate import request_seed
from verl_ext.evaluation.prompts import PromptBuilder

pytest.importorskip("vllm")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """With heads of a size that vLLM's kernels have."""
    return save_tiny_model(tmp_path_factory.mktemp("model"), hidden_size=256)


def generated(model, engine, *keys):
    """{request: completion}, each request twice."""
    config = read_config(
        [
            f"model={model}",
            "output_dir=out",
            f"engine={engine}",
            "dtype=float32",
            "max_tokens=24",
            "max_num_seqs=4",
            *keys,
        ]
    )
    builder = PromptBuilder(config.prompt_options(), byte_tokenizer())
    problems = [Problem("own", n, f"What is {n} + 1?", str(n + 1), "math") for n in range(8)]
    requests = [
        Request(
            f"own/{problem.index}/{again}",
            builder.build(problem),
            config.sampling(seed=request_seed(0, "own", problem.index, 0), stop_token_ids=builder.stop_token_ids),
        )
        for problem in problems
        for again in range(2)
    ]
    engine = make_engine(config, str(model), builder, 400)
    try:
        return {completion.request_id: completion for completion in engine.generate(requests)}
    finally:
        engine.close()


def test_greedy_responses_are_those_of_transformers(model):
    ours, theirs = (generated(model, engine, "temperature=0") for engine in ("transformers", "vllm"))
    assert len(ours) == 16 and ours.keys() == theirs.keys()
    # A random model has near ties, which two ways of rounding may decide differently. A character that the limit of
    # tokens cuts in two is a replacement character to transformers and nothing to vLLM.
    ours, theirs = (
        {name: replace(completion, text=completion.text.rstrip("\ufffd")) for name, completion in side.items()}
        for side in (ours, theirs)
    )
    assert sum(ours[name] == theirs[name] for name in ours) >= 14


def test_the_same_seed_draws_the_same_sample(model):
    samples = generated(model, "vllm", "temperature=1", "top_p=0.9", "top_k=50")
    first = [samples[f"own/{n}/0"].text for n in range(8)]
    assert first == [samples[f"own/{n}/1"].text for n in range(8)] and len(set(first)) > 4
