"""The server of the engine `hf` by itself; `tests/integration/test_hf_rollout.py` has it on Ray."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel
from verl.workers.config import HFModelConfig, RolloutConfig
from verl.workers.rollout.replica import RolloutMode, TokenOutput

from tests.support.tiny_generation import greedy_reference, log_probs_reference
from tests.support.tiny_model import save_tiny_model
from verl_ext.errors import UserError
from verl_ext.rollout.generation_loop import GenerationFailedError
from verl_ext.rollout.hf_server import HFServer
from verl_ext.rollout.weights import PackedTensor, WeightMismatchError, pack_buckets

WAIT_S = 60
PROMPT = [40, 7, 60, 9]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def models(folder, tmp_path_factory) -> list[PreTrainedModel]:
    """What the folder holds, and two others of its shape."""
    others = [save_tiny_model(tmp_path_factory.mktemp("model"), seed=seed) for seed in (1, 2)]
    models = [AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval() for path in (folder, *others)]
    for model in models:
        model.generation_config.eos_token_id = None
    return models


@pytest.fixture
def serve(folder) -> Iterator[Callable]:
    """`serve(test, ...)` runs the coroutine function `test` with a server."""
    servers = []

    def run(test: Callable[[HFServer], Awaitable], mode: RolloutMode = RolloutMode.HYBRID, **rollout) -> None:
        settings = {
            "prompt_length": 16,
            "response_length": 12,
            "dtype": "float32",
            "tensor_model_parallel_size": 1,
            "ignore_eos": True,
            "temperature": 0.0,
            "max_num_seqs": 8,
            **rollout,
        }

        async def main() -> None:
            config = RolloutConfig(name="hf", **settings)
            server = HFServer(config, HFModelConfig(path=str(folder)), mode, replica_rank=3, threads=1)
            await server.launch()
            servers.append(server)
            await asyncio.wait_for(test(server), WAIT_S)

        asyncio.run(main())

    yield run
    for server in servers:
        server._loop.stop()


async def ask(server: HFServer, request_id: str = "a", prompt=PROMPT, **params) -> TokenOutput:
    return await server.generate(prompt, {"logprobs": True, **params}, request_id)


async def update(server: HFServer, model: PreTrainedModel, global_steps: int | None) -> None:
    await server.begin_update()
    async for bucket in pack_buckets(model.state_dict().items(), bucket_bytes=20_000):
        await server.load_bucket(bucket)
    await server.finish_update(global_steps)


async def several_steps(server: HFServer) -> None:
    """Let the thread get on with what it does."""
    for _ in range(3):
        await asyncio.wrap_future(server._loop.call(lambda: None))


def test_a_loaded_server_answers_with_tokens_log_probs_and_version(serve, models):
    async def test(server: HFServer) -> None:
        await server.set_global_steps(4)
        output = await ask(server)
        assert output.token_ids == greedy_reference(models[0], PROMPT, 12)
        assert output.log_probs == pytest.approx(log_probs_reference(models[0], PROMPT, output.token_ids), abs=1e-5)
        assert (output.stop_reason, output.extra_fields) == ("completed", {"global_steps": 4})
        assert (await ask(server, logprobs=False)).log_probs is None

    serve(test, load_format="auto")


def test_a_server_without_weights_says_so_until_they_come(serve, models):
    async def test(server: HFServer) -> None:
        with pytest.raises(GenerationFailedError, match="rollout server 3 has no weights: load_format=dummy"):
            await ask(server)
        await update(server, models[1], 1)
        assert (await ask(server)).token_ids == greedy_reference(models[1], PROMPT, 12)

    serve(test)


def test_a_server_of_its_own_loads_the_model_itself(serve, models):
    async def test(server: HFServer) -> None:
        assert (await ask(server)).token_ids == greedy_reference(models[0], PROMPT, 12)

    serve(test, RolloutMode.STANDALONE)


def test_every_token_comes_from_whole_weights(serve, models):
    first = {
        version: [greedy_reference(model, [5 + i, 9], 1) for i in range(20)]
        for version, model in zip((1, 2, 3), (models[1], models[2], models[0]), strict=True)
    }

    async def test(server: HFServer) -> None:
        await update(server, models[1], 1)
        seen = []
        for version, model in ((2, models[2]), (3, models[0])):
            asked = [asyncio.create_task(ask(server, f"{version}/{i}", [5 + i, 9], max_tokens=1)) for i in range(20)]
            await asyncio.sleep(0)
            await update(server, model, version)
            for i, output in enumerate(await asyncio.gather(*asked)):
                seen.append(output.extra_fields["global_steps"])
                assert output.token_ids == first[seen[-1]][i]
        assert len(set(seen)) > 1

    serve(test, max_num_seqs=2)


def test_a_pause_ends_requests_with_their_tokens_and_lets_others_wait(serve, models):
    async def test(server: HFServer) -> None:
        running = asyncio.create_task(ask(server, "running", max_tokens=200))
        await asyncio.sleep(0)
        await several_steps(server)
        assert await server.abort_all_requests() == {"aborted_count": 1, "request_ids": ["running"]}
        part = await running
        assert part.stop_reason == "aborted"
        assert part.token_ids == greedy_reference(models[0], PROMPT, 200)[: len(part.token_ids)]
        assert len(part.log_probs) == len(part.token_ids)

        late = asyncio.create_task(ask(server, "late"))
        await asyncio.sleep(0.05)
        assert not late.done()
        await server.resume_generation()
        assert (await late).token_ids == greedy_reference(models[0], PROMPT, 12)

    serve(test, load_format="auto")


def test_a_rejecting_pause_turns_requests_away_those_that_wait_too(serve):
    async def test(server: HFServer) -> None:
        await server.abort_all_requests()
        waiting = asyncio.create_task(ask(server, "waiting"))
        await asyncio.sleep(0.05)
        await server.abort_all_requests(reject_request=True)
        for output in (await waiting, await ask(server, "new")):
            assert (output.stop_reason, output.token_ids) == ("aborted", [])
        await server.resume_generation()
        assert (await ask(server)).stop_reason == "completed"

    serve(test, load_format="auto")


def test_one_request_can_be_aborted_or_given_up(serve, models):
    async def test(server: HFServer) -> None:
        one, two, three = (asyncio.create_task(ask(server, str(i), max_tokens=100)) for i in range(3))
        await asyncio.sleep(0)
        assert await server.abort_request("0") == {"aborted": True, "request_id": "0"}
        assert await server.abort_request("nobody") == {"aborted": False, "request_id": "nobody"}
        assert (await one).stop_reason == "aborted"
        two.cancel()
        assert (await three).token_ids == greedy_reference(models[0], PROMPT, 100)
        assert await asyncio.wrap_future(server._loop.unfinished()) == 0

    serve(test, load_format="auto")


def test_a_sleeping_server_holds_no_weights_and_requests_wait_for_them(serve, models):
    async def test(server: HFServer) -> None:
        await update(server, models[1], 1)
        running = asyncio.create_task(ask(server, "running"))
        await asyncio.sleep(0)
        await server.sleep()
        assert running.done() or (await running).stop_reason == "completed"  # sleep waits for those that run
        assert sum(parameter.numel() for parameter in server._generator.model.parameters()) == 0
        early = asyncio.create_task(ask(server, "early"))
        await asyncio.sleep(0.05)
        assert not early.done()
        await update(server, models[2], None)
        output = await early
        assert output.token_ids == greedy_reference(models[2], PROMPT, 12)
        assert output.extra_fields["global_steps"] == 1  # nobody said otherwise

    serve(test)


def test_a_server_that_may_not_free_memory_stays_awake(serve, models):
    async def test(server: HFServer) -> None:
        await server.sleep()
        assert (await ask(server)).token_ids == greedy_reference(models[0], PROMPT, 12)

    serve(test, load_format="auto", free_cache_engine=False)


def test_a_bad_update_ends_requests_with_the_reason_and_a_good_one_heals(serve, models):
    async def test(server: HFServer) -> None:
        await server.begin_update()
        running = asyncio.create_task(ask(server, "running"))
        await asyncio.sleep(0)
        with pytest.raises(WeightMismatchError, match="^nothing: the model that generates has no such weight$"):
            await server.load_bucket([PackedTensor.pack("nothing", torch.zeros(1))])
        for request in (running, ask(server, "new")):
            with pytest.raises(GenerationFailedError, match="server 3 has no weights: their update failed: nothing:"):
                await request
        await server.begin_update()
        with pytest.raises(WeightMismatchError, match="weights have not come"):
            await server.finish_update(2)
        await update(server, models[2], 3)
        assert (await ask(server)).token_ids == greedy_reference(models[2], PROMPT, 12)

    serve(test, load_format="auto")


def test_an_update_whose_sender_is_gone_fails_in_time(serve):
    async def test(server: HFServer) -> None:
        await server.begin_update()
        with pytest.raises(GenerationFailedError, match="their update failed: no weights came for 0.2 s"):
            await ask(server)

    serve(test, load_format="auto", engine_kwargs={"hf": {"update_timeout_s": 0.2}})


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"prompt_ids": []}, "request a: the prompt is empty"),
        ({"prompt_ids": [5] * 600}, "request a: the prompt has 600 tokens, which leaves no room .* context of 512"),
        ({"sampling_params": {"top_p": 0}}, "sampling.top_p: got 0, expected a number above 0 and at most 1"),
        (
            {"image_data": ["x"]},
            "actor_rollout_ref.rollout.name: got 'hf', expected vllm or sglang for images and sound",
        ),
    ],
)
def test_impossible_requests_are_refused_in_one_line(serve, arguments, line):
    async def test(server: HFServer) -> None:
        with pytest.raises(UserError, match=f"^{line}$"):
            await server.generate(**{"prompt_ids": PROMPT, "sampling_params": {}, "request_id": "a", **arguments})

    serve(test, load_format="auto")


def test_tokens_beyond_the_tokenizer_are_not_generated(tmp_path, models):
    """A model whose embedding is larger than its tokenizer: verl masks the rest in its servers too."""
    folder = save_tiny_model(tmp_path)
    wide = AutoModelForCausalLM.from_pretrained(folder)
    wide.resize_token_embeddings(wide.config.vocab_size + 40, mean_resizing=False)
    wide.get_output_embeddings().weight.data[-40:] *= 50
    wide.save_pretrained(folder)

    async def main() -> None:
        config = RolloutConfig(name="hf", dtype="float32", load_format="auto", ignore_eos=True, response_length=30)
        server = HFServer(config, HFModelConfig(path=str(folder)), RolloutMode.HYBRID, 0, 1)
        await server.launch()
        assert server._generator.model.config.vocab_size == wide.config.vocab_size
        output = await server.generate(PROMPT, {}, "a")
        assert max(output.token_ids) < wide.config.vocab_size - 40
        server._loop.stop()

    asyncio.run(main())
