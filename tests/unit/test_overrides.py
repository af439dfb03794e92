"""The command line: today's keys, yesterday's keys, and keys that nobody knows."""

from __future__ import annotations

import pytest

from verl_ext.errors import UserError
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.supervised.vocabulary import DFT_OLD_NAMES, DFT_VOCABULARY

REQUIRED = ["model.path=m", "data.train_files=t.parquet"]


@pytest.fixture(autouse=True)
def first_rank(monkeypatch):
    monkeypatch.delenv("LOCAL_RANK", raising=False)


def compose(*arguments: str):
    return compose_config("dft_trainer", [*REQUIRED, *arguments], DFT_VOCABULARY)


def test_the_defaults_are_those_of_the_paper():
    config = compose()
    assert (config.objective.name, config.objective.reduction) == ("dft", "token_mean")
    assert (config.optim.lr, config.data.train_batch_size, config.data.max_length) == (5e-5, 256, 2048)
    assert (config.optim.lr_warmup_steps_ratio, config.optim.lr_scheduler_type) == (0.1, "cosine")
    assert (list(config.optim.betas), config.optim.weight_decay, config.optim.clip_grad) == ([0.9, 0.95], 0.01, 1.0)


def test_every_old_name_maps_to_a_key_that_exists_and_says_so(capsys):
    for old, new in DFT_OLD_NAMES.items():
        assert compose(f"{old}=null")._get_node(new.split(".")[0]) is not None
        assert f"{old} is now {new}\n" in capsys.readouterr().err


def test_only_the_first_rank_of_a_machine_says_so(capsys, monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "1")
    compose("use_remove_padding=False")
    assert capsys.readouterr().err == ""


def test_an_old_name_sets_the_new_key():
    assert compose("ulysses_sequence_parallel_size=4").engine.ulysses_sequence_parallel_size == 4


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("data.trian_files=x", "unknown key data.trian_files; did you mean data.train_files?"),
        ("lr=1", "unknown key lr; did you mean optim.lr?"),
        ("+trainer.epochs=1", "unknown key trainer.epochs; did you mean trainer.total_epochs?"),
        ("xyzzy=1", "unknown key xyzzy"),
        ("data.train_files", "cannot read the argument 'data.train_files': expected key=value"),
        ("data.max_length=[1", "cannot read the argument 'data.max_length=[1': expected key=value"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(argument, message):
    with pytest.raises(UserError) as caught:
        compose(argument)
    assert str(caught.value) == message


@pytest.mark.parametrize("blank", [" ", "", "\n", "\t "])
def test_a_blank_after_a_backslash_is_explained(blank):
    with pytest.raises(UserError) as caught:
        compose_config("dft_trainer", [*REQUIRED, "data.train_batch_size=256", blank])
    assert "argument 4 is blank" in str(caught.value)
    assert "'data.train_batch_size=256' ends in a backslash followed by a blank" in str(caught.value)


def test_a_plus_before_a_known_key_is_harmless():
    assert compose("+data.max_length=77", "++data.truncation=left").data.max_length == 77


@pytest.mark.parametrize("sign", ["", "+"])
def test_open_groups_take_new_keys(sign):
    config = compose(f"{sign}model.override_config.rope_theta=7", f"{sign}data.apply_chat_template_kwargs.a=b")
    assert config.model.override_config.rope_theta == 7
    assert config.data.apply_chat_template_kwargs.a == "b"


@pytest.mark.parametrize("sign", ["", "+", "++"])
@pytest.mark.parametrize("objective", ["nft", "dapo"])
def test_open_groups_take_keys_that_an_objective_has_set(sign, objective):
    required = ["actor_rollout_ref.model.path=m", "data.train_files=t.parquet", f"objective={objective}"]
    key = "reward.reward_kwargs.overlong_buffer_cfg.len"
    config = compose_config("nft_trainer", [*required, f"{sign}{key}=7"], NFT_VOCABULARY)
    assert config.reward.reward_kwargs.overlong_buffer_cfg.len == 7
