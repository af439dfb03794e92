"""Metrics of an online step that do not come from the model."""

from __future__ import annotations

import math

import pytest
import torch
from transfer_queue import KVBatchMeta

from verl_ext.trainer.online import step_metrics
from verl_ext.trainer.online.outcomes import Outcomes
from verl_ext.trainer.online.step_metrics import (
    EntropyBand,
    accuracy_before_sampling,
    entropy_of_tokens,
    outcomes_of,
    shares_at_limit,
)
from verl_ext.trainer.online.truncation import NOTHING_LEFT


def _tags(*lengths: tuple[int, int]) -> list[dict[str, int]]:
    return [{"prompt_len": prompt, "response_len": response} for prompt, response in lengths]


def test_answers_as_long_as_the_longest_are_not_cut():
    shares = shares_at_limit(_tags((10, 40), (10, 40), (12, 20)), max_prompt_length=128, max_response_length=64)
    assert set(shares.values()) == {0.0}


def test_an_answer_that_fills_its_length_is_cut_and_padding_is_none():
    tags = [*_tags((10, 64), (128, 40), (10, 0), (10, 63)), {"prompt_len": 1, "response_len": 64, "is_padding": True}]
    shares = shares_at_limit(tags, max_prompt_length=128, max_response_length=64)
    assert shares == {
        "prompt_length/clip_ratio": 0.25,
        "response_length/clip_ratio": 0.25,
        "response_length_non_aborted/clip_ratio": pytest.approx(1 / 3),
    }


def test_without_a_single_answer_there_is_no_share():
    shares = shares_at_limit(_tags((10, 0)), max_prompt_length=128, max_response_length=64)
    assert shares["response_length/clip_ratio"] == 0.0
    assert math.isnan(shares["response_length_non_aborted/clip_ratio"])


def test_accuracy_counts_the_groups_that_were_dropped():
    metrics = {
        "reward/acc": 0.5,
        "sampling/generated_groups": 11.0,
        "sampling/dropped_failed": 1.0,
        "sampling/dropped_all_right": 2.0,
        "sampling/dropped_all_wrong": 4.0,
    }
    assert accuracy_before_sampling(metrics) == {"sampling/accuracy": pytest.approx(0.4)}  # (2 + 4 / 2) of 10
    assert accuracy_before_sampling({"reward/acc": 0.5}) == {}


class Store:
    """TransferQueue in memory: rewards and advantages of answers of two tokens."""

    def __init__(self, rewards: dict[str, float], advantages: dict[str, float]) -> None:
        self.fields = {"rm_scores": rewards, "advantages": advantages}

    def kv_batch_get(self, keys, partition_id, select_fields):
        return {name: torch.tensor([[0.0, self.fields[name][key]] for key in keys]) for name in select_fields}


def _batch(**groups: tuple[list[float], int]) -> tuple[KVBatchMeta, dict[str, float]]:
    """Groups by their rewards and the length of their answers."""
    rewards = {f"{uid}_{i}_0": value for uid, (values, _) in groups.items() for i, value in enumerate(values)}
    tags = [{"response_len": length} for values, length in groups.values() for _ in values]
    return KVBatchMeta(partition_id="train", keys=list(rewards), tags=tags), rewards


def test_a_batch_without_any_advantage_is_told_by_what_its_groups_are(monkeypatch):
    batch, rewards = _batch(a=([1, 1], 8), b=([0, 0], 8), c=([-1, -1], 3), d=([0, 0], 3))
    monkeypatch.setattr(step_metrics, "tq", Store(rewards, dict.fromkeys(rewards, 0.0)))
    assert outcomes_of(batch, max_response_length=8) == Outcomes(all_right=1, cut_off=1, all_wrong=2)


