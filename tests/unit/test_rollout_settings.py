import dataclasses

import pytest
import torch
from verl.workers.config import HFModelConfig, RolloutConfig

from verl_ext.errors import UserError
from verl_ext.rollout.settings import HFSettings


def settings(model: dict | None = None, **rollout) -> HFSettings:
    values = {"prompt_length": 10, "response_length": 6, "tensor_model_parallel_size": 1, **rollout}
    plain = {"lora": {}, "lora_rank": 0, **(model or {})}
    return HFSettings(RolloutConfig(name="hf", **values), plain)


def request(given: dict, *, prompt_length: int = 4, request_id: str = "a", replica_rank: int = 0, **rollout):
    return settings(**rollout).sampling_params(
        given, prompt_length=prompt_length, max_model_len=64, request_id=request_id, replica_rank=replica_rank
    )


@pytest.mark.parametrize(
    ("rollout", "model", "line"),
    [
        (
            {"dtype": "float8"},
            {},
            "actor_rollout_ref.rollout.dtype: got 'float8', expected bfloat16 or float32 with name=hf",
        ),
        ({"temperature": -1.0}, {}, "sampling.temperature: got -1.0, expected 0 (greedy) or a positive number"),
        (
            {"quantization": "fp8"},
            {},
            "actor_rollout_ref.rollout.quantization: got 'fp8', expected null or False with name=hf",
        ),
        (
            {"logprobs_mode": "raw_logprobs"},
            {},
            "actor_rollout_ref.rollout.logprobs_mode: got 'raw_logprobs', expected processed_logprobs with name=hf",
        ),
        (
            {},
            {"lora_rank": 8},
            (
                "actor_rollout_ref.model.lora.merge: got False, expected True with name=hf: its servers take whole weights, "
                "not adapters"
            ),
        ),
        (
            {"engine_kwargs": {"hf": {"threads": 2}}},
            {},
            (
                "unknown key actor_rollout_ref.rollout.engine_kwargs.hf.threads; did you mean "
                "actor_rollout_ref.rollout.engine_kwargs.hf.num_threads?"
            ),
        ),
        (
            {"engine_kwargs": {"hf": {"kv_cache_gb": 0}}},
            {},
            "actor_rollout_ref.rollout.engine_kwargs.hf.kv_cache_gb: got 0, expected a positive number",
        ),
    ],
)
def test_what_the_engine_cannot_do_is_refused_by_its_key(rollout, model, line):
    with pytest.raises(UserError) as error:
        settings(model, **rollout)
    assert str(error.value) == line


def test_merged_adapters_and_options_are_accepted():
    accepted = settings(
        {"lora_rank": 8, "lora": {"merge": True}},
        dtype="float32",
        data_parallel_size=2,
        engine_kwargs={"hf": {"num_threads": 3}, "vllm": {"anything": 1}},
    )
    assert (accepted.dtype, accepted.ranks_per_server, accepted.options.num_threads) == (torch.float32, 2, 3)


def test_a_request_takes_what_it_does_not_say_from_the_configuration():
    params = request({"logprobs": True}, temperature=0.6, top_p=0.9, top_k=5, repetition_penalty=1.2, ignore_eos=True)
    assert dataclasses.asdict(params) == {
        "max_tokens": 6,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 5,
        "repetition_penalty": 1.2,
        "stop_token_ids": (),
        "ignore_eos": True,
        "seed": None,
    }
    own = request({"temperature": 0, "top_k": -1, "stop_token_ids": [3], "seed": 7}, top_k=5)
    assert (own.temperature, own.top_k, own.stop_token_ids, own.seed) == (0, -1, (3,), 7)


@pytest.mark.parametrize(
    ("given", "prompt_length", "max_tokens"),
    [
        ({}, 4, 6),
        ({}, 13, 3),  # what the prompt has too much, the response has less
        ({}, 40, 1),
        ({"max_tokens": 30}, 4, 30),
        ({"max_new_tokens": 30}, 4, 30),
        ({"max_tokens": 100}, 4, 60),  # the context ends
        ({"max_tokens": 0}, 4, 1),
    ],
)
def test_the_limit_of_a_response_is_that_of_verls_servers(given, prompt_length, max_tokens):
    assert request(given, prompt_length=prompt_length).max_tokens == max_tokens


def test_a_parameter_of_other_engines_is_refused_by_name():
    with pytest.raises(UserError, match="^sampling.min_p: got 0.1, expected one of temperature, "):
        request({"min_p": 0.1})


def test_full_determinism_seeds_a_request_by_its_id():
    seeds = {
        (request_id, replica): request({}, request_id=request_id, replica_rank=replica, full_determinism=True).seed
        for request_id in ("det-0", "det-1", "det-10")
        for replica in (0, 1)
    }
    assert len(set(seeds.values())) == 6
    assert seeds["det-1", 1] == request({}, request_id="det-1", replica_rank=1, full_determinism=True).seed


def test_verls_own_configuration_classes_are_understood(model_folder):
    model = HFModelConfig(path=str(model_folder), lora_rank=4, lora={"merge": True})
    assert HFSettings(RolloutConfig(name="hf"), model).dtype == torch.bfloat16
