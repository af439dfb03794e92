"""Engines: the same parameters mean the same, stops, out of memory, an endpoint in all its moods."""

import pytest
import torch
from aiohttp import web

from tests.support.endpoint import endpoint, reply
from tests.support.tiny_model import byte_tokenizer
from verl_ext.errors import ConfigError, UserError
from verl_ext.evaluation.benchmarks import Problem
from verl_ext.evaluation.config import read_config
from verl_ext.evaluation.engines import (
    Request,
    cut_at_stop,
    make_engine,
    openai_engine,
    openai_params,
    sglang_params,
    vllm_engine,
    vllm_params,
)
from verl_ext.evaluation.generate import request_seed
from verl_ext.evaluation.prompts import PromptBuilder
from verl_ext.rollout.requests import SamplingParams

OFF = SamplingParams(max_tokens=7, temperature=0.6, top_k=0, stop_token_ids=(2,), seed=3)
ON = SamplingParams(max_tokens=7, temperature=0.0, top_p=0.9, top_k=20, repetition_penalty=1.1, seed=3)


def config_of(model, *more):
    return read_config([f"model={model}", "output_dir=out", "engine=transformers", *more])


def requests_for(builder, config, count=6):
    problems = [Problem("own", n, f"What is {n} + 1?", str(n + 1), "math") for n in range(count)]
    return [
        Request(
            f"own/{n}/0", builder.build(problem), config.sampling(seed=request_seed(0, "own", n, 0), stop_token_ids=())
        )
        for n, problem in enumerate(problems)
    ]


def generated(model, *more, builder=None, count=6):
    """{request: completion}"""
    config = config_of(model, *more)
    builder = builder or PromptBuilder(config.prompt_options(), byte_tokenizer())
    engine = make_engine(config, str(model), builder, 500)
    try:
        return {done.request_id: done for done in engine.generate(requests_for(builder, config, count))}
    finally:
        engine.close()


def test_parameters_that_are_off_are_off_in_every_engine():
    assert {**vllm_params(OFF, ()), "top_k": -1, "repetition_penalty": 1.0} == vllm_params(OFF, ())
    assert {**sglang_params(OFF, ()), "top_k": -1, "repetition_penalty": 1.0} == sglang_params(OFF, ())
    sent = openai_params(OFF, (), extra=True)
    assert {**sent, "top_k": -1, "repetition_penalty": 1.0, "min_p": 0.0} == sent


def test_parameters_that_are_on_are_the_same_in_every_engine():
    vllm, sglang = vllm_params(ON, ["a"]), sglang_params(ON, ["a"])
    openai = openai_params(ON, ["a"], extra=True)
    for name in ("temperature", "top_p", "top_k", "repetition_penalty", "stop"):
        assert vllm[name] == sglang[name] == openai[name], name
    assert vllm["max_tokens"] == sglang["max_new_tokens"] == openai["max_tokens"] == 7
    assert vllm["seed"] == sglang["sampling_seed"] == openai["seed"] == 3


def test_openai_s_own_service_gets_what_it_knows():
    sent = openai_params(ON, ["a", "b", "c", "d", "own"], extra=False)
    assert sent == {
        "max_tokens": 7,
        "temperature": 0.0,
        "top_p": 0.9,
        "seed": 3,
        "n": 1,
        "stop": ["b", "c", "d", "own"],
    }


def test_vllm_takes_our_parameters_as_they_are_meant():
    vllm = pytest.importorskip("vllm")
    params = vllm.SamplingParams(**vllm_params(OFF, ("stop",)))
    assert (params.top_k, params.min_p, params.seed, params.max_tokens) in [(0, 0.0, 3, 7), (-1, 0.0, 3, 7)]
    assert params.stop == ["stop"] and list(params.stop_token_ids) == [2]


def test_seeds_depend_on_the_sample_alone():
    seeds = {request_seed(s, b, p, i) for s in (0, 1) for b in ("a", "b") for p in range(20) for i in range(4)}
    assert len(seeds) == 2 * 2 * 20 * 4 and max(seeds) < 2**31
    assert request_seed(0, "gsm8k", 3, 1) == 954847051


@pytest.mark.parametrize(("text", "cut"), [("a\n\nQuestion: b", "a"), ("a<|b", "a<|b"), ("", ""), ("x</s>y\n\nQ", "x")])
def test_a_response_ends_at_the_first_stop(text, cut):
    assert cut_at_stop(text, ["\n\nQuestion:", "</s>"]) == cut


def test_transformers_generates_what_the_seed_says_in_any_company(model_folder):
    alone = generated(model_folder, "max_tokens=16", "max_num_seqs=1")
    again = generated(model_folder, "max_tokens=16", "max_num_seqs=1")
    together = generated(model_folder, "max_tokens=16", "max_num_seqs=6")
    assert alone == again and len(alone) == 6
    # In other company sums are rounded differently, and a draw may fall that close to a boundary.
    assert sum(alone[name] == together[name] for name in alone) >= 5
    assert len({completion.text for completion in alone.values()}) == 6


