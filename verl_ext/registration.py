"""Which of our functions registers what with verl, and when: as soon as verl's registry and our module are both there.

A part of this package is imported when, and only when, the verl module that owns the matching registry has been
imported, so a Ray process that never touches an engine never pays for ours.
"""

from __future__ import annotations

import importlib
import logging
import sys
from types import ModuleType

import wrapt

logger = logging.getLogger(__name__)

REGISTRATIONS = {
    "verl.checkpoint_engine.base": "verl_ext.rollout.object_store_engine:register_checkpoint_engine",
    "verl.plugin.platform": "verl_ext.platform.cpu:register_platform",
    "verl.experimental.agent_loop.agent_loop": "verl_ext.rollout.seeded_agent_loop:register_agent_loop",
    "verl.experimental.reward_loop.reward_manager": "verl_ext.reward.manager:register_reward_manager",
    "verl.trainer.ppo.core_algos": "verl_ext.trainer.online.registration:register_algorithms",
    "verl.trainer.ppo.v1.trainer_base": "verl_ext.trainer.online.registration:register_trainers",
    "verl.workers.engine": "verl_ext.engine.registration:register_engines",
    "verl.workers.rollout.replica": "verl_ext.rollout.registration:register_rollouts",
}
"""verl module that owns a registry -> our function that fills it, in the module that has what is registered."""


def register_when_imported(owner: str, registration: str) -> None:
    """Call `registration` once when its module and `owner` are both imported; importing `owner` imports the other.

    Ours may come first and import `owner` itself, which is then complete while ours is not.

    Args:
        owner: a module of verl.
        registration: "module:function" of ours; the module must not have been imported yet.
    """
    ours, _, function = registration.partition(":")
    imported: set[str] = set()

    def on_import(module: ModuleType) -> None:
        imported.add(module.__name__)
        try:
            if imported == {owner, ours}:
                getattr(sys.modules[ours], function)()
            elif module.__name__ == owner:
                importlib.import_module(ours)
        except Exception:
            logger.exception("verl_ext could not register %s with %s", registration, owner)
            raise

    wrapt.register_post_import_hook(on_import, owner)
    wrapt.register_post_import_hook(on_import, ours)