@pytest.mark.parametrize("rows_at_once", [1, 2, 256])
def test_a_batch_with_one_advantage_is_usable(monkeypatch, rows_at_once):
    batch, rewards = _batch(a=([1, 1], 8), b=([0, 1], 8))
    monkeypatch.setattr(step_metrics, "tq", Store(rewards, {**dict.fromkeys(rewards, 0.0), "b_1_0": 0.5}))
    monkeypatch.setattr(step_metrics, "ROWS_AT_ONCE", rows_at_once)
    assert outcomes_of(batch, max_response_length=8) == Outcomes(usable=2)


def test_an_empty_batch_has_no_groups():
    assert outcomes_of(KVBatchMeta(partition_id="train"), max_response_length=8) == Outcomes()


def test_a_batch_whose_answers_are_all_masked_has_truncated_groups(monkeypatch):
    batch, rewards = _batch(a=([1, 0], 8), b=([0, 0], 8))
    monkeypatch.setattr(step_metrics, "tq", Store(rewards, dict.fromkeys(rewards, 0.5)))
    batch.extra_info[NOTHING_LEFT] = True
    assert outcomes_of(batch, max_response_length=8) == Outcomes(truncated=2)


class Entropies:
    """TransferQueue in memory: entropy and mask of answers of different lengths."""

    def __init__(self, entropies: dict[str, list[float]], masks: dict[str, list[int]]) -> None:
        self.fields = {"entropy": entropies, "response_mask": masks}
        self.fetched: list[list[str]] = []

    def kv_batch_get(self, keys, partition_id, select_fields):
        self.fetched.append(keys)
        return {
            name: torch.nested.as_nested_tensor([torch.tensor(self.fields[name][key]) for key in keys])
            for name in select_fields
        }


@pytest.mark.parametrize("rows_at_once", [1, 2, 256])
def test_entropy_is_the_mean_over_tokens_and_not_over_answers(monkeypatch, rows_at_once):
    queue = Entropies({"a": [1.0, 3.0, 9.0], "b": [0.5], "filler": [7.0]}, {"a": [1, 1, 0], "b": [1], "filler": [1]})
    monkeypatch.setattr(step_metrics, "tq", queue)
    monkeypatch.setattr(step_metrics, "ROWS_AT_ONCE", rows_at_once)
    batch = KVBatchMeta(partition_id="train", keys=["a", "b", "filler"], tags=[{}, {}, {"is_padding": True}])
    assert entropy_of_tokens(batch) == pytest.approx((1 + 3 + 0.5) / 3)
    assert [key for keys in queue.fetched for key in keys] == ["a", "b"]


def test_a_batch_without_a_token_has_no_entropy(monkeypatch):
    monkeypatch.setattr(step_metrics, "tq", Entropies({"a": [1.0]}, {"a": [0]}))
    assert math.isnan(entropy_of_tokens(KVBatchMeta(partition_id="train", keys=["a"], tags=[{}])))


def test_an_entropy_that_stays_outside_its_band_is_said_every_20_steps():
    band = EntropyBand([0.2, 0.4])
    said = [band.add(entropy) for entropy in [0.1] * 19 + [0.3] + [0.1] * 40 + [0.5] * 20]
    spoken = {step: line for step, line in enumerate(said, 1) if line is not None}
    assert list(spoken) == [40, 60, 80]
    assert spoken[40].startswith(
        "rollout/entropy is 0.100, below trainer.entropy_band=[0.2, 0.4] for 20 steps; a higher"
    )
    assert "above trainer.entropy_band=[0.2, 0.4] for 60 steps; a lower actor_rollout_ref.rollout.temp" in spoken[80]


def test_the_ends_of_a_band_are_inside_and_no_band_says_nothing():
    band = EntropyBand([0.2, 0.4])
    assert not any(band.add(entropy) for entropy in [0.2, 0.4] * 30)
    assert not any(EntropyBand(None).add(0.0) for _ in range(100))


def test_an_entropy_that_is_no_number_is_outside_the_band():
    band = EntropyBand([0.2, 0.4])
    said = [band.add(math.nan) for _ in range(20)]
    assert "no number" in said[-1]
