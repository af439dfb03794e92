"""The engine `hf` on Ray, through verl's own clients and managers, as the trainers use it."""

import asyncio
import os
import signal

import pytest
import ray
import torch
from ray.exceptions import RayActorError
from transformers import AutoModelForCausalLM
from verl.checkpoint_engine.base import CheckpointEngineManager
from verl.utils.config import omega_conf_to_dataclass
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerManager

from tests.support.rollout_cluster import GREEDY, PROMPTS, generate, kill_all, ray_with, rollout_config, senders
from tests.support.tiny_generation import greedy_reference, log_probs_reference
from tests.support.tiny_model import save_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three models of one shape with weights of their own."""
    return [save_tiny_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def models(folders):
    return [AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval() for folder in folders]


@pytest.fixture(scope="module")
def cluster():
    with ray_with(2, 1):
        yield


def expected(model, prompts=PROMPTS, max_tokens: int = 24) -> list[list[int]]:
    model.generation_config.eos_token_id = None
    return [greedy_reference(model, prompt, max_tokens) for prompt in prompts]


@pytest.fixture(scope="class")
def hybrid(cluster, folders, request):
    """Servers beside the ranks that train; parameters: how many ranks, how many of them share a server."""
    ranks, shared = request.param
    config = rollout_config(folders[0], f"actor_rollout_ref.rollout.tensor_model_parallel_size={shared}")
    group = senders(config, ranks)
    manager = LLMServerManager.create(config, worker_group=group)
    engine = omega_conf_to_dataclass(config.actor_rollout_ref.rollout.checkpoint_engine)
    checkpoints = CheckpointEngineManager(engine, group, manager.get_replicas())
    yield manager, checkpoints, group
    kill_all(manager, workers=group)


@pytest.mark.parametrize("hybrid", [(2, 1), (2, 2)], indirect=True, ids=["server-a-rank", "server-of-two-ranks"])
def test_generation_follows_the_trainer_through_sleep_and_updates(hybrid, folders, models):
    manager, checkpoints, group = hybrid
    client = manager.get_client()
    with pytest.raises(Exception, match="rollout server . has no weights: load_format=dummy"):
        generate(client)

    checkpoints.update_weights(global_steps=1)
    outputs = generate(client)
    assert [output.token_ids for output in outputs] == expected(models[0])
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        assert output.log_probs == pytest.approx(log_probs_reference(models[0], prompt, output.token_ids), abs=1e-5)
        assert output.stop_reason == "completed"
        assert output.extra_fields["global_steps"] == 1

    group.use_weights(str(folders[1]))
    checkpoints.sleep_replicas()
    checkpoints.update_weights(global_steps=2)
    outputs = generate(client)
    assert [output.token_ids for output in outputs] == expected(models[1])
    assert {output.extra_fields["global_steps"] for output in outputs} == {2}
    walked = group.walked_weights()
    assert len(walked[0]) == len(models[0].state_dict())
    assert walked[0] == walked[1]  # every rank takes part in gathering, whoever sends


async def all_generate(server) -> None:
    """Wait until every prompt has a first token."""
    while True:
        started = await server.__ray_call__.remote(lambda self: [bool(r.log_probs) for r in self._generator._running])
        if len(started) == len(PROMPTS) and all(started):
            return


def greedy_next_tokens(model, prompt, response) -> list[int]:
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
    return logits.argmax(-1).tolist()


@pytest.mark.parametrize("hybrid", [(1, 1)], indirect=True, ids=[""])
class TestOneServer:
    """The last test kills it."""

    def test_an_interrupted_response_goes_on_with_new_weights(self, hybrid, folders, models):
        manager, checkpoints, group = hybrid
        group.use_weights(str(folders[0]))
        client = manager.get_client(client_cls=FullyAsyncLLMServerClient)
        (replica,) = manager.get_replicas()
        checkpoints.update_weights(global_steps=1)
        group.use_weights(str(folders[1]))

        async def interrupted():
            answers = [
                asyncio.create_task(
                    client.generate(str(i), prompt_ids=p, sampling_params={**GREEDY, "max_tokens": 450})
                )
                for i, p in enumerate(PROMPTS)
            ]
            await all_generate(replica.server_handle)
            await replica.abort_all_requests()
            await replica.sleep()
            await asyncio.gather(*group.update_weights(global_steps=2))
            late = asyncio.create_task(client.generate("late", prompt_ids=[9, 9], sampling_params=GREEDY))
            await asyncio.sleep(0.2)
            assert not late.done()  # waits for the end of the pause
            await replica.resume_generation()
            return await asyncio.gather(*answers, late)

        *outputs, late = asyncio.run(interrupted())
        assert late.token_ids == expected(models[1], [[9, 9]])[0]
        mixed = 0
        for prompt, output in zip(PROMPTS, outputs, strict=True):
            assert len(output.token_ids) == len(output.log_probs) == 450
            assert output.stop_reason == "length"
            fields = output.extra_fields
            mixed += fields["min_global_steps"] < fields["max_global_steps"]
            # Each token is what one of the two models would say there, the old one first.
            by_model = [greedy_next_tokens(model, prompt, output.token_ids) for model in models[:2]]
            switch = next((t for t, token in enumerate(output.token_ids) if by_model[0][t] != token), 450)
            assert output.token_ids[:switch] == by_model[0][:switch]
            assert output.token_ids[switch:] == by_model[1][switch:]
        assert mixed > 0

    def test_requests_that_run_see_whole_updates_only(self, hybrid, folders, models):
        manager, checkpoints, group = hybrid
        group.use_weights(str(folders[0]))
        client = manager.get_client()
        checkpoints.update_weights(global_steps=1)
        seen = set()

        async def generate_and_update():
            for step in range(2, 8):
                group.use_weights(str(folders[step % 3]))
                running = [
                    asyncio.create_task(
                        client.generate(f"{step}-{i}", prompt_ids=p, sampling_params={**GREEDY, "max_tokens": 1})
                    )
                    for i, p in enumerate(PROMPTS)
                    for _ in range(4)
                ]
                await asyncio.gather(*group.update_weights(global_steps=step))
                for index, output in enumerate(await asyncio.gather(*running)):
                    version = output.extra_fields["global_steps"]
                    # One token is one forward pass: exactly that of the version it names.
                    model = models[0 if version == 1 else version % 3]
                    assert output.token_ids == greedy_next_tokens(model, PROMPTS[index // 4], [0])
                    seen.add(version)

        asyncio.run(generate_and_update())
        assert len(seen) > 3

    def test_a_failed_update_is_reported_to_all_and_a_good_one_repairs_it(self, hybrid, folders, models):
        manager, checkpoints, group = hybrid
        group.use_weights(str(folders[0]))
        client = manager.get_client()
        checkpoints.update_weights(global_steps=1)
        group.use_weights(str(folders[1]), stop_after=5)
        with pytest.raises(OSError, match="the disk with the weights is gone"):
            checkpoints.update_weights(global_steps=2)
        with pytest.raises(Exception, match="rollout server 0 has no weights: their update failed: the disk with"):
            generate(client)
        group.use_weights(str(folders[2]))
        checkpoints.update_weights(global_steps=3)
        assert [output.token_ids for output in generate(client)] == expected(models[2])

    def test_a_killed_server_is_an_error_for_clients_and_trainer(self, hybrid):
        manager, checkpoints, _ = hybrid
        client = manager.get_client()
        checkpoints.update_weights(global_steps=1)
        (server,) = manager.server_handles
        pid = ray.get(server.__ray_call__.remote(lambda self: os.getpid()))

        async def killed_while_generating():
            answers = [
                asyncio.create_task(
                    client.generate(str(i), prompt_ids=p, sampling_params={**GREEDY, "max_tokens": 450})
                )
                for i, p in enumerate(PROMPTS)
            ]
            await all_generate(server)
            os.kill(pid, signal.SIGKILL)
            return await asyncio.gather(*answers, return_exceptions=True)

        assert all(isinstance(error, RayActorError) for error in asyncio.run(killed_while_generating()))
        with pytest.raises(RayActorError):
            checkpoints.sleep_replicas()
        with pytest.raises(RayActorError):
            checkpoints.update_weights(global_steps=2)


def test_servers_of_their_own_get_weights_through_the_object_store_on_two_nodes(cluster, folders, models):
    config = rollout_config(
        folders[0],
        "actor_rollout_ref.rollout.checkpoint_engine.backend=ray_object_store",
        "actor_rollout_ref.rollout.nnodes=1",
        "actor_rollout_ref.rollout.n_gpus_per_node=2",
    )
    group = senders(config, 1)
    manager = LLMServerManager.create(config)
    try:
        actors = [*group.workers, *manager.server_handles]
        nodes = ray.get(
            [actor.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()) for actor in actors]
        )
        assert set(nodes[1:]) != {nodes[0]}  # three processes, and no node has room for all
        engine = omega_conf_to_dataclass(config.actor_rollout_ref.rollout.checkpoint_engine)
        checkpoints = CheckpointEngineManager(engine, group, manager.get_replicas())
        client = manager.get_client(client_cls=FullyAsyncLLMServerClient)
        assert [output.token_ids for output in generate(client)] == expected(models[0])  # its own, from the folder
        for step, model in ((1, 1), (2, 2)):
            group.use_weights(str(folders[model]))
            checkpoints.update_weights(global_steps=step)
            outputs = generate(client)
            assert [output.token_ids for output in outputs] == expected(models[model])
            assert {output.extra_fields["max_global_steps"] for output in outputs} == {step}
        group.use_weights(str(folders[0]), stop_after=3)
        with pytest.raises(Exception, match="the disk with the weights is gone"):
            checkpoints.update_weights(global_steps=3)
    finally:
        kill_all(manager, workers=group)
