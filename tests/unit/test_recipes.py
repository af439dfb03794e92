"""Every recipe's command line is one that its trainer takes: keys exist, batches divide, overrides win."""

from __future__ import annotations

import os

import pytest
from omegaconf import OmegaConf

from tests.support.launch import NFT_TRAINER, TRAINER
from tests.support.recipes import FOLDER, OFFLINE, ONLINE, RECIPES, VARIANTS, commands, split, start_recipe
from tests.support.tiny_model import byte_tokenizer
from verl_ext.evaluation.prompts import BOXED, PROMPT_TYPES
from verl_ext.trainer.online import checks as online_checks
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.supervised import dft_checks, nft_checks
from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY, NFT_OFFLINE_VOCABULARY

NFT = {"algorithm.adv_estimator": "nft", "actor_rollout_ref.actor.policy_loss.loss_mode": "nft"}
VANILLA = {"algorithm.adv_estimator": "grpo", "actor_rollout_ref.actor.policy_loss.loss_mode": "vanilla"}
ONLINE_OBJECTIVES = {
    "nft": {**NFT, "actor_rollout_ref.actor.policy_loss.neg_weight": 1.0},
    "rft": {
        **NFT,
        "actor_rollout_ref.actor.policy_loss.neg_weight": 0.0,
        "actor_rollout_ref.actor.policy_loss.prompt_weight": "uniform",
    },
    "dapo": {**VANILLA, "actor_rollout_ref.actor.clip_ratio_high": 0.28, "algorithm.filter_groups.enable": True},
    "grpo": {**VANILLA, "algorithm.norm_adv_by_std_in_grpo": True},
    "dr_grpo": {**VANILLA, "algorithm.norm_adv_by_std_in_grpo": False},
}


def trainer_of(recipe: str, *more: str, **environment: str):
    """(what starts it, the trainer's module, its arguments): always the last command."""
    return split(commands(recipe, *more, **environment)[-1])


def compose_supervised(arguments):
    config = compose_config("dft_trainer", arguments, DFT_VOCABULARY)
    dft_checks.check_config(config, world_size=8)
    return config


def compose_offline(arguments):
    config = compose_config("nft_offline", arguments, NFT_OFFLINE_VOCABULARY)
    nft_checks.check_config(config, world_size=8)
    return config


def compose_online(arguments, **environment):
    config = compose_config("nft_trainer", arguments, NFT_VOCABULARY)
    online_checks.check_config(config, joins_cluster="RAY_ADDRESS" in environment)
    return config


def test_every_recipe_is_tried_here():
    assert {recipe for recipe, _ in VARIANTS} == set(RECIPES)


@pytest.mark.parametrize(("recipe", "environment"), VARIANTS, ids=lambda value: str(value))
def test_the_trainer_takes_what_a_recipe_says(recipe, environment):
    launcher, module, arguments = trainer_of(recipe, **environment)
    objective = environment.get("OBJECTIVE", "nft")
    if recipe in ONLINE:
        assert (launcher, module) == (["python"], NFT_TRAINER)
        config = compose_online(arguments, **environment)
        chosen = {key: OmegaConf.select(config, key) for key in ONLINE_OBJECTIVES[objective]}
        assert chosen == ONLINE_OBJECTIVES[objective]
        assert config.trainer.nnodes == int(environment.get("NNODES", 1))
        assert config.actor_rollout_ref.rollout.name == environment.get("ROLLOUT", "vllm")
        assert config.trainer.experiment_name.endswith(objective)
        return
    assert launcher == ["torchrun", "--standalone", "--nproc_per_node=8"]
    if (recipe, objective) == (OFFLINE, "nft"):
        assert module == NFT_TRAINER
        assert compose_offline(arguments).objective.neg_weight == 1.0
        return
    assert module == TRAINER
    config = compose_supervised(arguments)
    assert config.objective.name == {"rft": "sft"}.get(objective, objective)
    assert config.trainer.experiment_name.endswith(objective)


@pytest.mark.parametrize("recipe", RECIPES)
def test_the_environment_names_model_data_and_run_and_the_command_line_wins(recipe):
    places = {"MODEL": "some/model", "DATA": "/d", "RUN": "/r", "SAMPLED": "/d/sampled"}
    _, _, arguments = trainer_of(recipe, "trainer.save_freq=7", **places)
    config = compose_online(arguments) if recipe in ONLINE else compose_config("dft_trainer", arguments, DFT_VOCABULARY)
    assert (config.actor_rollout_ref if recipe in ONLINE else config).model.path == "some/model"
    assert config.data.train_files.startswith("/d/")
    assert (config.trainer.default_local_dir, config.trainer.save_freq) == ("/r", 7)


