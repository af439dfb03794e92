import threading

import pytest
import torch

from tests.support.tiny_generation import greedy_reference, random_model
from verl_ext.errors import DataError
from verl_ext.rollout.generation_loop import GenerationFailedError, GenerationLoop
from verl_ext.rollout.generator import Generator
from verl_ext.rollout.requests import SamplingParams

WAIT_S = 30


def greedy(max_tokens: int) -> SamplingParams:
    return SamplingParams(max_tokens=max_tokens, temperature=0)


@pytest.fixture
def model():
    return random_model()


@pytest.fixture
def loop(model):
    loop = GenerationLoop(Generator(model, eos_token_ids=[], max_num_seqs=4), threads=1)
    yield loop
    loop.stop()


def test_requests_of_many_threads_are_answered_with_their_own_tokens(model, loop):
    prompts = [[5 + index, 9, 3] for index in range(12)]
    answers: dict[int, list[int]] = {}

    def ask(index: int) -> None:
        answer = loop.submit(str(index), prompts[index], greedy(6 + index))
        answers[index] = answer.result(WAIT_S).generation.token_ids

    askers = [threading.Thread(target=ask, args=(index,)) for index in range(12)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    assert answers == {index: greedy_reference(model, prompt, 6 + index) for index, prompt in enumerate(prompts)}


def test_a_refused_request_gets_its_reason_and_the_others_go_on(model, loop):
    good = loop.submit("good", [4, 5], greedy(8))
    bad = loop.submit("bad", [], greedy(8))
    with pytest.raises(DataError, match="request bad: the prompt is empty"):
        bad.result(WAIT_S)
    assert good.result(WAIT_S).generation.token_ids == greedy_reference(model, [4, 5], 8)


def test_abort_answers_with_what_there_is(loop):
    loop.hold().result(WAIT_S)
    answers = [loop.submit(str(index), [7, index], greedy(100)) for index in range(6)]
    assert sorted(loop.abort().result(WAIT_S)) == [str(index) for index in range(6)]
    assert all(answer.result(WAIT_S).generation.finish_reason == "abort" for answer in answers)
    assert loop.unfinished().result(WAIT_S) == 0


def test_nothing_is_computed_while_held_and_a_change_of_weights_is_whole(model, loop):
    other, prompt = random_model(seed=1), [9, 8, 7, 6]
    loop.hold().result(WAIT_S)
    answer = loop.submit("a", prompt, greedy(10))
    names = list(model.state_dict())
    for name in names:  # one command each, as buckets come
        loop.call(lambda name=name: model.state_dict()[name].copy_(other.state_dict()[name])).result(WAIT_S)
        assert not answer.done()
    loop.call(lambda: setattr(loop, "version", 3))
    loop.release()
    generation, version = answer.result(WAIT_S)
    assert generation.token_ids == greedy_reference(other, prompt, 10)
    assert version == 3


def test_a_failing_step_reaches_all_who_wait_and_all_who_come_later(model, loop):
    loop.hold().result(WAIT_S)
    answers = [loop.submit(str(index), [7, index], greedy(20)) for index in range(6)]
    model.lm_head.weight = torch.nn.Parameter(torch.zeros(64, 5))
    loop.release()
    for answer in answers:
        with pytest.raises(GenerationFailedError, match="generation failed: RuntimeError: .*shapes"):
            answer.result(WAIT_S)
    for later in (loop.submit("late", [5], greedy(1)), loop.abort(), loop.hold()):
        with pytest.raises(GenerationFailedError, match="generation failed"):
            later.result(WAIT_S)


def test_a_stopped_loop_fails_those_who_wait_and_those_who_come(loop):
    loop.hold().result(WAIT_S)
    answer = loop.submit("a", [5, 6], greedy(10))
    loop.stop()
    late = loop.submit("b", [5, 6], greedy(10))
    for future in (answer, late):
        with pytest.raises(GenerationFailedError, match="the generation server was stopped"):
            future.result(WAIT_S)
