"""Memory that vLLM is given on a processor: what the model needs, no more than is free, and a line where that fails."""

from __future__ import annotations

import psutil
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from verl_ext.errors import UserError
from verl_ext.platform.free_memory import free_bytes
from verl_ext.rollout.vllm_cpu_memory import (
    FIXED_BYTES,
    OPERATOR_VARIABLE,
    cache_bytes_per_token,
    keys_and_values_bytes,
    parameter_count,
)

GIB = 1 << 30
CONFIG = LlamaConfig(
    vocab_size=1000,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=3,
    num_attention_heads=8,
    num_key_value_heads=2,
)
OF_ONE = 2 * 128 * 2 * 3 * 2 * 32 * 4
"""Keys and values of a sequence of 200 tokens: 2 pages of 128, 3 layers, 2 heads of 32, fp32."""


@pytest.fixture(autouse=True)
def no_operator(monkeypatch):
    monkeypatch.delenv(OPERATOR_VARIABLE, raising=False)


def sized(**given) -> int | None:
    return keys_and_values_bytes(
        CONFIG,
        torch.float32,
        **{
            "sequences": 4,
            "length": 200,
            "free": 20 * GIB,
            "share": 0.9,
            "keys": ("dtype", "max_tokens", "gpu_memory_utilization"),
            **given,
        },
    )


def test_keys_and_values_are_those_of_the_model_itself():
    model = LlamaForCausalLM(CONFIG)
    cache = model(input_ids=torch.ones(1, 5, dtype=torch.long), use_cache=True).past_key_values
    held = sum(tensor.nbytes for layer in cache.layers for tensor in (layer.keys, layer.values))
    assert cache_bytes_per_token(CONFIG, torch.float32) == held / 5
    assert parameter_count(CONFIG) == model.num_parameters()


def test_parameters_are_counted_whatever_attention_is_asked_for():
    config = LlamaConfig(**CONFIG.to_dict(), attn_implementation="flash_attention_2")
    assert parameter_count(config) == parameter_count(CONFIG)
    assert config._attn_implementation == "flash_attention_2"


def test_a_small_model_gets_what_it_needs_and_not_a_share_of_the_machine():
    assert sized() == 5 * OF_ONE


@pytest.mark.parametrize("free_gib", [4, 8])
def test_a_large_need_is_bounded_by_what_is_free(free_gib):
    weights = parameter_count(CONFIG) * 4
    assert sized(sequences=10**6, free=free_gib * GIB) == int((free_gib * GIB - weights - FIXED_BYTES) * 0.9)


def test_what_training_will_take_is_left_to_it():
    assert sized(sequences=10**6, reserved=5 * GIB) < sized(sequences=10**6) - 4 * GIB


def test_no_room_for_one_answer_names_the_keys():
    message = (
        r"gpu_memory_utilization: 1\.0 GiB are free, .* one answer of 200 tokens .* lower max_tokens, or set dtype="
    )
    with pytest.raises(UserError, match=message):
        sized(free=GIB)


def test_vllms_own_variable_decides(monkeypatch):
    monkeypatch.setenv(OPERATOR_VARIABLE, "4")
    assert sized(free=0) is None


@pytest.fixture
def container(tmp_path):
    """A function: free memory as a process in a group with these limits sees it."""

    def free(**groups: tuple[str, int, int]) -> int:
        folder = tmp_path / "fs"
        for name, (limit, used, cached) in groups.items():
            folder = folder / name
            folder.mkdir(parents=True)
            (folder / "memory.max").write_text(f"{limit}\n")
            (folder / "memory.current").write_text(f"{used}\n")
            (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cached}\n")
        (tmp_path / "own").write_text(f"0::/{folder.relative_to(tmp_path / 'fs')}\n")
        return free_bytes(tmp_path / "fs", tmp_path / "own")

    return free


def test_a_container_has_less_than_its_machine(container):
    assert container(slice=("max", 900, 0), job=("10000", 7000, 500)) == 3500


def test_the_tightest_of_nested_groups_counts(container):
    assert container(slice=("8000", 7000, 0), job=("10000", 1000, 0)) == 1000


def test_without_a_limit_the_machine_counts(container):
    before = psutil.virtual_memory().available
    assert container(job=("max", 1, 0)) == pytest.approx(before, rel=0.2)
