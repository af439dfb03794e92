"""Which prompts come next, and what a validation makes of the answers."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset

from verl_ext.rollout.seeded_agent_loop import answer_seed
from verl_ext.trainer.online.prompts import EvaluationBatches, PromptStream
from verl_ext.trainer.online.validation import validation_metrics


class Rows(Dataset):
    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict:
        return {"raw_prompt": [{"role": "user", "content": str(row)}], "index": row, "dummy": torch.tensor([row])}


def _indices(batch) -> list[int]:
    return [int(value) for value in batch["dummy"].flatten()]


def test_the_stream_goes_over_every_prompt_once_an_epoch_in_another_order_each():
    stream = PromptStream(Rows(7), seed=3, shuffle=True)
    epochs = [_indices(stream.take(7)) for _ in range(3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_the_order_does_not_depend_on_how_many_are_taken_at_a_time():
    one = PromptStream(Rows(5), seed=1, shuffle=True)
    other = PromptStream(Rows(5), seed=1, shuffle=True)
    taken = [i for size in (1, 4, 2, 6) for i in _indices(one.take(size))]
    assert taken == _indices(other.take(13))


def test_a_stream_continues_from_its_position():
    whole = PromptStream(Rows(5), seed=1, shuffle=True)
    whole.take(8)
    continued = PromptStream(Rows(5), seed=1, shuffle=True)
    continued.position = 8
    first, second = whole.take(4), continued.take(4)
    assert _indices(first) == _indices(second)
    assert first["uid"] == second["uid"]


def test_names_sort_in_the_order_taken_and_find_their_prompt_again():
    stream = PromptStream(Rows(3), seed=1, shuffle=True)
    batch = stream.take(12)
    uids = list(batch["uid"])
    assert uids == sorted(uids) and len(set(uids)) == 12
    assert _indices(stream.at([int(uids[10]), int(uids[2])])) == [_indices(batch)[10], _indices(batch)[2]]


def test_evaluation_covers_every_row_in_order():
    batches = list(EvaluationBatches(Rows(5), 2))
    assert [list(batch["index"]) for batch in batches] == [[0, 1], [2, 3], [4]]


def test_seeds_differ_between_answers_and_stay_the_same_between_runs():
    seeds = {answer_seed(1, "0000000004", session) for session in range(100)}
    assert len(seeds) == 100
    assert answer_seed(1, "0000000004", 3) == answer_seed(1, "0000000004", 3)
    assert answer_seed(1, "0000000004", 3) != answer_seed(2, "0000000004", 3)


def test_validation_metrics_of_two_sources():
    sources = ["a"] * 6 + ["b"] * 3
    uids = ["p", "p", "p", "q", "q", "q", "r", "r", "r"]
    infos = {
        "acc": [1, 0, 0, 1, 1, 0, 0, 0, 0],
        "pred": ["5", "7", " 7", "2", "2.0", "3", "", None, "1"],
        "reward": [0.0] * 9,
    }
    metrics = validation_metrics(sources, uids, infos)
    assert metrics["val/a/avg@3"] == pytest.approx((1 / 3 + 2 / 3) / 2)
    assert (metrics["val/a/problems"], metrics["val/b/problems"]) == (2, 1)
    assert metrics["val/a/pass@3"] == 1.0
    assert metrics["val/a/maj@3"] == pytest.approx(0.5)  # p: 7 wins; q: right answers count as one candidate
    assert metrics["val/b/avg@3"] == metrics["val/b/pass@3"] == metrics["val/b/maj@3"] == 0.0


def test_one_sample_needs_no_vote():
    metrics = validation_metrics(["a", "a"], ["p", "q"], {"acc": [1, 0], "pred": ["1", "2"], "reward": [1, 0]})
    assert set(metrics) == {"val/a/avg@1", "val/a/avg@1_standard_error", "val/a/problems"}


def test_rewards_stand_in_for_accuracy():
    metrics = validation_metrics(["a", "a"], ["p", "q"], {"reward": [1.0, -1.0]})
    assert metrics["val/a/avg@1"] == 0.5
