"""Composes the configuration that a launch would use, and lets the trainer's own checks look at it."""

from __future__ import annotations

import copy
import io
import os
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from verl_ext.doctor.findings import Finding, of_error
from verl_ext.doctor.launch import Launch, Trainer
from verl_ext.errors import ConfigError, UnknownKeyError, UserError
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import Vocabulary, compose_config
from verl_ext.trainer.supervised.vocabulary import DFT_VOCABULARY, NFT_OFFLINE_VOCABULARY

CONFIGS: dict[Trainer, tuple[str, Vocabulary]] = {
    "dft": ("dft_trainer", DFT_VOCABULARY),
    "nft_offline": ("nft_offline", NFT_OFFLINE_VOCABULARY),
    "nft": ("nft_trainer", NFT_VOCABULARY),
}
PLACEHOLDER = "unknown"
"""Stands where the user has set nothing, so that the other checks go on."""

WHAT_TO_SET = {
    "model.path": "a model folder or hub id",
    "actor_rollout_ref.model.path": "a model folder or hub id",
    "data.train_files": "a file or a list of files",
    "data.rollouts": "a file or a list of files with graded generations",
}
"""Keys without a default; others that have none belong to what is switched off."""

MadeBy = Callable[[str], str | None]
"""From a path to the command of the same script that makes it, or None."""


def compose(launch: Launch) -> tuple[DictConfig, list[Finding]]:
    """The configuration of a launch without the arguments that cannot be used, and what is to be said of those."""
    name, vocabulary = CONFIGS[launch.trainer]
    findings: list[Finding] = []
    arguments = [argument for argument in launch.arguments if argument != "--cfg"]
    if len(arguments) < len(launch.arguments):
        findings.append(
            Finding("launch", "warning", "--cfg", "prints the configuration and trains nothing", "leave it out")
        )
    while True:  # one bad argument must not hide the next
        said = io.StringIO()
        try:
            with redirect_stderr(said):
                config = compose_config(name, arguments, vocabulary)
            break
        except UserError as error:
            bad, problem = _blame(error, name, arguments, vocabulary)
            findings.append(problem)
            arguments = [argument for argument in arguments if argument not in bad]
    findings += [
        Finding("renamed-key", "info", line.partition(" is now ")[0].partition("=")[0], line)
        for line in said.getvalue().splitlines()
        if " is now " in line
    ]
    return config, findings + _given_twice(arguments)


def _blame(error: UserError, name: str, arguments: list[str], vocabulary: Vocabulary) -> tuple[list[str], Finding]:
    """The arguments that an error is about, and the finding."""
    if isinstance(error, UnknownKeyError):
        key = str(error).removeprefix("unknown key ").partition(";")[0]
        bad = [argument for argument in arguments if _key_of(argument) == key]
        return bad or arguments, Finding("unknown-key", "error", key, str(error), "correct the name, or leave it out")
    for argument in sorted(
        arguments, key=lambda argument: _key_of(argument) not in str(error)
    ):  # the likely ones first
        try:
            with redirect_stderr(io.StringIO()):
                compose_config(name, [argument], vocabulary)
        except UserError as own:
            default = "bad-value" if isinstance(own, ConfigError) else "bad-argument"
            return [argument], of_error(own, default=default, key=_key_of(argument) if "=" in argument else "")
    return arguments, of_error(error, default="bad-argument")  # only together


def _key_of(argument: str) -> str:
    return argument.partition("=")[0].lstrip("+~")


def _given_twice(arguments: Sequence[str]) -> list[Finding]:
    values: dict[str, list[str]] = {}
    for argument in arguments:
        key, _, value = argument.partition("=")
        values.setdefault(key.lstrip("+"), []).append(value)
    return [
        Finding("given-twice", "info", key, f"{' and then '.join(given)}: the last one holds", "")
        for key, given in values.items()
        if len(set(given)) > 1
    ]


def fill_missing(config: DictConfig, launch: Launch) -> list[Finding]:
    """Say which keys that only the user can know are not set, and put a placeholder there."""
    findings = []
    for key, what in WHAT_TO_SET.items():
        group, _, name = key.rpartition(".")
        if name not in OmegaConf.select(config, group, default={}) or OmegaConf.select(config, key) is not None:
            continue
        if launch.trainer == "nft_offline" and key == "data.train_files":
            continue  # there in verl's configuration, and replaced by data.rollouts
        findings.append(Finding("not-set", "error", key, "not set", f"set it to {what}"))
        OmegaConf.update(config, key, PLACEHOLDER)
    return findings


def run_trainer_checks(config: DictConfig, launch: Launch, *, device: str, made_by: MadeBy) -> list[Finding]:
    """What the trainer itself would refuse first: of the launch, the configuration, the device."""
    findings = []
    checked = copy.deepcopy(config)
    model = checked.actor_rollout_ref.model if launch.trainer == "nft" else checked.model
    for key in ("path", "tokenizer_path"):
        if model[key] and not Path(model[key]).exists() and made_by(model[key]):
            model[key] = PLACEHOLDER  # looks like a hub id, about which the trainer asks nobody yet
    try:
        _check_launch(launch)
    except UserError as error:
        findings.append(of_error(error, default="launch"))
    try:
        _check_config(checked, launch)
    except UserError as error:
        findings.append(of_error(error))
    try:
        _check_device(checked, launch.trainer, device)
    except UserError as error:
        findings.append(of_error(error))
    return findings


def _check_launch(launch: Launch) -> None:
    if launch.trainer == "dft":
        if launch.ray_job and not launch.torchrun:
            raise UserError(
                "ray job submit: this trainer is started by torchrun, which Ray does not start on its machines"
            )
        return
    from verl_ext.trainer.fsdp_nft_trainer import is_offline

    is_offline(launch.arguments)


def _check_config(config: DictConfig, launch: Launch) -> None:
    if launch.trainer == "nft":
        from verl_ext.trainer.online.checks import check_config

        address = config.ray_kwargs.ray_init.address or os.environ.get("RAY_ADDRESS")
        check_config(config, joins_cluster=bool(address) or launch.ray_job)
        return
    if launch.trainer == "dft":
        from verl_ext.trainer.supervised.dft_checks import check_config as check_supervised
    else:
        from verl_ext.trainer.supervised.nft_checks import check_config as check_supervised
    check_supervised(config, world_size=launch.ranks)


def _check_device(config: DictConfig, trainer: Trainer, device: str) -> None:
    if trainer == "nft":
        from verl_ext.trainer.online.checks import check_device
    else:
        from verl_ext.trainer.supervised.checks import check_device
    check_device(config, device)


def run_verl_checks(config: DictConfig, trainer: Trainer, *, on_gpu: bool) -> list[Finding]:
    """What verl's own dataclasses and `validate_config` refuse; imports verl, which takes seconds."""
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    checked = copy.deepcopy(config)
    try:
        with redirect_stdout(io.StringIO()):
            if trainer == "nft":
                from verl.trainer.ppo.utils import need_critic, need_reference_policy

                rollout = checked.actor_rollout_ref.rollout
                rollout.name = rollout.name or ("vllm" if on_gpu else "hf")
                uses = {"use_reference_policy": need_reference_policy(checked), "use_critic": need_critic(checked)}
                validate_config(checked, **uses)
            else:
                for group in (checked.engine, checked.optim, checked.checkpoint):
                    omega_conf_to_dataclass(group)
    except (AssertionError, ValueError, TypeError, NotImplementedError) as error:
        message = " ".join(str(error).split()) or type(error).__name__
        return [Finding("refused-by-verl", "error", "", f"verl refuses this configuration: {message}", "")]
    return []
