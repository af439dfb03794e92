"""The settings of NFT: what is refused, and how the published names map to them."""

from __future__ import annotations

from dataclasses import asdict

import pytest
import torch

from verl_ext.errors import ConfigError
from verl_ext.objectives.nft import nft_token_loss
from verl_ext.objectives.nft_config import NFTConfig, published_settings


def test_the_defaults_are_those_of_the_loss():
    generator = torch.Generator().manual_seed(0)
    tensors = [-torch.rand(4, 3, generator=generator), -torch.rand(4, 3, generator=generator)]
    tensors += [torch.tensor([1, 0, 0, 1]), torch.full((4,), 0.5)]
    assert torch.equal(nft_token_loss(*tensors, **asdict(NFTConfig())), nft_token_loss(*tensors))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"neg_weight": -1.0}, "neg_weight: got -1.0, expected 0 or more"),
        ({"neg_weight": "half"}, "neg_weight: got 'half', expected 0 or more"),
        ({"neg_weight": float("nan")}, "neg_weight: got nan, expected 0 or more"),
        ({"neg_weight": True}, "neg_weight: got True, expected 0 or more"),
        ({"eps": 0}, "eps: got 0, expected a positive number, because the loss takes its logarithm"),
        ({"positive_floor": -0.1}, "positive_floor: got -0.1, expected 0 or more"),
        ({"prompt_weight": "drgrpo"}, "prompt_weight: got 'drgrpo', expected one of"),
        ({"ratio": ["token"]}, "ratio: got ['token'], expected one of"),
    ],
)
def test_a_setting_that_cannot_work_is_named(options, message):
    with pytest.raises(ValueError) as caught:
        NFTConfig(**options)
    assert str(caught.value).startswith(message)


def test_the_published_names_map_to_the_settings():
    published = {
        "actor_rollout_ref.neg_weight": 0,
        "actor_rollout_ref.clamp_negative": -0.5,
        "actor_rollout_ref.clamp_positive": 0.1,
        "actor_rollout_ref.normalize": 2,
        "actor_rollout_ref.actor.ratio_type": "sequence",
        "actor_rollout_ref.actor.ppo_mini_batch_size": 32,
    }
    settings = published_settings(published)
    assert settings == {
        "neg_weight": 0.0,
        "eps": 0.5,
        "positive_floor": 0.1,
        "prompt_weight": "grpo",
        "ratio": "sequence",
    }
    assert asdict(NFTConfig(**settings)) == settings


@pytest.mark.parametrize(("normalize", "weight"), [(0, "uniform"), (1, "dr_grpo"), (2, "grpo")])
def test_normalize_names_the_prompt_weight(normalize, weight):
    assert published_settings({"actor_rollout_ref.normalize": normalize}) == {"prompt_weight": weight}


def test_what_was_not_given_keeps_its_default():
    assert published_settings({}) == {}


def test_a_negative_neg_weight_passes_for_the_caller_to_see_that_it_means_dapo():
    assert published_settings({"actor_rollout_ref.neg_weight": -1}) == {"neg_weight": -1.0}


@pytest.mark.parametrize(
    ("key", "value"),
    [("normalize", 3), ("normalize", True), ("normalize", "1"), ("normalize", [1]), ("actor.ratio_type", "tokens")]
    + [(name, value) for name in ("neg_weight", "clamp_negative", "clamp_positive") for value in ("x", None, False)],
)
def test_a_published_value_that_means_nothing_is_refused(key, value):
    with pytest.raises(ConfigError, match=f"actor_rollout_ref.{key}: got "):
        published_settings({f"actor_rollout_ref.{key}": value})
