"""What online training adds to verl's registries, by explicit calls that import as little as they can.

verl's registries are filled while verl's own modules are being imported, and one of ours may be the reason for that: it
imports verl for a base class, which calls these functions, while it is itself half imported. So neither function imports
a module that imports the registry's owner: whichever module comes first, the order works out.
"""

from __future__ import annotations

from typing import Any

from verl_ext.trainer.online.checks import MODES


def register_trainers() -> None:
    """The trainer modes `nft`, `nft_colocate_async` and `nft_separate_async`.

    The classes come from verl's, in whose import this is called; what is registered is a name that becomes the trainer
    when it is called.
    """
    from verl.trainer.ppo.v1.trainer_base import TRAINER_REGISTRY, register_trainer

    for mode in MODES:
        if mode not in TRAINER_REGISTRY:
            register_trainer(mode)(_trainer_to_come(mode))


def register_algorithms() -> None:
    """Advantage estimator and policy loss `nft`."""
    from verl.trainer.ppo.core_algos import register_adv_est, register_policy_loss

    from verl_ext.trainer.online.algorithm import NAME, compute_nft_advantage, compute_policy_loss_nft

    register_adv_est(NAME)(compute_nft_advantage)
    register_policy_loss(NAME)(compute_policy_loss_nft)


def _trainer_to_come(mode: str) -> type:
    """A class, as verl's registry wants it, whose instances are those of our trainer of this mode."""
    from verl.trainer.ppo.v1.trainer_base import PPOTrainer

    def create(_cls: type, config: Any) -> PPOTrainer:
        from verl_ext.trainer.online.modes import TRAINERS

        return TRAINERS[mode](config)

    attributes = {"__new__": create, "__doc__": f"The trainer of mode {mode}.", "__module__": __name__}
    return type(f"{mode}_trainer", (PPOTrainer,), attributes)
