"""Registration with verl: by explicit functions, whichever side is imported first."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap

import pytest
import verl  # noqa: F401

from verl_ext.registration import REGISTRATIONS, register_when_imported

OWNER = "names = []\n"
OURS = """
    import {owner}

    class Thing:
        pass

    def register():
        {owner}.names.append(Thing.__name__)
"""


@pytest.fixture
def two_modules(tmp_path, monkeypatch, request):
    """Modules of their own for each test: one that owns a registry, one with what is registered there."""
    suffix = abs(hash(request.node.name))
    owner, ours = f"owner_{suffix}", f"ours_{suffix}"
    (tmp_path / f"{owner}.py").write_text(OWNER)
    (tmp_path / f"{ours}.py").write_text(textwrap.dedent(OURS.format(owner=owner)))
    monkeypatch.syspath_prepend(tmp_path)
    yield owner, ours
    for name in (owner, ours):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("first", ["owner", "ours"])
def test_registration_happens_once_whichever_module_is_imported_first(two_modules, first):
    owner, ours = two_modules
    register_when_imported(owner, f"{ours}:register")
    assert owner not in sys.modules
    importlib.import_module(owner if first == "owner" else ours)
    assert sys.modules[owner].names == ["Thing"]
    importlib.import_module(ours)
    assert sys.modules[owner].names == ["Thing"]


def test_importing_our_module_registers_nothing_by_itself(two_modules):
    owner, ours = two_modules
    assert importlib.import_module(ours).Thing
    assert sys.modules[owner].names == []


@pytest.mark.parametrize("registration", REGISTRATIONS.values())
def test_a_registration_can_be_repeated(registration):
    module, _, function = registration.partition(":")
    register = getattr(importlib.import_module(module), function)
    register()
    register()


def test_all_is_registered_where_our_modules_are_imported_before_verls():
    code = """
        import verl_ext.trainer.online.modes, verl_ext.reward.manager, verl_ext.rollout.seeded_agent_loop
        import verl_ext.rollout.object_store_engine, verl_ext.rollout.registration, verl_ext.engine.fsdp
        from verl.checkpoint_engine.base import CheckpointEngineRegistry
        from verl.experimental.agent_loop.agent_loop import _agent_loop_registry
        from verl.experimental.reward_loop.reward_manager import get_reward_manager_cls
        from verl.trainer.ppo.core_algos import get_adv_estimator_fn, get_policy_loss_fn
        from verl.trainer.ppo.v1 import get_trainer_cls
        from verl.workers.engine import EngineRegistry
        from verl.workers.rollout.replica import RolloutReplicaRegistry
        print(CheckpointEngineRegistry.get("ray_object_store").__name__)
        print(_agent_loop_registry["seeded_single_turn"]["_target_"].rpartition(".")[2])
        print(get_reward_manager_cls("math_verify_pool").__name__)
        print(get_adv_estimator_fn("nft").__name__, get_policy_loss_fn("nft").__name__)
        print(*(get_trainer_cls(name).__name__ for name in ("nft", "nft_colocate_async", "nft_separate_async")))
        print(EngineRegistry._engines["language_model"]["fsdp2"]["cpu"].__name__)
        print(RolloutReplicaRegistry.get("hf").__name__)
    """
    ended = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(code)], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [
        *("RayObjectStoreEngine", "SeededSingleTurnAgentLoop", "MathVerifyPoolRewardManager"),
        *("compute_nft_advantage", "compute_policy_loss_nft"),
        *("nft_trainer", "nft_colocate_async_trainer", "nft_separate_async_trainer"),
        *("CPUFSDPEngineWithLMHead", "HFReplica"),
    ]
