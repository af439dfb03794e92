"""How answers may be drawn in training and in validation: what is refused by its key, and what is said."""

from __future__ import annotations

import copy
import math

import pytest
from omegaconf import OmegaConf

from verl_ext.errors import ConfigError
from verl_ext.trainer.online.sampling_checks import check_sampling, sampling_notes
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config

ROLLOUT = "actor_rollout_ref.rollout"
VALIDATION = f"{ROLLOUT}.val_kwargs"
BYPASS = {"algorithm.rollout_correction.bypass_mode": True}


@pytest.fixture(scope="module")
def defaults():
    return compose_config("nft_trainer", [], NFT_VOCABULARY)


@pytest.fixture
def configured(defaults):
    def _configured(settings):
        config = copy.deepcopy(defaults)
        for key, value in settings.items():
            OmegaConf.update(config, key, value)
        return config

    return _configured


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({f"{ROLLOUT}.temperature": 0}, f"{ROLLOUT}.temperature: got 0, expected at least 0.01 in training"),
        (
            {f"{ROLLOUT}.temperature": 0, f"{VALIDATION}.temperature": 0, f"{VALIDATION}.do_sample": False},
            f"{ROLLOUT}.temperature: got 0, expected at least 0.01 in training",
        ),
        ({f"{ROLLOUT}.temperature": -1.0}, f"{ROLLOUT}.temperature: got -1.0"),
        ({f"{ROLLOUT}.temperature": 0.001}, f"{ROLLOUT}.temperature: got 0.001"),
        ({f"{ROLLOUT}.temperature": math.nan}, f"{ROLLOUT}.temperature: got nan"),
        ({f"{ROLLOUT}.temperature": math.inf}, f"{ROLLOUT}.temperature: got inf"),
        ({f"{ROLLOUT}.temperature": None}, f"{ROLLOUT}.temperature: got None"),
        ({f"{ROLLOUT}.temperature": "hot"}, f"{ROLLOUT}.temperature: got 'hot'"),
        ({f"{ROLLOUT}.do_sample": False}, f"{ROLLOUT}.do_sample: got False, expected True"),
        ({f"{ROLLOUT}.top_p": 0}, f"{ROLLOUT}.top_p: got 0, expected above 0"),
        ({f"{ROLLOUT}.top_p": 1.5}, f"{ROLLOUT}.top_p: got 1.5"),
        ({f"{ROLLOUT}.top_k": -2}, f"{ROLLOUT}.top_k: got -2"),
        ({f"{ROLLOUT}.top_k": 0.5}, f"{ROLLOUT}.top_k: got 0.5"),
        ({f"{VALIDATION}.temperature": -0.5}, f"{VALIDATION}.temperature: got -0.5, expected 0 (greedy) or"),
        ({f"{VALIDATION}.top_p": 0}, f"{VALIDATION}.top_p: got 0"),
        ({f"{VALIDATION}.top_k": -5}, f"{VALIDATION}.top_k: got -5"),
        ({f"{VALIDATION}.do_sample": False}, f"{VALIDATION}.do_sample: got False, expected True, or"),
        ({f"{ROLLOUT}.top_p": 0.9, **BYPASS}, f"{ROLLOUT}.top_p: got 0.9, expected off"),
        ({f"{ROLLOUT}.top_k": 50, **BYPASS}, f"{ROLLOUT}.top_k: got 50, expected off"),
    ],
    ids=str,
)
def test_what_cannot_work_is_named(configured, settings, message):
    with pytest.raises(ConfigError) as raised:
        check_sampling(configured(settings))
    assert str(raised.value).startswith(message)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        BYPASS,
        {f"{VALIDATION}.temperature": 0, f"{VALIDATION}.do_sample": False},
        {f"{VALIDATION}.temperature": 0},
        {f"{ROLLOUT}.temperature": 0.6, f"{ROLLOUT}.top_k": 0},
    ],
    ids=str,
)
def test_what_works_passes_without_a_word(configured, settings):
    config = configured(settings)
    check_sampling(config)
    assert list(sampling_notes(config)) == []


@pytest.mark.parametrize(("key", "value"), [("top_p", 0.9), ("top_k", 50)])
def test_training_on_a_part_of_the_distribution_is_said(configured, key, value):
    config = configured({f"{ROLLOUT}.{key}": value})
    check_sampling(config)
    (note,) = sampling_notes(config)
    assert note.startswith(f"{ROLLOUT}.{key}={value}: answers are drawn from the likeliest tokens")
