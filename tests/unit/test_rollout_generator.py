import random

import pytest
import torch

from tests.support.tiny_generation import FAMILIES, greedy_reference, log_probs_reference, random_model
from verl_ext.errors import ConfigError, DataError
from verl_ext.rollout.generator import Generator
from verl_ext.rollout.requests import Generation, SamplingParams

EOS = 1


def random_prompts(count: int, *, shortest: int = 1, longest: int = 40, seed: int = 0) -> list[list[int]]:
    numbers = random.Random(seed)
    return [[numbers.randrange(2, 64) for _ in range(numbers.randint(shortest, longest))] for _ in range(count)]


def greedy(max_tokens: int, **more) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0, **more)


def finish(generator: Generator) -> dict[str, Generation]:
    done = {}
    while generator.has_unfinished_requests():
        for generation in generator.step():
            assert generation.request_id not in done
            done[generation.request_id] = generation
    return done


def run(generator: Generator, prompts, params) -> list[Generation]:
    """Generations in the order of the prompts; `params` is one for all or a list."""
    each = params if isinstance(params, list) else [params] * len(prompts)
    for index, (prompt, one) in enumerate(zip(prompts, each, strict=True)):
        generator.add_request(str(index), prompt, one)
    done = finish(generator)
    return [done[str(index)] for index in range(len(prompts))]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "limits", [{"max_num_seqs": 3}, {"max_num_seqs": 16}, {"max_num_seqs": 5, "max_num_batched_tokens": 7}]
)
def test_greedy_is_what_generate_gives_token_for_token(family, limits):
    model = random_model(family)
    prompts = random_prompts(12)
    lengths = [random.Random(index).randint(1, 30) for index in range(12)]
    results = run(Generator(model, eos_token_ids=[EOS], **limits), prompts, [greedy(length) for length in lengths])
    for prompt, length, result in zip(prompts, lengths, results, strict=True):
        assert result.token_ids == greedy_reference(model, prompt, length, [EOS])
        assert result.finish_reason == ("stop" if result.token_ids[-1] == EOS else "length")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_probs_are_those_of_one_forward_pass_at_that_temperature(family, temperature):
    model = random_model(family)
    prompts = random_prompts(10) + [[5] * 30] * 3
    generator = Generator(model, eos_token_ids=[EOS], max_num_seqs=4, max_num_batched_tokens=25)
    for prompt, result in zip(
        prompts, run(generator, prompts, SamplingParams(max_tokens=40, temperature=temperature)), strict=True
    ):
        expected = log_probs_reference(model, prompt, result.token_ids, temperature)
        assert result.log_probs == pytest.approx(expected, abs=1e-5)


def test_bf16_log_probs_are_fp32_softmaxes_of_bf16_logits():
    model = random_model(initializer_range=0.1).to(torch.bfloat16)
    prompts = random_prompts(6)
    results = run(Generator(model, eos_token_ids=[EOS], max_num_seqs=3), prompts, SamplingParams(max_tokens=20))
    for prompt, result in zip(prompts, results, strict=True):
        assert result.log_probs == pytest.approx(log_probs_reference(model, prompt, result.token_ids), abs=0.05)
    digits = [value for result in results for value in result.log_probs]
    assert any(value != torch.tensor(value).bfloat16().item() for value in digits)


def test_repetition_penalty_is_that_of_generate():
    model, prompts = random_model(), random_prompts(5)
    results = run(Generator(model, eos_token_ids=[EOS]), prompts, greedy(25, repetition_penalty=1.8))
    for prompt, result in zip(prompts, results, strict=True):
        assert result.token_ids == greedy_reference(model, prompt, 25, [EOS], repetition_penalty=1.8)


