"""A run that is asked for traces writes some, or says before it starts why it would not."""

from __future__ import annotations

import pytest

from verl_ext.errors import UserError
from verl_ext.trainer.online.checks import _check_adapter
from verl_ext.trainer.online.sample_log import SampleLog
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config
from verl_ext.trainer.run.profiling import check_online_profiler, check_profiler_device, check_supervised_profiler

ACTOR = "actor_rollout_ref.actor.profiler.enable=True"
TORCH = "global_profiler.tool=torch"


def online(*arguments: str):
    return compose_config("nft_trainer", arguments, NFT_VOCABULARY)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["global_profiler.steps=[1]"], "global_profiler.steps: nothing would be written"),
        (["global_profiler.steps=[1]", TORCH], "global_profiler.steps: nothing would be written"),
        (["global_profiler.steps=[1]", ACTOR], "global_profiler.steps: nothing would be written"),
        ([TORCH, ACTOR], "actor_rollout_ref.actor.profiler.enable: no step is profiled"),
        ([TORCH, ACTOR, "global_profiler.steps=[0]"], "global_profiler.steps: got [0]"),
        ([TORCH, ACTOR, "global_profiler.steps=3"], "global_profiler.steps: got 3"),
        (["global_profiler.tool=npu"], "global_profiler.tool: got 'npu'"),
        (
            [TORCH, "actor_rollout_ref.ref.profiler.enable=True", "global_profiler.steps=[1]"],
            "actor_rollout_ref.ref.profiler.enable: this run has no reference",
        ),
        (
            [
                *(TORCH, "actor_rollout_ref.rollout.profiler.enable=True", "global_profiler.steps=[1]"),
                "actor_rollout_ref.rollout.name=hf",
            ],
            "actor_rollout_ref.rollout.profiler.enable: the engine hf has no profiler",
        ),
    ],
)
def test_an_online_run_without_traces_is_refused(arguments, message):
    with pytest.raises(UserError) as refused:
        check_online_profiler(online(*arguments))
    assert str(refused.value).startswith(message)


def test_an_online_run_with_traces_passes():
    config = online(TORCH, ACTOR, "global_profiler.steps=[2,3]")
    check_online_profiler(config)
    check_profiler_device(config, "cpu")


def test_a_tool_for_gpus_is_refused_on_a_cpu():
    config = online("global_profiler.tool=nsys", ACTOR, "global_profiler.steps=[2]")
    check_online_profiler(config)
    with pytest.raises(UserError, match=r"global_profiler\.tool: got 'nsys', expected torch"):
        check_profiler_device(config, "cpu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trainer.profile_interval=[1,2]"], "trainer.profile_interval: nothing would be written"),
        (["profiler.enable=True"], "profiler.enable: no step is profiled"),
        (["profiler.enable=True", "trainer.profile_interval=[3,2]"], "trainer.profile_interval: got [3, 2]"),
        (["profiler.enable=True", "trainer.profile_interval=[0,2]"], "trainer.profile_interval: got [0, 2]"),
        (["profiler.tool=precision_debugger"], "profiler.tool: got 'precision_debugger'"),
    ],
)
def test_a_supervised_run_without_traces_is_refused(arguments, message):
    with pytest.raises(UserError) as refused:
        check_supervised_profiler(compose_config("dft_trainer", arguments))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("adapter", ["lora_rank=8", "lora_adapter_path=somewhere"])
def test_an_adapter_has_to_be_merged_for_servers_of_their_own(adapter):
    arguments = ["trainer.v1.trainer_mode=nft_separate_async", f"actor_rollout_ref.model.{adapter}"]
    with pytest.raises(UserError, match=r"model\.lora\.merge: got False, expected True with .*nft_separate_async"):
        _check_adapter(online(*arguments))
    _check_adapter(online(*arguments, "actor_rollout_ref.model.lora.merge=True"))
    _check_adapter(online(arguments[1]))


def test_samples_of_a_validation_reach_the_console_in_one_line_each():
    said = []
    log = SampleLog("project", "experiment", said.append)
    samples = [("1 + 1?", "it is\n2", 1.0), ("x" * 900, "y", 0.0)]
    log.log(["console"], samples, step=4)
    assert said[0] == "step 4: validation sample 1 of 2, score 1\n  prompt: 1 + 1?\n  answer: it is 2"
    assert len(said) == 2
    assert "[...]" in said[1]
    log.log(["file"], samples, step=4)
    assert len(said) == 2
