"""Build verl's trainer in this process, which is the single controller, and run it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager

import transfer_queue as tq
from omegaconf import DictConfig
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.utils.config import validate_config

from verl_ext.errors import UserError
from verl_ext.trainer.online.agent_loops import OnlineAgentLoopManager
from verl_ext.trainer.run.identity import Identity, flat
from verl_ext.trainer.run.interruption import Interruption
from verl_ext.trainer.run.quiet import prints_to_debug_log

STORE_STOP_S = 30.0
"""A run that ends while its store of samples is still starting waits so long for it; Ray ends what is left."""


def train(config: DictConfig, identity: Identity, defaults: DictConfig) -> bool:
    """Train on the Ray cluster that this process is connected to.

    Args:
        config: composed, checked and completed.
        identity: which run that is.
        defaults: the configuration without the user's overrides.

    Returns:
        Whether the run is complete; False when a signal ended it early.

    Raises:
        UserError: verl refuses the configuration.
        WorkerDiedError, TrainingDivergedError, NothingToLearnError: see `OnlineLoop.fit`.
    """
    trainer_class = get_trainer_cls(config.trainer.v1.trainer_mode)
    interruption = Interruption()  # after Ray, which sets a handler of its own
    with prints_to_debug_log():
        try:
            validate_config(config, use_reference_policy=need_reference_policy(config), use_critic=need_critic(config))
            trainer = trainer_class(config)
        except (AssertionError, ValueError) as error:
            raise UserError(f"verl refuses this configuration: {' '.join(str(error).split())}") from error
    trainer.interruption = interruption
    trainer.identity, trainer.default_values = identity, flat(defaults)
    with _transfer_queue(config) as trainer.transfer_queue:
        with prints_to_debug_log():
            trainer.init()
            agent_loops = OnlineAgentLoopManager.create(
                config=config,
                llm_client=trainer.get_llm_client(),
                teacher_client=trainer.get_teacher_client(),
                reward_loop_worker_handles=trainer.get_reward_handles(),
            )
        return trainer.fit(agent_loops)


@contextmanager
def _transfer_queue(config: DictConfig) -> Iterator[Future]:
    """verl's store of samples, started beside what does not need it yet: its processes import torch one by one.

    Yields:
        Whose `result()` waits until the store can be used, and raises what went wrong.
    """
    thread = ThreadPoolExecutor(1)
    started = thread.submit(tq.init, config.transfer_queue)
    try:
        yield started
    finally:
        thread.shutdown(wait=False)
        done, _ = wait([started], timeout=STORE_STOP_S)
        if done and started.exception() is None:
            tq.close()
