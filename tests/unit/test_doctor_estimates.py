"""Estimates of memory, time and disk against numbers worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest

from verl_ext.doctor import memory
from verl_ext.doctor.disk import disk_need
from verl_ext.doctor.memory import GIB, head_memory, kept_activations, kv_bytes_per_token, layer_activations
from verl_ext.doctor.model_shape import ModelShape, find_model, table_config, table_parameters
from verl_ext.doctor.plan import RolloutPlan, TrainingPlan, training_plan
from verl_ext.doctor.step_time import DEVICES, forward_flops, generation_time, training_time
from verl_ext.trainer.run.command_line import compose_config

# 2 layers; a layer: attention 2*8*8 + 2*8*4 = 192, MLP 3*8*16 = 384, two norms 2*8 = 16 numbers.
SHAPE = ModelShape(
    layers=2, hidden=8, intermediate=16, heads=4, kv_heads=2, head_dim=2, vocab=100, context=64, tied=True
)
PLAN = TrainingPlan(
    ranks=4, sp_size=1, shard_ranks=4, rows_per_step=8, max_row=10, micro_tokens=20, micro_batches=1, model_bytes=4,
    compute_bytes=2, checkpointing=True, head="plain", liger=False, reshard=True, offload_policy=False, lora_rank=0,
    on_gpu=True, model_key="model", engine_key="engine", micro_key="data.micro_batch_size_per_gpu",
)  # fmt: skip


def plan(**changes) -> TrainingPlan:
    return dataclasses.replace(PLAN, **changes)


def part(estimate: memory.MemoryEstimate, name: str) -> float:
    return next(part.bytes for part in estimate.parts if part.name == name)


def test_parameters_of_a_layer_and_of_the_model():
    assert SHAPE.layer_matrices == 192 + 384
    assert SHAPE.layer_parameters == 192 + 384 + 16
    assert SHAPE.parameters == 2 * 592 + 800 + 8
    assert dataclasses.replace(SHAPE, tied=False).parameters == 2 * 592 + 1600 + 8
    assert SHAPE.multiplied == 2 * 576 + 800
    # q and o: 8 + 8, k and v: 8 + 4, three of the MLP: 8 + 16
    assert SHAPE.lora_parameters(rank=3) == 2 * 3 * (2 * 16 + 2 * 12 + 3 * 24)


def test_activations_of_a_layer():
    # a token: two norms of 4+2+2 bytes * 8, attention 2 bytes * (2*8 + 2*4), MLP 4 * 2 bytes * 16
    assert layer_activations(SHAPE, PLAN).bytes == 20 * (2 * 8 * 8 + 2 * 24 + 8 * 16)
    # Liger: norms 2+2 bytes, MLP 3 * 2 bytes
    assert layer_activations(SHAPE, plan(liger=True)).bytes == 20 * (2 * 4 * 8 + 2 * 24 + 6 * 16)
    # fp32: norms 4+4+4 bytes; on a CPU queries, repeated keys and values, output and its copy
    on_cpu = layer_activations(SHAPE, plan(compute_bytes=4, on_gpu=False)).bytes
    assert on_cpu == 20 * (2 * 12 * 8 + 4 * 5 * 8 + 16 * 16)


def test_checkpointing_keeps_the_input_of_each_layer():
    assert kept_activations(SHAPE, PLAN).bytes == 2 * 20 * 8 * 2
    assert kept_activations(SHAPE, plan(checkpointing=False)).bytes == 2 * layer_activations(SHAPE, PLAN).bytes


def test_the_plain_head_has_three_fp32_copies_of_all_logits_and_the_fused_head_those_of_a_chunk():
    assert head_memory(SHAPE, PLAN).bytes == 12 * 20 * 100
    long = plan(head="fused", micro_tokens=4096)
    assert head_memory(SHAPE, long).bytes == 22 * 512 * 100 + 4 * 800 + 4 * 4096 * 8


def test_the_chunked_head_has_a_chunk_of_logits_and_the_gradients_of_its_inputs():
    from verl_ext.engine import loss_head

    assert memory.CHUNK_BYTES == loss_head.CHUNK_BYTES
    # bf16 on a GPU: logits, and two copies in fp32; the weight's gradient and its sum; both of the hidden states
    assert head_memory(SHAPE, plan(head="chunked")).bytes == 10 * 20 * 100 + 6 * 800 + 6 * 20 * 8
    assert (
        head_memory(SHAPE, plan(head="chunked", compute_bytes=4, on_gpu=False)).bytes
        == 4 * 20 * 100 + 4 * 800 + 8 * 20 * 8
    )
    long = plan(head="chunked", micro_tokens=10**7)
    assert head_memory(SHAPE, long).bytes == 320 * 2**20 + 6 * 800 + 6 * 10**7 * 8


def test_parameters_gradients_and_optimizer_are_shared_out_over_the_ranks():
    whole = memory.training_memory(SHAPE, plan(micro_batches=2, micro_tokens=2000))
    assert part(whole, "parameters") == 4 * SHAPE.parameters / 4
    assert part(whole, "gradients") == 4 * SHAPE.parameters / 4
    assert part(whole, "optimizer") == 8 * SHAPE.parameters / 4
    assert part(whole, "gathered parameters") == 2 * (800 + 2 * 592)
    total = sum(each.bytes for each in whole.parts)
    assert whole.bytes == total
    assert part(whole, "reserve") == pytest.approx(1.5 * GIB + 0.05 * (total - part(whole, "reserve")), rel=1e-9)


def test_an_adapter_has_gradients_and_moments_of_its_own_size():
    estimate = memory.training_memory(SHAPE, plan(lora_rank=3, micro_batches=2, micro_tokens=2000))
    adapter = SHAPE.lora_parameters(3)
    assert part(estimate, "parameters") == 4 * (SHAPE.parameters + adapter) / 4
    assert part(estimate, "optimizer") == 8 * adapter / 4


def test_host_memory_holds_what_is_offloaded():
    estimate = memory.training_memory(SHAPE, plan(offload_policy=True, micro_tokens=2000))
    assert part(estimate, "parameters, gradients, optimizer") == 0


def test_the_peak_is_in_the_optimizer_where_activations_are_small():
    large = dataclasses.replace(SHAPE, hidden=512, intermediate=2048, layers=12, vocab=1000)
    estimate = memory.training_memory(large, plan(micro_tokens=4))
    assert estimate.moment == "in the optimizer's step"
    assert part(estimate, "optimizer's temporaries") == 4 * large.parameters / 4


def test_a_micro_batch_is_a_number_of_rows_or_of_tokens():
    common = ["model.path=x", "data.train_files=y", "data.max_length=1000", "data.train_batch_size=64"]
    rows = compose_config("dft_trainer", [*common, "data.micro_batch_size_per_gpu=4"])
    assert training_plan(rows, "dft", ranks=8, rows=None, on_gpu=True).micro_tokens == 4000
    assert training_plan(rows, "dft", ranks=8, rows=None, on_gpu=True).micro_batches == 2
    halves = compose_config(
        "dft_trainer",
        [*common, "data.micro_batch_size_per_gpu=4", "engine.ulysses_sequence_parallel_size=2"],
    )
    assert training_plan(halves, "dft", ranks=8, rows=None, on_gpu=True).micro_tokens == 2000
    assert training_plan(halves, "dft", ranks=8, rows=None, on_gpu=True).dp_size == 4
    tokens = compose_config("dft_trainer", [*common, "data.use_dynamic_bsz=True", "data.max_token_len_per_gpu=3000"])
    assert training_plan(tokens, "dft", ranks=8, rows=None, on_gpu=True).micro_tokens == 3000


ROLLOUT = RolloutPlan(
    engine="vllm", gpus=4, tp_size=2, weight_bytes=2, gpu_memory_utilization=0.5, max_num_seqs=8, max_model_len=None,
    prompts=4, samples=4, max_prompt=10, max_response=20, colocated=True, sleeps=True, trainer_leaves=False,
    optimizer_leaves=True,
)  # fmt: skip


def test_keys_and_values_of_a_token():
    # two of them, 2 layers, one of 2 heads on each of 2 GPUs, 2 numbers of 2 bytes
    assert kv_bytes_per_token(SHAPE, ROLLOUT) == 2 * 2 * 1 * 2 * 2
    # four GPUs share two heads: each keeps one
    assert kv_bytes_per_token(SHAPE, dataclasses.replace(ROLLOUT, tp_size=4)) == 2 * 2 * 1 * 2 * 2


def test_what_generation_leaves_for_keys_and_values():
    estimate, room = memory.rollout_memory(SHAPE, PLAN, ROLLOUT, 10 * GIB)
    assert room.bytes == 5 * GIB - 2 * SHAPE.parameters / 2 - 2 * GIB
    assert part(estimate, "training parameters") == 4 * SHAPE.parameters / 4
    assert "optimizer" not in {each.name for each in estimate.parts}


def test_operations_of_a_forward_pass():
    # 2 operations a parameter and token, and causal attention: 2 * layers * width of queries * s^2
    assert forward_flops(SHAPE, tokens=30, mean_square_length=100, rows=3) == 2 * 1952 * 30 + 2 * 2 * 8 * 100 * 3


def test_time_of_a_step_is_operations_over_what_the_gpus_do():
    device = dataclasses.replace(DEVICES["h100"], flops=1000.0)
    time = training_time(SHAPE, PLAN, device, rows=3, mean_length=10, mfu=0.5)
    assert time.seconds == pytest.approx(4 * (2 * 1952 * 30 + 2 * 2 * 8 * 100 * 3) / (4 * 1000 * 0.5))
    faster = training_time(SHAPE, plan(checkpointing=False), device, rows=3, mean_length=10, mfu=0.5)
    assert faster.seconds == pytest.approx(0.75 * time.seconds)


def test_time_of_generation_is_bytes_over_bandwidth():
    device = dataclasses.replace(DEVICES["h100"], bandwidth=1000.0)
    time = generation_time(SHAPE, ROLLOUT, device, room_bytes=1e9, response=20, prompt=10)
    # 16 answers on 2 replicas: 8 at a time; each token reads half the weights and 8 caches of 10 + 20/2 tokens
    assert time.seconds == pytest.approx(20 * (SHAPE.parameters + 8 * 16 * 20) / 1000)


def test_room_for_checkpoints():
    arguments = ["model.path=x", "data.train_files=y", "trainer.save_freq=10"]
    config = compose_config("dft_trainer", arguments)
    one = 12 * SHAPE.parameters
    assert disk_need(config, "dft", SHAPE, PLAN, steps=35).total == 4 * one + 2 * SHAPE.parameters
    config = compose_config("dft_trainer", [*arguments, "trainer.max_ckpt_to_keep=1"])
    # the older one goes only when the newer one is complete
    assert disk_need(config, "dft", SHAPE, PLAN, steps=35).total == 2 * one + 2 * SHAPE.parameters
    last = compose_config("dft_trainer", ["model.path=x", "data.train_files=y"])
    assert disk_need(last, "dft", SHAPE, PLAN, steps=None).kept == 1


@pytest.mark.parametrize(("name", "published"), table_parameters().items())
def test_the_table_of_models_gives_the_published_number_of_parameters(name, published):
    shape = ModelShape.of_config(table_config(name))
    assert shape.parameters == pytest.approx(published, rel=0.005)


@pytest.mark.parametrize("name", ["Qwen/Qwen2.5-Math-1.5B", "meta-llama/Llama-3.2-3B", "Qwen/Qwen3-4B-Thinking-2507"])
def test_parameters_are_those_of_the_model_in_transformers(name):
    import torch
    from transformers import AutoModelForCausalLM

    config = table_config(name)
    config.num_hidden_layers = 3
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert ModelShape.of_config(config).parameters == sum(p.numel() for p in model.parameters())


def test_a_model_is_found_by_its_name_in_any_folder_and_else_not():
    find = {"trust_remote_code": False, "group": "model", "ask_hub": False}
    assert find_model("/models/Qwen2.5-Math-7B", **find).shape.layers == 28
    assert find_model("somebody/else", **find) is None
