"""Every key of verl's configurations is read by something, or refused by name when it is set."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import transfer_queue
import verl
from omegaconf import OmegaConf, open_dict

from verl_ext.errors import UserError
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.run.verl_keys import TRAINERS, check_keys, default_config, leaves, refusals, rule_of, rules
from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY, NFT_OFFLINE_VOCABULARY

ROOT = Path(__file__).resolve().parents[2]
VOCABULARIES = dict(zip(TRAINERS, (DFT_VOCABULARY, NFT_OFFLINE_VOCABULARY, NFT_VOCABULARY), strict=True))


def keys_of(kind: str, trainer: str) -> list[str]:
    return [key for key in leaves(default_config(trainer)) if rule_of(key, trainer).kind == kind]


def defaults(trainer: str):
    return compose_config(trainer, [], VOCABULARIES[trainer])


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_key_has_exactly_one_rule(trainer):
    """A new key, of verl or of ours, needs a line in config/keys/verl.yaml that says what reads it, or why it is refused."""
    problems = []
    for key in leaves(default_config(trainer)):
        try:
            rule_of(key, trainer)
        except LookupError as problem:
            problems.append(str(problem))
    assert not problems, "\n".join(problems)


def test_no_rule_is_without_a_key():
    used = {(rule_of(key, trainer).pattern, trainer) for trainer in TRAINERS for key in leaves(default_config(trainer))}
    dead = [rule.pattern for rule in rules() if not any((rule.pattern, trainer) in used for trainer in rule.trainers)]
    assert not dead


@pytest.mark.parametrize("trainer", TRAINERS)
def test_what_reads_a_key_is_where_the_list_says(trainer):
    """A line of the installed verl, or a file of ours, that has the key's name (or that of the group it is read with)."""
    wrong = []
    for key in leaves(default_config(trainer)):
        rule = rule_of(key, trainer)
        if rule.kind == "read" and not names_it(rule.why, key):
            wrong.append(f"{key}: {rule.why}")
    assert not wrong, "\n".join(wrong)


def names_it(place: str, key: str) -> bool:
    names = "|".join(map(re.escape, key.split(".")[-2:]))
    if place == "transfer_queue":
        files = Path(transfer_queue.__file__).parent.rglob("*.py")
        return any(re.search(names, file.read_text()) for file in files)
    if place.startswith("verl/"):
        file, _, line = place.removeprefix("verl/").partition(":")
        text = (Path(verl.__file__).parent / file).read_text().splitlines()[int(line) - 1]
    else:
        path = ROOT / place
        text = path.read_text()
        if path.suffix == ".py":
            ast.parse(text)
    return re.search(rf"\b({names})\b", text) is not None


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_refused_key_is_refused_when_it_is_set(trainer):
    """All of them at once, each with a value that no other key has."""
    config, keys = defaults(trainer), keys_of("refused", trainer)
    assert list(refusals(config, trainer)) == []
    for number, key in enumerate(keys):
        with open_dict(config):
            OmegaConf.update(config, key, f"value {number}", force_add=True)
    found = [line for line in refusals(config, trainer) if ": not supported here: " in line]
    assert [line.partition(": ")[0] for line in found] == keys
    assert not any("\n" in line for line in found)


@pytest.mark.parametrize(
    ("trainer", "argument", "message"),
    [
        ("nft_trainer", "trainer.v1.sampler.sync_refill_failed_groups=True", "dynamic sampling"),
        ("nft_trainer", "actor_rollout_ref.model.lora.rank=8", "Megatron"),
        ("nft_trainer", "trainer.critic_warmup=3", "no critic"),
        ("nft_trainer", "skip.rollout.enable=True", "dynamic sampling"),
        (
            "nft_trainer",
            "trainer.v1.separate_async.parameter_sync_step=2",
            "no effect without trainer.v1.trainer_mode=",
        ),
        ("nft_trainer", "actor_rollout_ref.actor.entropy_checkpointing=True", "loss_head=plain"),
        ("nft_trainer", "actor_rollout_ref.actor.fsdp_config.strategy=fsdp2", "actor.strategy"),
        ("dft_trainer", "data.num_workers=2", "tokenised once"),
        ("dft_trainer", "trainer.n_gpus_per_node=8", "torchrun"),
        ("nft_offline", "data.train_files=x.parquet", "data.rollouts"),
    ],
)
def test_a_key_that_nothing_reads_is_refused_from_the_command_line(trainer, argument, message):
    config = compose_config(trainer, [argument], VOCABULARIES[trainer])
    with pytest.raises(UserError, match=re.escape(message)) as refused:
        check_keys(config, trainer)
    assert str(refused.value).startswith(f"{argument.partition('=')[0]}: ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["actor_rollout_ref.rollout.n=4", "data.max_prompt_length=99", "trainer.n_gpus_per_node=4"],
        ["trainer.use_v1=True", "trainer.balance_batch=True"],
        ["trainer.v1.trainer_mode=nft_separate_async", "trainer.v1.separate_async.parameter_sync_step=2"],
        [
            "actor_rollout_ref.model.fused_kernel_options.loss_head=plain",
            "actor_rollout_ref.actor.use_torch_compile=True",
        ],
        *([f"objective={name}"] for name in ("nft", "rft", "dapo", "grpo", "dr_grpo")),
    ],
)
def test_a_refused_key_may_follow_others_and_may_be_given_its_default(arguments):
    check_keys(compose_config("nft_trainer", arguments, NFT_VOCABULARY), "nft_trainer")


def test_clipping_and_compilation_reach_the_engine():
    """verl's engine reads them in other groups than people set them in."""
    config = compose_config(
        "nft_trainer",
        ["actor_rollout_ref.actor.grad_clip=0.5", "actor_rollout_ref.actor.use_torch_compile=True"],
        NFT_VOCABULARY,
    )
    actor = config.actor_rollout_ref.actor
    assert (actor.optim.clip_grad, actor.fsdp_config.use_torch_compile) == (0.5, True)
