"""The online NFT trainer from its command line to its end: check, start Ray, train."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig, OmegaConf

from verl_ext.trainer.run.exits import (
    DIVERGED_EXIT_CODE,
    INTERRUPTED_EXIT_CODE,
    WORKER_DIED_EXIT_CODE,
    NothingToLearnError,
    TrainingDivergedError,
    WorkerDiedError,
)

if TYPE_CHECKING:
    from verl_ext.trainer.run.identity import Identity

CONFIG_NAME = "nft_trainer"
RAY_TOKEN_FILE = Path("~/.ray/auth_token")


def run(arguments: Sequence[str]) -> int:
    """Run with `key=value` arguments; returns the exit code.

    Raises:
        UserError: the input cannot work.
    """
    _offer_ray_token()
    from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
    from verl_ext.trainer.run.command_line import compose_config

    only_print = "--cfg" in arguments
    config = compose_config(CONFIG_NAME, [argument for argument in arguments if argument != "--cfg"], NFT_VOCABULARY)
    if only_print:
        print(OmegaConf.to_yaml(config))
        return 0
    joins_cluster = _joins_cluster(config)

    from verl_ext.trainer.online.checks import check_config, check_device, check_files
    from verl_ext.trainer.online.sampling_checks import sampling_notes

    check_config(config, joins_cluster=joins_cluster)
    check_files(config)
    for note in sampling_notes(config):
        print(f"note: {note}", file=sys.stderr, flush=True)

    # torch and verl are imported from here on; verl's engines ask for the device when they are imported, which ends
    # the choice, so it comes before every import that may load them.
    from verl_ext.trainer.run.launch import choose_device

    device = choose_device(config, must_be_here=not joins_cluster)

    from verl_ext.trainer.online.defaults import complete_config
    from verl_ext.trainer.run import startup
    from verl_ext.trainer.run.identity import flat, identity_of
    from verl_ext.trainer.run.resume import decide, look

    check_device(config, device)
    complete_config(config, device)
    startup.reached("imports")
    defaults = compose_config(CONFIG_NAME, [])
    identity = identity_of(config, ranks=config.trainer.nnodes * config.trainer.n_gpus_per_node, device=device)
    # Before Ray: how many steps the run has is found later, all else that would refuse it is known.
    decide(config.trainer, identity, None, [look(config.trainer, "this machine")], flat(defaults))
    return _train(config, identity, defaults, device)


def _offer_ray_token() -> None:
    """Let Ray show its token to a cluster that asks for one, as those of `sh/ray_cluster.sh` do.

    Ray reads this when it is imported, which verl's configuration does.
    """
    if RAY_TOKEN_FILE.expanduser().is_file() or os.environ.get("RAY_AUTH_TOKEN"):
        os.environ.setdefault("RAY_AUTH_MODE", "token")


def _joins_cluster(config: DictConfig) -> bool:
    return bool(config.ray_kwargs.ray_init.address or os.environ.get("RAY_ADDRESS"))


def _train(config: DictConfig, identity: Identity, defaults: DictConfig, device: str) -> int:
    from verl_ext.run_folder import only_run_in
    from verl_ext.trainer.online.cluster import ray_cluster
    from verl_ext.trainer.online.controller import train
    from verl_ext.trainer.run import startup

    with only_run_in(config.trainer.default_local_dir, key="trainer.default_local_dir"), ray_cluster(config, device):
        startup.reached("Ray")
        try:
            complete = train(config, identity, defaults)
        except (TrainingDivergedError, NothingToLearnError) as error:
            print(f"error: {error}", file=sys.stderr, flush=True)
            return DIVERGED_EXIT_CODE
        except WorkerDiedError as error:
            print(f"error: {error}\nThe same command continues from the last checkpoint.", file=sys.stderr, flush=True)
            return WORKER_DIED_EXIT_CODE
    return 0 if complete else INTERRUPTED_EXIT_CODE
