"""Which run a checkpoint belongs to: what may change while a run goes on, and what makes it another one."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from fnmatch import fnmatchcase
from functools import cache

import pytest

from tests.conftest import arithmetic_rows, write_parquet
from tests.support.tiny_model import save_tiny_model
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config, known_keys, model_name
from verl_ext.trainer.run.identity import FILES, FREE, MICRO_BATCHES, ROUNDING, Identity, flat, identity_of
from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY, NFT_OFFLINE_VOCABULARY

TRAINERS = {"dft_trainer": DFT_VOCABULARY, "nft_offline": NFT_OFFLINE_VOCABULARY, "nft_trainer": NFT_VOCABULARY}
FEW_KEYS_OF_NO_TRAINER_BY_DEFAULT = (
    "*.judge.*",
    "reward.reward_kwargs.*",
)  # open groups, empty until somebody fills them


@cache
def compose(trainer, model, *arguments):
    group = "actor_rollout_ref.model" if trainer == "nft_trainer" else "model"
    return compose_config(trainer, [f"{group}.path={model}", *arguments], TRAINERS[trainer])


@cache
def defaults_of(trainer):
    return flat(compose_config(trainer, []))


def differences(trainer, model, before, after, *, ranks=(1, 1)):
    """What a run with the arguments `after` differs in from one with `before`, once saved and read."""
    saved, asked = (
        identity_of(compose(trainer, model, *arguments), ranks=count, device="cpu")
        for arguments, count in zip((before, after), ranks, strict=True)
    )
    saved = Identity.from_json(json.loads(json.dumps(asdict(saved))))
    return asked.differences(saved, defaults_of(trainer))


@pytest.mark.parametrize("trainer", TRAINERS)
def test_a_run_is_itself(trainer, model_folder):
    assert differences(trainer, model_folder, [], []) == []


@pytest.mark.parametrize(
    ("trainer", "argument", "difference"),
    [
        ("dft_trainer", "objective.name=sft", "objective.name = dft there, sft here"),
        ("dft_trainer", "optim.lr=1e-3", "optim.lr = 5e-05 there, 0.001 here"),
        ("dft_trainer", "data.max_length=77", "data.max_length = 2048 there, 77 here"),
        ("dft_trainer", "trainer.seed=2", "trainer.seed = 1 there, 2 here"),
        ("dft_trainer", "model.lora_rank=8", "model.lora_rank = 0 there, 8 here"),
        ("dft_trainer", "data.train_batch_size=16", "data.train_batch_size = 256 there, 16 here"),
        (
            "dft_trainer",
            "+model.override_config.attention_dropout=0.1",
            "attention_dropout = (not set) there, 0.1 here",
        ),
        ("nft_offline", "objective.neg_weight=0", "objective.neg_weight = 1.0 there, 0 here"),
        ("nft_offline", "data.temperature=0.7", "data.temperature = 1.0 there, 0.7 here"),
        ("nft_trainer", "objective=grpo", "objective.name = nft there, grpo here"),
        ("nft_trainer", "objective=grpo", "actor_rollout_ref.actor.policy_loss.loss_mode = nft there, vanilla here"),
        ("nft_trainer", "actor_rollout_ref.rollout.temperature=0.8", "temperature = 1.0 there, 0.8 here"),
        ("nft_trainer", "actor_rollout_ref.rollout.n=4", "actor_rollout_ref.rollout.n = 16 there, 4 here"),
        (
            "nft_trainer",
            "+reward.reward_kwargs.timeout_s=9",
            "reward.reward_kwargs.timeout_s = (not set) there, 9 here",
        ),
    ],
)
def test_what_makes_it_another_run(trainer, argument, difference, model_folder):
    found = differences(trainer, model_folder, [], [argument])
    assert any(difference in one for one in found), found


def test_every_difference_is_named(model_folder):
    found = differences("dft_trainer", model_folder, [], ["optim.lr=1", "trainer.seed=2"], ranks=(1, 2))
    assert found == [
        "number of ranks = 1 there, 2 here",
        "optim.lr = 5e-05 there, 1 here",
        "trainer.seed = 1 there, 2 here",
    ]


@pytest.mark.parametrize(
    ("trainer", "arguments"),
    [
        ("dft_trainer", ["trainer.default_local_dir=/elsewhere", "trainer.logger=[wandb]", "trainer.save_freq=3"]),
        ("dft_trainer", ["trainer.project_name=p", "trainer.experiment_name=e", "trainer.max_ckpt_to_keep=1"]),
        ("dft_trainer", ["data.micro_batch_size_per_gpu=1", "data.use_dynamic_bsz=True", "data.num_workers=0"]),
        ("nft_offline", ["trainer.log_entropy=True", "model.enable_gradient_checkpointing=False"]),
        ("nft_trainer", ["trainer.nnodes=2", "trainer.experiment_name=e", "actor_rollout_ref.rollout.max_num_seqs=7"]),
        ("nft_trainer", ["+reward.reward_kwargs.workers=9", "ray_kwargs.ray_init.address=host:1"]),
    ],
)
def test_what_may_change_while_it_goes_on(trainer, arguments, model_folder):
    assert differences(trainer, model_folder, [], arguments) == []


def test_what_changes_rounding_alone_is_told_apart(model_folder):
    before, after = (
        identity_of(compose("dft_trainer", model_folder, *more), ranks=1, device="cpu")
        for more in ([], ["data.micro_batch_size_per_gpu=1"])
    )
    assert after.rounding_differences(before, {}) == ["data.micro_batch_size_per_gpu = 4 there, 1 here"]


def test_micro_batches_make_another_run_where_the_loss_is_a_mean_over_them(model_folder):
    published = "objective.reduction=published"
    found = differences("dft_trainer", model_folder, [published], [published, "data.micro_batch_size_per_gpu=1"])
    assert found == ["data.micro_batch_size_per_gpu = 4 there, 1 here"]


def test_a_key_that_the_saved_run_did_not_know_is_no_difference_at_its_default(model_folder):
    config = compose("dft_trainer", model_folder)
    asked = identity_of(config, ranks=1, device="cpu")
    older = Identity({**asked.settings}, asked.rounding, asked.contents)
    del older.settings["data.train_on_turns"]
    assert asked.differences(older, flat(config)) == []
    assert asked.differences(older, {**flat(config), "data.train_on_turns": "last"}) != []


def test_the_same_data_under_another_path_are_the_same_and_edited_ones_are_not(model_folder, tmp_path):
    file, copy = write_parquet(tmp_path / "a.parquet", arithmetic_rows(9)), tmp_path / "b.parquet"
    shutil.copy(file, copy)
    arguments = ([f"data.train_files={file}"], [f"data.train_files=[{copy}]"])
    assert differences("dft_trainer", model_folder, *arguments) == []

    rows = arithmetic_rows(9)
    rows[4]["extra_info"]["answer"] += "!"
    write_parquet(copy, rows)
    (found,) = differences("dft_trainer", model_folder, *arguments)
    assert found == f"data.train_files holds something else ({file} there, ['{copy}'] here)"


@pytest.mark.parametrize("trainer", ["dft_trainer", "nft_trainer"])
def test_the_same_model_under_another_path_is_the_same_and_another_is_not(trainer, model_folder, tmp_path):
    moved, other = tmp_path / "moved", save_tiny_model(tmp_path / "other", seed=1)
    shutil.copytree(model_folder, moved)
    key = "actor_rollout_ref.model.path" if trainer == "nft_trainer" else "model.path"
    assert differences(trainer, model_folder, [], [f"{key}={moved}"]) == []
    (found,) = differences(trainer, model_folder, [], [f"{key}={other}"])
    assert found == f"{key} holds something else ({model_folder} there, {other} here)"

    settings = moved / "tokenizer_config.json"
    settings.write_text(settings.read_text().replace("<|im_end|>", "<|endoftext|>"))
    (found,) = differences(trainer, model_folder, [], [f"{key}={moved}"])
    assert "tokenizer_path holds something else" in found


def test_every_pattern_of_what_may_change_is_of_a_key_that_exists():
    keys = set().union(*(known_keys(trainer) for trainer in TRAINERS))
    for pattern in (*FREE, *ROUNDING, *MICRO_BATCHES, *FILES):
        in_open_group = any(fnmatchcase(pattern, group) for group in FEW_KEYS_OF_NO_TRAINER_BY_DEFAULT)
        assert in_open_group or any(fnmatchcase(key, pattern) for key in keys), pattern


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Qwen/Qwen2.5-Math-1.5B", "Qwen2.5-Math-1.5B"),
        ("/models/llama/", "llama"),
        ("runs/dft-llama/global_step_390/huggingface", "dft-llama-step390"),
        (None, "model"),
    ],
)
def test_what_a_model_is_called(path, name):
    assert model_name(path) == name


@pytest.mark.parametrize(
    ("trainer", "arguments", "folder"),
    [
        ("dft_trainer", [], "dft-Qwen3-4B"),
        ("dft_trainer", ["objective.name=sft"], "sft-Qwen3-4B"),
        ("nft_offline", [], "nft-offline-Qwen3-4B"),
        ("nft_offline", ["objective.neg_weight=0"], "rft-offline-Qwen3-4B"),
        *(
            ("nft_trainer", [f"objective={name}"], f"{name}-Qwen3-4B")
            for name in ("nft", "rft", "dapo", "grpo", "dr_grpo")
        ),
        ("nft_trainer", ["actor_rollout_ref.neg_weight=-1"], "dapo-Qwen3-4B"),
    ],
)
def test_objectives_and_models_have_folders_of_their_own(trainer, arguments, folder):
    settings = compose(trainer, "Qwen/Qwen3-4B", *arguments).trainer
    assert settings.experiment_name == folder
    assert settings.default_local_dir == f"checkpoints/verl_ext/{folder}"