@pytest.mark.parametrize("recipe", ONLINE)
def test_dapo_punishes_long_answers_at_32b_alone_as_published(recipe):
    _, _, arguments = trainer_of(recipe, OBJECTIVE="dapo")
    overlong = compose_online(arguments).reward.reward_kwargs.overlong_buffer_cfg
    if recipe == "nft/qwen2.5-32b.sh":
        assert (overlong.enable, overlong.len, overlong.penalty_factor) == (True, 4096, 1.0)
    else:
        assert not overlong.enable


def test_several_machines_are_named_to_torchrun():
    launcher, _, _ = trainer_of("dft/qwen2.5-math-7b.sh", NNODES="2", GPUS="4", NODE_RANK="1", MASTER_ADDR="10.0.0.1")
    assert launcher == [
        "torchrun", "--nnodes=2", "--node_rank=1", "--master_addr=10.0.0.1", "--master_port=29500",
        "--nproc_per_node=4",
    ]  # fmt: skip


def test_a_machine_without_a_rank_is_told_so():
    ended = start_recipe("dft/qwen2.5-math-7b.sh", NNODES="2", DRY_RUN="1")
    assert ended.returncode != 0
    assert "NODE_RANK: of this machine, from 0" in ended.stderr


def test_offline_rl_samples_grades_and_collects_before_it_trains():
    steps = [split(command)[1:] for command in commands(OFFLINE)]
    assert [(module, arguments[0]) for module, arguments in steps[:-1]] == [
        ("verl_ext.evaluation.graded_samples", "select"),
        ("verl_ext.evaluation", "generate"),
        ("verl_ext.evaluation", "score"),
        ("verl_ext.evaluation.graded_samples", "collect"),
    ]
    from verl_ext.evaluation.config import read_config

    assert read_config(steps[1][1][1:]).n_samples == 4
    score_folder = read_config(steps[2][1][1:]).output_dir
    problems, graded, folder = steps[3][1][1:]
    assert problems == steps[0][1][2]
    assert graded == f"{score_folder}/graded/default/numina_cot.jsonl"
    for objective, (key, name) in {"dft": ("train_files", "right"), "nft": ("rollouts", "rollouts")}.items():
        assert f"data.{key}={folder}/{name}.parquet" in trainer_of(OFFLINE, OBJECTIVE=objective)[2]


def test_offline_rl_refuses_another_objective_before_it_samples():
    ended = start_recipe(OFFLINE, OBJECTIVE="grpo", DRY_RUN="1")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "OBJECTIVE: got grpo, expected dft, rft or nft" in ended.stderr


def test_a_dry_run_prints_what_a_run_starts(tmp_path):
    torchrun = tmp_path / "torchrun"
    torchrun.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    torchrun.chmod(0o755)
    recipe = "qed_nano/qwen3-4b-thinking-sft.sh"
    ran = start_recipe(recipe, "a='b c'", PATH=f"{tmp_path}:{os.environ['PATH']}")
    assert ran.stdout.splitlines() == commands(recipe, "a='b c'")[0][1:]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_tiny_run_changes_little_says_so_and_lets_the_command_line_win(recipe):
    ended = start_recipe(recipe, "trainer.total_training_steps=3", TINY="1", DRY_RUN="1", TINY_DIR="/tiny")
    assert "TINY=1: 2 steps of" in ended.stderr and "say nothing about the method" in ended.stderr
    _, _, tiny = trainer_of(recipe, "trainer.total_training_steps=3", TINY="1", TINY_DIR="/tiny")
    _, _, real = trainer_of(recipe)
    places = [argument for argument in tiny if "/tiny/" in argument]
    changed = [argument for argument in tiny if argument not in real and argument not in places]
    keys = [argument.partition("=")[0] for argument in changed]
    assert keys[-1] == "trainer.total_training_steps" and changed[-1].endswith("=3")
    assert {argument.partition("=")[0] for argument in tiny} >= {argument.partition("=")[0] for argument in real}
    assert len(set(keys)) <= 12
    for kept in ("objective", "objective.name", "data.prompt_key", "data.response_dict_keys", "data.messages_key"):
        assert kept not in keys


@pytest.mark.parametrize(
    ("template", "prompt_type", "bos", "eos"),
    [
        ("llama3-base", "llama-base-boxed", "<|begin_of_text|>", "<|end_of_text|>"),
        ("deepseek-math", "deepseek-math", "<bos>", "<eos>"),
    ],
)
def test_a_template_of_a_base_model_asks_as_the_evaluation_does(template, prompt_type, bos, eos):
    tokenizer = byte_tokenizer(chat_template=(FOLDER / "templates" / f"{template}.jinja").read_text())
    tokenizer.add_special_tokens({"bos_token": bos, "eos_token": eos})
    question = [{"role": "user", "content": f"What is 1 + 1?\n{BOXED}"}]
    rendered = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert rendered == bos + PROMPT_TYPES[prompt_type].text("What is 1 + 1?")
    turn = [*question, {"role": "assistant", "content": "2"}]
    assert tokenizer.apply_chat_template(turn, tokenize=False).removeprefix(rendered).strip() == f"2{eos}"