@pytest.mark.parametrize(
    "params", [{"temperature": 0.5}, {"temperature": 2.0}, {"top_k": 4}, {"top_p": 0.7}, {"top_k": 8, "top_p": 0.9}]
)
def test_tokens_are_drawn_as_often_as_the_distribution_says(params):
    model = random_model(vocab_size=16, initializer_range=0.15)
    prompt, draws = [3, 7, 2], 3000
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1].double() / params.get("temperature", 1.0)
    order = logits.argsort(descending=True)[: params.get("top_k", 16)]
    probs = logits[order].softmax(-1)
    kept = [index for index in range(len(order)) if probs[:index].sum() < params.get("top_p", 1.0)]
    expected = torch.zeros(16, dtype=torch.float64)
    expected[order[kept]] = probs[kept] / probs[kept].sum()

    generator = Generator(model, eos_token_ids=[], max_num_seqs=500)
    each = [SamplingParams(max_tokens=1, seed=seed, **params) for seed in range(draws)]
    drawn = torch.tensor([result.token_ids[0] for result in run(generator, [prompt] * draws, each)])
    counts = torch.bincount(drawn, minlength=16).double()

    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    chi_square = ((counts - draws * expected)[possible] ** 2 / (draws * expected[possible])).sum().item()
    freedom = int(possible.sum()) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_a_seed_gives_the_same_tokens_alone_and_in_company():
    model, prompts = random_model(), random_prompts(9)
    each = [SamplingParams(max_tokens=25, seed=seed, top_p=0.9) for seed in range(9)]
    together = run(Generator(model, eos_token_ids=[EOS], max_num_seqs=4), prompts, each)
    for prompt, params, result in zip(prompts, each, together, strict=True):
        (alone,) = run(Generator(model, eos_token_ids=[EOS]), [prompt], [params])
        assert alone.token_ids == result.token_ids
        assert alone.log_probs == pytest.approx(result.log_probs, abs=1e-5)


def test_samples_without_a_seed_differ_and_the_generator_seed_repeats_them():
    model, prompts = random_model(), [[9, 8, 7]] * 6
    first, again, other = (
        [
            g.token_ids
            for g in run(Generator(model, eos_token_ids=[], seed=seed), prompts, SamplingParams(max_tokens=12))
        ]
        for seed in (3, 3, 1000)
    )
    assert first == again
    assert first != other
    assert len({tuple(tokens) for tokens in first}) == 6


def test_samples_of_one_prompt_compute_it_once():
    model, prompt = random_model(), random_prompts(1, shortest=30)[0]
    computed = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    results = run(Generator(model, eos_token_ids=[], max_num_seqs=8), [prompt] * 8, SamplingParams(max_tokens=10))
    # The prompt once, its last token again for seven of the eight, then nine tokens each (the tenth is not fed back).
    assert sum(computed) == len(prompt) + 7 + 8 * 9
    for result in results:
        assert result.log_probs == pytest.approx(log_probs_reference(model, prompt, result.token_ids), abs=1e-5)


def test_a_common_beginning_is_computed_once_and_later_requests_share_it():
    model = random_model()
    beginning = random_prompts(1, shortest=35)[0]
    prompts = [beginning + tail for tail in random_prompts(5, longest=9, seed=1)]
    generator = Generator(model, eos_token_ids=[], max_num_seqs=8)
    computed = []
    model.register_forward_pre_hook(
        lambda module, args, kwargs: computed.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    generator.add_request("0", prompts[0], greedy(20))
    done = []
    for _ in range(4):
        done += generator.step()
    for index, prompt in enumerate(prompts[1:], start=1):
        generator.add_request(str(index), prompt, greedy(5))
    results = finish(generator)
    assert sum(computed) < len(prompts[0]) + 20 + sum(len(prompt) - len(beginning) + 5 for prompt in prompts[1:])
    for index, prompt in enumerate(prompts):
        assert results[str(index)].token_ids == greedy_reference(model, prompt, 20 if index == 0 else 5)


def test_a_prompt_that_runs_ahead_of_another_response_does_not_wait_for_it():
    model, prompt = random_model(), random_prompts(1, shortest=20)[0]
    whole = greedy_reference(model, prompt, 40)
    generator = Generator(model, eos_token_ids=[])
    generator.add_request("behind", prompt, greedy(40))
    generator.step()
    generator.add_request("ahead", prompt + whole[:30], greedy(1))
    (done,) = generator.step()
    assert (done.request_id, done.token_ids) == ("ahead", whole[30:31])
    assert finish(generator)["behind"].token_ids == whole


def test_requests_join_and_leave_while_others_run():
    model, prompts = random_model(), random_prompts(8)
    lengths = [30, 2, 17, 5, 9, 1, 12, 20]
    generator = Generator(model, eos_token_ids=[], max_num_seqs=3)
    done, left = {}, list(range(8))
    while left or generator.has_unfinished_requests():
        if left:
            index = left.pop(0)
            generator.add_request(str(index), prompts[index], greedy(lengths[index]))
        for generation in generator.step():
            done[int(generation.request_id)] = generation
    assert list(done) != sorted(done)
    for index, prompt in enumerate(prompts):
        assert done[index].token_ids == greedy_reference(model, prompt, lengths[index])
        assert done[index].finish_reason == "length"


def test_more_requests_than_slots_never_run_at_once():
    model = random_model()
    rows = []
    model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["step_plan"].segments)), with_kwargs=True
    )
    run(Generator(model, eos_token_ids=[], max_num_seqs=4), random_prompts(11), greedy(6))
    assert max(rows) == 4


