"""Keys on a command line: read by their kind, refused by name."""

import pytest

from verl_ext.errors import UserError
from verl_ext.evaluation.config import IDENTITY, EvaluationConfig, read_config


def read(*arguments):
    return read_config(["output_dir=out", *arguments])


def test_values_are_read_by_their_kind():
    config = read(
        *("model=a=b", "benchmarks=[aime24, 'amc23']", "temperature=0", "n_samples=1", "thinking=True", "top_p=.7"),
        *("system_prompt=", "instruction=\\nBox it.", "max_num_seqs=null", "+seed=7"),
    )
    assert (config.model, config.benchmarks, config.temperature) == ("a=b", ("aime24", "amc23"), 0.0)
    assert (config.thinking, config.top_p, config.system_prompt) == (True, 0.7, "")
    assert (config.instruction, config.max_num_seqs, config.seed) == ("\nBox it.", None, 7)


def test_defaults_are_the_paper_s_protocol():
    config = read()
    assert config.benchmarks == ("math500", "minerva_math", "olympiadbench", "aime24", "amc23")
    assert (config.temperature, config.top_p, config.max_tokens, config.seed) == (1.0, 1.0, 4096, 0)


def test_identity_is_what_makes_a_sample():
    assert {"model", "prompt_type", "temperature", "seed", "engine", "dtype", "fit_context"} <= set(IDENTITY)
    assert not {"output_dir", "n_samples", "benchmarks", "grader", "max_num_seqs"} & set(IDENTITY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["temprature=1"], "unknown key temprature; did you mean temperature"),
        (["model"], "cannot read the argument 'model': expected key=value"),
        ([" ", "model=x"], "argument 2 is blank: the line with 'output_dir=out'"),
        (["n_samples=two"], "n_samples: got 'two', expected a whole number"),
        (["temperature=hot"], "temperature: got 'hot', expected a number"),
        (["fit_context=1"], "fit_context: got '1', expected true or false"),
        (["output_dir="], "output_dir: got '', expected a folder"),
        (["engine=tgi"], "engine: got 'tgi', expected one of vllm, sglang, openai, transformers"),
        (["prompt_type=chatml"], "prompt_type: got 'chatml', expected .*qwen-boxed"),
        (["temperature=0", "n_samples=4"], "n_samples: got 4, expected 1 at temperature 0"),
        (["temperature=-1"], "temperature"),
        (["top_p=0"], "top_p"),
        (["max_tokens=0"], "max_tokens"),
        (["grader=gpt"], "grader: got 'gpt', expected one of default, strict, published, qwen"),
        (["base_url=localhost:8000"], "base_url: got 'localhost:8000', expected http"),
        (["dtype=int8"], "dtype: got 'int8', expected one of auto"),
        (["num_problems=0"], "num_problems"),
        (["seed=-1"], "seed"),
    ],
)
def test_what_cannot_work_is_refused_by_name(arguments, message):
    with pytest.raises(UserError, match=message):
        read(*arguments)


def test_every_key_says_what_it_means_or_is_the_sampler_s_own_word():
    silent = {name for name, field in EvaluationConfig.__dataclass_fields__.items() if not field.metadata["help"]}
    assert silent == {"top_p", "repetition_penalty", "seed", "trust_remote_code"}