def test_transformers_counts_tokens_and_says_why_it_ended(model_folder):
    completions = generated(model_folder, "max_tokens=40", "max_num_seqs=6").values()
    assert {completion.finish_reason for completion in completions} <= {"stop", "length"}
    for completion in completions:
        assert (completion.tokens == 40) or completion.finish_reason == "stop"
        assert "<|im_end|>" not in completion.text


def test_transformers_cuts_at_a_stop_string_and_counts_the_tokens_up_to_it(model_folder):
    whole = generated(model_folder, "max_tokens=30", "max_num_seqs=1", count=1)["own/0/0"]
    ending = whole.text[10:12]
    config = config_of(model_folder)
    builder = PromptBuilder(config.prompt_options(), byte_tokenizer())
    builder.stop = (ending,)
    cut = generated(model_folder, "max_tokens=30", "max_num_seqs=1", builder=builder, count=1)["own/0/0"]
    assert (cut.text, cut.finish_reason) == (cut_at_stop(whole.text, [ending]), "stop")
    assert 0 < cut.tokens < whole.tokens


class OutOfMemory:
    """A module hook that fails as torch does, while more tokens than it has room for are computed at once."""

    def __init__(self, room):
        self.room, self.failures = room, 0

    def __call__(self, module, arguments, keywords):
        if keywords["input_ids"].shape[1] > self.room:
            self.failures += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def with_room(model_folder, room, *more):
    config = config_of(model_folder, "max_tokens=16", *more)
    builder = PromptBuilder(config.prompt_options(), byte_tokenizer())
    engine = make_engine(config, str(model_folder), builder, 500)
    hook = OutOfMemory(room)
    engine._model.register_forward_pre_hook(hook, with_kwargs=True)
    return list(engine.generate(requests_for(builder, config))), hook


def test_out_of_memory_halves_the_batch_goes_on_and_says_so_once(model_folder, capsys):
    # A prompt has 104 tokens; the others take over what they share with it, and bring some 85 of their own.
    completions, hook = with_room(model_folder, 150, "max_num_seqs=6")
    assert sorted(completion.request_id for completion in completions) == [f"own/{n}/0" for n in range(6)]
    assert hook.failures == 2
    said = [line for line in capsys.readouterr().err.splitlines() if "memory" in line]
    assert said == [
        "out of memory with 6 sequences at a time: going on with 3",
        "out of memory with 3 sequences at a time: going on with 1",
    ]


def test_out_of_memory_with_one_sequence_is_one_line(model_folder):
    with pytest.raises(UserError, match="max_num_seqs: out of memory with one sequence at a time"):
        with_room(model_folder, 3, "max_num_seqs=2")


