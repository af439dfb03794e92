"""The one door into verl: entry point `verl.plugins`, loaded by `import verl`.

Everything is registered by name and lazily: a part of this package is imported when, and only when, the verl
module that owns the matching registry has been imported. `import verl` itself grows by the platform alone, and
a Ray process that never touches an engine never pays for ours.

verl logs a plugin that fails to load at DEBUG level, where nobody sees it, and goes on without it. A run that
silently lacks its platform or objective is worse than none, so a failure here is printed and raised.
"""

from __future__ import annotations

import importlib
import logging

import wrapt

logger = logging.getLogger(__name__)

LAZY_REGISTRATIONS = {
    "verl.checkpoint_engine.base": "verl_ext.rollout.object_store_engine",
    "verl.experimental.agent_loop.agent_loop": "verl_ext.rollout.seeded_agent_loop",
    "verl.experimental.reward_loop.reward_manager": "verl_ext.reward.manager",
    "verl.trainer.ppo.core_algos": "verl_ext.trainer.online.algorithm",
    "verl.trainer.ppo.v1.trainer_separate_async": "verl_ext.trainer.online.modes",
    "verl.workers.engine": "verl_ext.engine.register",
    "verl.workers.rollout.replica": "verl_ext.rollout.register",
}
"""verl module that owns a registry -> our module whose import fills it."""


def _register(owner: str, ours: str) -> None:
    @wrapt.when_imported(owner)
    def _on_import(_module: object) -> None:
        try:
            importlib.import_module(ours)
        except Exception:
            logger.exception("verl_ext could not register %s with %s", ours, owner)
            raise


try:
    importlib.import_module("verl_ext.platform.cpu")
    for _owner, _ours in LAZY_REGISTRATIONS.items():
        _register(_owner, _ours)
except Exception:
    logger.exception("verl_ext did not load: verl runs without its platform, engines and algorithms")
    raise
