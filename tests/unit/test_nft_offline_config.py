"""Offline NFT's command line: its defaults, the published names, and which of the two trainers is meant."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from verl_ext.errors import ConfigError, UserError
from verl_ext.objectives.nft_config import NFTConfig
from verl_ext.trainer import fsdp_nft_trainer
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.supervised import nft_run
from verl_ext.trainer.supervised.vocabulary import NFT_OFFLINE_VOCABULARY

REQUIRED = ["model.path=m", "data.rollouts=r.parquet"]
ENVIRONMENT = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "TORCHELASTIC_RUN_ID")


def compose(*arguments: str):
    return compose_config("nft_offline", [*REQUIRED, *arguments], NFT_OFFLINE_VOCABULARY)


def test_the_defaults_are_those_of_the_objective_and_of_the_paper():
    config = compose()
    assert {name: config.objective[name] for name in asdict(NFTConfig())} == asdict(NFTConfig())
    assert config.objective.reduction == "token_mean"
    assert (config.data.train_batch_size, config.data.temperature) == (32, 1.0)
    assert (config.optim.lr, config.optim.weight_decay, config.optim.clip_grad) == (1e-6, 0.1, 1.0)
    assert (config.optim.lr_scheduler_type, config.optim.lr_warmup_steps) == ("constant", 10)


@pytest.mark.parametrize(
    ("argument", "name", "value"),
    [
        ("actor_rollout_ref.neg_weight=0", "neg_weight", 0.0),
        ("+actor_rollout_ref.neg_weight=0.5", "neg_weight", 0.5),
        ("++actor_rollout_ref.clamp_negative=-0.5", "eps", 0.5),
        ("actor_rollout_ref.clamp_positive=0.1", "positive_floor", 0.1),
        ("+actor_rollout_ref.normalize=0", "prompt_weight", "uniform"),
        ("actor_rollout_ref.normalize=2", "prompt_weight", "grpo"),
        ("actor_rollout_ref.actor.ratio_type=sequence", "ratio", "sequence"),
    ],
)
def test_published_names_set_the_objective(argument, name, value):
    assert compose(argument).objective[name] == value


@pytest.mark.parametrize("value", ["3", "dr_grpo", "", "[1]", "null"])
def test_a_published_value_that_means_nothing_is_named(value):
    with pytest.raises(UserError, match="^actor_rollout_ref.normalize: "):
        compose(f"actor_rollout_ref.normalize={value}")


def test_a_published_name_that_cannot_be_read_is_named():
    with pytest.raises(UserError, match=r"^cannot read the argument 'actor_rollout_ref.normalize=\[1': expected"):
        compose("actor_rollout_ref.normalize=[1")


def test_a_published_value_is_refused_by_its_published_name():
    with pytest.raises(ConfigError, match="^actor_rollout_ref.clamp_negative: got 'low', expected a number"):
        compose("actor_rollout_ref.clamp_negative=low")


@pytest.fixture
def chosen(monkeypatch, capsys):
    """Which trainer the door opens, or the error line; neither of them runs."""

    def choose(*arguments: str, **environment: str) -> str:
        for name in ENVIRONMENT:
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        try:
            return "offline" if fsdp_nft_trainer.is_offline(arguments) else "online"
        except UserError as error:
            return str(error)

    return choose


def test_under_torchrun_a_file_is_trained_on(chosen):
    assert chosen("data.rollouts=r", TORCHELASTIC_RUN_ID="x") == "offline"
    assert chosen("+data.rollouts=r", RANK="0", WORLD_SIZE="1") == "offline"


def test_without_torchrun_training_is_online(chosen):
    assert chosen("data.train_files=t") == "online"
    assert chosen("data.train_files=t", RANK="0") == "online"


def test_a_file_without_torchrun_says_how_to_start(chosen):
    error = chosen("data.rollouts=r")
    assert error.startswith("data.rollouts: training on graded generations is started by torchrun: torchrun ")
    assert "-m verl_ext.trainer.fsdp_nft_trainer data.rollouts=..." in error


def test_torchrun_without_a_file_says_what_is_missing(chosen):
    error = chosen("data.train_files=t", RANK="0", WORLD_SIZE="2")
    assert error.startswith("data.rollouts: not set; under torchrun this trainer learns from graded generations")
    assert "python -m verl_ext.trainer.fsdp_nft_trainer" in error


def test_the_configuration_is_shown_without_torchrun(chosen, capsys):
    assert chosen("data.rollouts=r", "--cfg") == "offline"
    assert nft_run.run([*REQUIRED, "actor_rollout_ref.neg_weight=0", "--cfg"]) == 0
    assert "neg_weight: 0.0" in capsys.readouterr().out