def test_another_error_of_the_model_is_not_taken_for_memory(model_folder):
    config = config_of(model_folder)
    builder = PromptBuilder(config.prompt_options(), byte_tokenizer())
    engine = make_engine(config, str(model_folder), builder, 500)

    def fail(*_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    engine._model.register_forward_pre_hook(fail, with_kwargs=True)
    with pytest.raises(RuntimeError, match="shapes"):
        list(engine.generate(requests_for(builder, config)))


@pytest.mark.parametrize("engine", ["vllm", "sglang"])
def test_an_engine_that_is_not_installed_is_named(engine, model_folder):
    if __import__("importlib.util").util.find_spec(engine):
        pytest.skip(f"{engine} is installed")
    config = config_of(model_folder, f"engine={engine}")
    with pytest.raises(ConfigError, match=f"engine: got '{engine}', expected transformers, or .* installed"):
        make_engine(config, str(model_folder), PromptBuilder(config.prompt_options(), byte_tokenizer()), 500)


def ask(url, *more, tokenizer=None, count=2):
    config = read_config(["model=served", "output_dir=out", "engine=openai", f"base_url={url}", "max_tokens=30", *more])
    builder = PromptBuilder(config.prompt_options(), tokenizer)
    engine = make_engine(config, "served", builder, 500)
    try:
        return list(engine.generate(requests_for(builder, config, count)))
    finally:
        engine.close()


def test_an_endpoint_gets_a_template_as_text_and_a_chat_as_messages():
    with endpoint(reply) as (url, seen):
        completions = ask(url, "prompt_type=cot", "temperature=0.5")
        ask(url, "prompt_type=chat", "system_prompt=Be brief.")
    assert [(done.text, done.tokens, done.finish_reason) for done in completions] == [("so \\boxed{5}", 9, "stop")] * 2
    path, body, _ = min(seen[:2], key=lambda each: each[1]["prompt"])
    assert (path, body["prompt"]) == ("/v1/completions", "Question: What is 0 + 1?\nAnswer:")
    assert (body["model"], body["temperature"], body["top_k"], body["max_tokens"]) == ("served", 0.5, -1, 30)
    assert "\n\nQuestion:" in body["stop"] and body["seed"] == request_seed(0, "own", 0, 0)
    path, body, _ = seen[2]
    assert path == "/v1/chat/completions" and "prompt" not in body
    assert [message["role"] for message in body["messages"]] == ["system", "user"]


def test_thoughts_that_a_server_sets_apart_are_part_of_the_response():
    def thoughtful(path, body):
        message = {"reasoning_content": "5 or 6", "content": "\\boxed{5}"}
        usage = {"prompt_tokens": 3, "completion_tokens": 9}
        return web.json_response({"choices": [{"message": message, "finish_reason": "length"}], "usage": usage})

    with endpoint(thoughtful) as (url, _):
        (done,) = ask(url, count=1)
    assert (done.text, done.finish_reason) == ("<think>5 or 6</think>\\boxed{5}", "length")


def test_what_may_pass_is_tried_again(monkeypatch):
    monkeypatch.setattr(openai_engine, "BACKOFF_S", 0.01)
    moods = iter([503, 429, 200, 200])

    def moody(path, body):
        status = next(moods)
        return reply(path, body) if status == 200 else web.Response(status=status, text="busy")

    with endpoint(moody) as (url, seen):
        assert len(ask(url, "max_num_seqs=1")) == 2
    assert len(seen) == 4


def test_an_endpoint_that_refuses_says_why_and_what_helps(monkeypatch):
    monkeypatch.setattr(openai_engine, "BACKOFF_S", 0.01)
    with (
        endpoint(lambda *_: web.Response(status=400, text="Unrecognized request argument: top_k")) as (url, _),
        pytest.raises(UserError, match="HTTP 400: Unrecognized .* top_k.*; extra_params=false leaves"),
    ):
        ask(url)
    with (
        endpoint(lambda *_: web.Response(status=500, text="no")) as (url, seen),
        pytest.raises(UserError, match=r"base_url: .*/chat/completions does not answer .HTTP 500: no.*is kept"),
    ):
        ask(url, count=1)
    assert len(seen) == openai_engine.RETRIES


def test_an_endpoint_that_is_down_is_one_line(monkeypatch):
    monkeypatch.setattr(openai_engine, "BACKOFF_S", 0.01)
    with pytest.raises(UserError, match="base_url: http://127.0.0.1:9/v1/models does not answer .ClientConnectorError"):
        ask("http://127.0.0.1:9/v1")


def test_an_answer_that_is_no_completion_is_named():
    with (
        endpoint(lambda *_: web.json_response({"choices": []})) as (url, _),
        pytest.raises(UserError, match="answered with something that is no completion"),
    ):
        ask(url)


def test_the_key_goes_into_the_header_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret-123")
    monkeypatch.setattr(openai_engine, "BACKOFF_S", 0.01)
    with endpoint(reply) as (url, seen):
        ask(url, "api_key_env=MY_KEY")
    assert seen[0][2]["Authorization"] == "Bearer secret-123"
    with pytest.raises(UserError) as error:
        ask("http://127.0.0.1:9/v1", "api_key_env=MY_KEY")
    assert "secret" not in str(error.value)


def test_the_served_model_is_found_or_must_be_named():
    with endpoint(reply, models=("a", "served")) as (url, seen):
        ask(url)
        assert seen[0][1]["model"] == "served"
        ask(url, "served_model=a")
        assert seen[-1][1]["model"] == "a"
    with (
        endpoint(reply, models=("a", "b")) as (url, _),
        pytest.raises(ConfigError, match="served_model: got None, expected one of those at .*: a, b"),
    ):
        ask(url)


def test_another_number_of_prompt_tokens_is_said_once(capsys):
    def longer(path, body):
        usage = {"prompt_tokens": 999, "completion_tokens": 9}
        return web.json_response({"choices": [{"text": "x", "finish_reason": "stop"}], "usage": usage})

    with endpoint(longer) as (url, _):
        ask(url, "prompt_type=cot", tokenizer=byte_tokenizer())
    assert capsys.readouterr().err.count("the endpoint reads 999 tokens") == 1


@pytest.mark.parametrize(
    ("visible", "gpus", "size", "groups"),
    [
        (None, 0, 1, [None]),
        (None, 4, 1, ["0", "1", "2", "3"]),
        ("2,5", 2, 1, ["2", "5"]),
        ("2,5,6,7", 4, 2, ["2,5", "6,7"]),
        ("GPU-aa,GPU-bb", 2, 2, ["GPU-aa,GPU-bb"]),
    ],
)
def test_vllm_gets_a_process_for_each_group_of_visible_gpus(monkeypatch, visible, gpus, size, groups):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert vllm_engine._device_groups(size) == groups
    if gpus:
        with pytest.raises(ConfigError, match="tensor_parallel_size: got 3, expected a number that divides"):
            vllm_engine._device_groups(3)
