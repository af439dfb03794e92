"""Metrics of an online step that do not come from the model."""

from __future__ import annotations

import math

import pytest

from verl_ext.trainer.online.step_metrics import accuracy_before_sampling, shares_at_limit


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