def test_requests_wait_until_their_keys_and_values_fit():
    model, prompts = random_model(), random_prompts(6, shortest=10, longest=10)
    bytes_per_token = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, head size, fp32
    generator = Generator(model, eos_token_ids=[], max_num_seqs=6, max_cache_bytes=3 * 20 * bytes_per_token)
    rows = []
    hook = model.model.layers[0].self_attn.register_forward_pre_hook(
        lambda module, args, kwargs: rows.append(len(kwargs["step_plan"].segments)), with_kwargs=True
    )
    results = run(generator, prompts, greedy(10))
    assert max(rows) == 3
    hook.remove()
    assert [result.token_ids for result in results] == [greedy_reference(model, prompt, 10) for prompt in prompts]
    with pytest.raises(DataError, match="request b: 61 tokens .* do not fit .* which holds 60"):
        generator.add_request("b", [5] * 21, greedy(40))


def test_abort_gives_the_partial_response_and_leaves_the_others_alone():
    model, prompts = random_model(), random_prompts(4)
    generator = Generator(model, eos_token_ids=[], max_num_seqs=3)
    for index, prompt in enumerate(prompts):
        generator.add_request(str(index), prompt, greedy(20))
    for _ in range(6):
        assert generator.step() == []
    (running,) = generator.abort_request("1")
    (waiting,) = generator.abort_request("3")
    assert generator.abort_request("nobody") == []
    whole = greedy_reference(model, prompts[1], 20)
    assert running == Generation("1", whole[: len(running.token_ids)], running.log_probs, "abort")
    assert 0 < len(running.token_ids) == len(running.log_probs) < 20
    assert waiting == Generation("3", [], [], "abort")
    generator.add_request("1", prompts[1], greedy(4))  # the id is free again
    done = finish(generator)
    assert {key: value.token_ids for key, value in done.items()} == {
        "0": greedy_reference(model, prompts[0], 20),
        "1": whole[:4],
        "2": greedy_reference(model, prompts[2], 20),
    }


@pytest.mark.parametrize("params", [{"temperature": 0}, {"seed": 5, "repetition_penalty": 1.1}])
def test_an_aborted_request_goes_on_as_if_it_had_not_been_interrupted(params):
    model, prompt = random_model(), [9, 4, 33, 20]
    generator = Generator(model, eos_token_ids=[])
    (whole,) = run(generator, [prompt], SamplingParams(max_tokens=20, **params))
    generator.add_request("a", prompt, SamplingParams(max_tokens=20, **params))
    for _ in range(8):
        generator.step()
    (part,) = generator.abort_request()
    assert not generator.has_unfinished_requests()
    (rest,) = run(generator, [prompt + part.token_ids], SamplingParams(max_tokens=20 - len(part.token_ids), **params))
    assert part.token_ids + rest.token_ids == whole.token_ids


def test_stop_tokens_end_a_response_and_belong_to_it():
    model, prompt = random_model(), [12, 30]
    whole = greedy_reference(model, prompt, 30)
    stop = whole[9]
    position = whole.index(stop)
    (own,) = run(Generator(model, eos_token_ids=[]), [prompt], greedy(30, stop_token_ids=(stop,)))
    (eos,) = run(Generator(model, eos_token_ids=[stop]), [prompt], greedy(30))
    (ignored,) = run(Generator(model, eos_token_ids=[stop]), [prompt], greedy(30, ignore_eos=True))
    assert own.token_ids == eos.token_ids == whole[: position + 1]
    assert own.finish_reason == eos.finish_reason == "stop"
    assert (ignored.token_ids, ignored.finish_reason) == (whole, "length")


