import math

import pytest
import torch
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from verl_ext.errors import ConfigError
from verl_ext.rollout.requests import SamplingParams
from verl_ext.rollout.sampling import TokenStream, draw_tokens

VOCAB_SIZE = 2000


def stream(seed: int = 0, prompt_ids=(1,), vocab_size: int = VOCAB_SIZE, **params) -> TokenStream:
    sampling = SamplingParams(max_tokens=1, **params)
    return TokenStream(sampling, seed=seed, prompt_ids=prompt_ids, vocab_size=vocab_size, device=torch.device("cpu"))


def random_logits(seed: int = 0, vocab_size: int = VOCAB_SIZE, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(vocab_size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("params", "processors"),
    [
        ({}, []),
        ({"temperature": 0.6}, [TemperatureLogitsWarper(0.6)]),
        ({"top_k": 7}, [TopKLogitsWarper(7)]),
        ({"top_p": 0.4}, [TopPLogitsWarper(0.4)]),
        ({"top_p": 0.999}, [TopPLogitsWarper(0.999)]),  # more tokens than the first look takes in
        (
            {"temperature": 1.5, "top_k": 50, "top_p": 0.8},
            [TemperatureLogitsWarper(1.5), TopKLogitsWarper(50), TopPLogitsWarper(0.8)],
        ),
        ({"repetition_penalty": 1.7, "top_k": 5}, [RepetitionPenaltyLogitsProcessor(1.7), TopKLogitsWarper(5)]),
    ],
)
def test_log_probs_are_those_of_the_distribution_after_all_processors(params, processors):
    prompt = [3, 5, 8, 3]
    scores = random_logits().unsqueeze(0)
    for processor in processors:
        scores = processor(torch.tensor([prompt]), scores)
    expected = scores.log_softmax(-1)[0]
    for seed in range(20):
        (token,), (log_prob,) = draw_tokens(random_logits().unsqueeze(0), [stream(seed, prompt_ids=prompt, **params)])
        assert math.isfinite(expected[token])
        assert log_prob == pytest.approx(expected[token].item(), abs=1e-6)


def test_the_penalty_sees_the_prompt_and_what_was_drawn():
    penalized = stream(prompt_ids=[4], repetition_penalty=2.0, temperature=0, vocab_size=6)
    logits = torch.tensor([[0.0, 3.0, 2.5, 2.0, 5.0, -1.0]])
    drawn = [draw_tokens(logits.clone(), [penalized])[0][0] for _ in range(4)]
    # 4 is halved to 2.5 from the start and then loses to 1; each winner is halved after its turn.
    assert drawn == [1, 2, 4, 4]


def test_greedy_takes_the_first_of_equal_maxima_and_ignores_top_k_and_top_p():
    tokens, log_probs = draw_tokens(
        torch.tensor([[0.0, 2.0, 2.0]]), [stream(temperature=0, top_k=1, top_p=0.1, vocab_size=3)]
    )
    assert tokens == [1]
    assert log_probs == pytest.approx([torch.tensor([0.0, 2.0, 2.0]).log_softmax(-1)[1].item()])


def test_rows_do_not_touch_each_other():
    rows = torch.stack([random_logits(seed) for seed in range(4)])
    kinds = [{"temperature": 0}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.3, "repetition_penalty": 1.2}]
    together = draw_tokens(rows.clone(), [stream(seed, **kind) for seed, kind in enumerate(kinds)])
    for row, kind in enumerate(kinds):
        alone = draw_tokens(rows[row : row + 1].clone(), [stream(row, **kind)])
        assert (together[0][row], together[1][row]) == (alone[0][0], alone[1][0])


def test_forbidden_tokens_are_never_drawn():
    logits = torch.full((1, 50), -math.inf)
    logits[0, [10, 30]] = 0.0
    tokens = {draw_tokens(logits.clone(), [stream(seed, vocab_size=50)])[0][0] for seed in range(200)}
    assert tokens == {10, 30}


def test_streams_of_neighbouring_seeds_are_uniform_and_unrelated():
    numbers = torch.tensor([[one.uniform() for _ in range(50)] for one in (stream(seed) for seed in range(400))])
    assert 0 <= numbers.min() and numbers.max() < 1
    counts = torch.histc(numbers, bins=20, min=0, max=1)
    chi_square = ((counts - 1000) ** 2 / 1000).sum().item()
    assert chi_square < 43.8  # 19 degrees of freedom, p = 0.001
    neighbours = torch.corrcoef(torch.stack([numbers[:-1].flatten(), numbers[1:].flatten()]))[0, 1]
    assert abs(neighbours) < 4 / math.sqrt(399 * 50)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"max_tokens": 0}, "sampling.max_tokens: got 0, expected a whole number of at least 1"),
        ({"temperature": -1.0}, "sampling.temperature: got -1.0, expected 0 (greedy) or a positive number"),
        ({"temperature": math.nan}, "sampling.temperature: got nan, expected 0 (greedy) or a positive number"),
        ({"top_p": 0.0}, "sampling.top_p: got 0.0, expected a number above 0 and at most 1"),
        ({"top_p": 1.5}, "sampling.top_p: got 1.5, expected a number above 0 and at most 1"),
        ({"top_k": -2}, "sampling.top_k: got -2, expected a whole number of at least 1, or -1 or 0 for off"),
        ({"top_k": 2.5}, "sampling.top_k: got 2.5, expected a whole number of at least 1, or -1 or 0 for off"),
        ({"repetition_penalty": 0}, "sampling.repetition_penalty: got 0, expected a number above 0"),
        ({"stop_token_ids": ["x"]}, "sampling.stop_token_ids: got ('x',), expected token ids"),
        ({"seed": -1}, "sampling.seed: got -1, expected 0 to 2**63-1, or null"),
    ],
)
def test_impossible_parameters_are_refused_in_one_line(given, line):
    with pytest.raises(ConfigError) as error:
        SamplingParams(**{"max_tokens": 1, **given})
    assert str(error.value) == line