def test_one_token_and_the_end_of_the_context():
    model, prompt = random_model(), random_prompts(1, shortest=20)[0]
    generator = Generator(model, eos_token_ids=[], max_model_len=len(prompt) + 5)
    one, all_of_it = run(generator, [prompt, prompt], [greedy(1), greedy(100)])
    whole = greedy_reference(model, prompt, 5)
    assert (one.token_ids, one.finish_reason) == (whole[:1], "length")
    assert (all_of_it.token_ids, all_of_it.finish_reason) == (whole, "length")


def test_token_ids_beyond_the_tokenizer_are_never_drawn():
    model = random_model()
    params = SamplingParams(max_tokens=40, temperature=3.0)
    results = run(Generator(model, eos_token_ids=[], vocab_size=20), random_prompts(5), params)
    assert max(token for result in results for token in result.token_ids) < 20


def test_new_weights_are_not_mixed_with_prompts_computed_by_old_ones():
    model, other, prompt = random_model(), random_model(seed=1), random_prompts(1, shortest=30)[0]
    generator = Generator(model, eos_token_ids=[], max_num_seqs=4)
    generator.add_request("old", prompt, greedy(30))
    for _ in range(3):
        generator.step()
    model.load_state_dict(other.state_dict())
    generator.weights_changed()
    generator.add_request("new", prompt, greedy(10))
    generator.add_request("new too", prompt, greedy(10))
    done = finish(generator)
    assert done["new"].token_ids == done["new too"].token_ids == greedy_reference(other, prompt, 10)
    assert len(done["old"].token_ids) == 30


def test_memory_is_given_back_only_when_nothing_runs():
    model = random_model()
    generator = Generator(model, eos_token_ids=[])
    generator.add_request("a", [5, 6], greedy(10))
    generator.step()
    with pytest.raises(RuntimeError, match="1 requests are running"):
        generator.release_memory()
    finish(generator)
    generator.release_memory()
    (again,) = run(generator, [[5, 6]], greedy(10))
    assert again.token_ids == greedy_reference(model, [5, 6], 10)


def test_the_model_keeps_its_own_attention():
    model = random_model()
    run(Generator(model, eos_token_ids=[]), [[3, 4]], greedy(3))
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    ("prompt", "line"),
    [
        ([], "request a: the prompt is empty"),
        ([2] * 256, "request a: the prompt has 256 tokens, which leaves no room for a response in a context of 256"),
        ([2, 64], "request a: the prompt has token ids outside 0 to 63"),
        ([-1], "request a: the prompt has token ids outside 0 to 63"),
    ],
)
def test_impossible_prompts_are_refused_in_one_line(prompt, line):
    generator = Generator(random_model(), eos_token_ids=[])
    with pytest.raises(DataError) as error:
        generator.add_request("a", prompt, greedy(1))
    assert str(error.value) == line
    assert not generator.has_unfinished_requests()


def test_an_id_in_use_is_refused():
    generator = Generator(random_model(), eos_token_ids=[])
    generator.add_request("a", [3], greedy(1))
    with pytest.raises(ValueError, match="request a is there already"):
        generator.add_request("a", [3], greedy(1))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"max_num_seqs": 0}, "max_num_seqs: got 0, expected at least 1"),
        ({"max_num_batched_tokens": 0}, "max_num_batched_tokens: got 0, expected at least 1"),
        ({"max_model_len": 1000}, "max_model_len: got 1000, expected 2 to 256, the model's max_position_embeddings"),
        ({"vocab_size": 65}, "vocab_size: got 65, expected 1 to 64, what the model has"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(arguments, line):
    with pytest.raises(ConfigError) as error:
        Generator(random_model(), eos_token_ids=[], **arguments)
    assert str(error.value) == line


def test_a_model_with_a_sliding_window_is_refused():
    model = random_model("qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=0)
    with pytest.raises(ConfigError, match="model: got 'sliding_attention', expected full attention in every layer"):
        Generator(model, eos_token_ids=[])
