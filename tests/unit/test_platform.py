"""The CPU platform: chosen where there is nothing else, never in the place of an accelerator."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from verl.plugin.platform import PlatformRegistry
from verl.plugin.platform.platform_manager import _detect_platform_name

from verl_ext.errors import UserError
from verl_ext.platform import cpu, cpu_device
from verl_ext.platform.cpu_memory import KERNEL_VARIABLES, keep_few_kernels


@pytest.fixture
def no_accelerator(monkeypatch):
    for name in (*cpu.CLUSTER_VARIABLES, "VERL_PLATFORM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "ACCELERATOR_DEVICE_FILES", ())
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")


def test_it_is_chosen_where_no_accelerator_is_in_sight(no_accelerator):
    assert _detect_platform_name() == "cpu"


def test_a_device_file_of_an_accelerator_forbids_it(no_accelerator, monkeypatch, tmp_path):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(cpu, "ACCELERATOR_DEVICE_FILES", (str(tmp_path / "nvidia[0-9]*"),))
    assert _detect_platform_name() == "nvidia"


@pytest.mark.parametrize("variable", cpu.CLUSTER_VARIABLES)
def test_a_driver_of_a_cluster_does_not_choose_it(no_accelerator, monkeypatch, variable):
    monkeypatch.setenv(variable, "10.0.0.1:6379")
    assert _detect_platform_name() == "nvidia"


@pytest.mark.parametrize("name", ["cpu", "nvidia"])
def test_an_explicit_setting_overrides_both_ways(no_accelerator, monkeypatch, name):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setenv("VERL_PLATFORM", name)
    assert _detect_platform_name() == name


def test_it_is_registered_and_asked_last():
    assert PlatformRegistry.registered_names()[-1] == "cpu"
    platform = PlatformRegistry.get("cpu")()
    assert (platform.device_name, platform.communication_backend_name()) == ("cpu", "gloo")
    assert torch.zeros(1).to(platform.current_device()).device.type == "cpu"


def test_the_device_module_measures_this_process():
    before = cpu_device.memory_allocated()
    held = torch.ones(2**26)  # 256 MB
    assert cpu_device.memory_allocated() - before > 2e8
    assert cpu_device.max_memory_allocated() >= cpu_device.memory_allocated() * 0.9
    assert held.sum() == 2**26
    free, total = cpu_device.mem_get_info()
    assert 0 < free < total


def test_freed_blocks_go_back_to_the_system():
    """Blocks of 16 MB: after one such free, glibc by itself would keep the next ones."""
    code = (
        "import psutil, torch; from verl_ext.platform.cpu_memory import return_freed_memory as fix;"
        "rss = lambda: psutil.Process().memory_info().rss; assert fix(); torch.ones(2**22);"
        "held = [torch.ones(2**22) for _ in range(20)]; full = rss(); keep = held[-1]; del held; print(full - rss())"
    )
    freed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert int(freed) > 18 * 2**24


def test_small_blocks_of_the_heap_go_back_when_it_is_trimmed():
    """Blocks of 512 KB with a byte kept between them: glibc by itself keeps them all."""
    code = (
        "import psutil, torch; from verl_ext.platform.cpu_memory import trim_heap, return_freed_memory;"
        "rss = lambda: psutil.Process().memory_info().rss; return_freed_memory();"
        "held = [(torch.ones(2**17), bytearray(2**12)) for _ in range(200)]; kept = [small for _, small in held];"
        "full = rss(); del held; freed = rss(); trim_heap(); print(full - freed, full - rss())"
    )
    before, after = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout.split()
    assert int(before) < 10 * 2**19
    assert int(after) > 180 * 2**19


def test_compiled_kernels_do_not_pile_up():
    """Products of 192 different shapes in bf16, whose kernels are bounded in one of two processes.

    Of several hundred rows, since kernels for a few are so small that what else grows would hide them.
    """
    code = (
        "import psutil, torch; from verl_ext.platform import cpu_memory;"
        "{}; weight = torch.ones(576, 576, dtype=torch.bfloat16);"
        "product = lambda n: torch.nn.functional.linear(torch.ones(n, 576, dtype=torch.bfloat16), weight);"
        "rss = lambda: psutil.Process().memory_info().rss; product(513); before = rss();"
        "keep = [product(n) is None for n in range(321, 513)]; print(rss() - before)"
    )
    environment = {name: value for name, value in os.environ.items() if name not in KERNEL_VARIABLES}

    def grown(first: str) -> int:
        command = [sys.executable, "-c", code.format(first)]
        return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)

    unbounded = grown("pass")
    if unbounded < 2**25:
        pytest.skip("this processor computes products in bf16 without compiled kernels")
    assert grown("cpu_memory.KERNELS = 32; cpu_memory.keep_few_kernels()") < 0.6 * unbounded


def test_a_bound_that_the_user_has_set_stays(monkeypatch):
    for variable in KERNEL_VARIABLES:
        monkeypatch.setenv(variable, "7")
    keep_few_kernels()
    assert [os.environ[variable] for variable in KERNEL_VARIABLES] == ["7", "7"]


def test_random_state_round_trips():
    state = cpu_device.get_rng_state()
    first = torch.rand(3)
    cpu_device.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)


def test_importing_verl_registers_by_name_and_loads_no_engine():
    code = (
        "import sys, verl; from verl.plugin.platform import PlatformRegistry;"
        "print('cpu' in PlatformRegistry.registered_names(), 'verl.workers.engine' in sys.modules,"
        "'verl_ext.engine' in sys.modules);"
        "from verl.workers.engine import EngineRegistry as R;"
        "print('cpu' in R._engines['language_model']['fsdp'], 'cpu' in R._engines['value_model']['fsdp2'],"
        "('cuda', 'verl_ext') in R._engines['language_model']['fsdp2'])"
    )
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True, text=True)
    assert ended.stdout.splitlines()[-2:] == ["True False False", "True True True"]


def test_a_critic_is_refused_by_name():
    """verl loads its value head with flash-attn named outright, and would end by asking for another package."""
    from verl_ext.engine.fsdp_cpu import CPUFSDPEngineWithValueHead

    engine = object.__new__(CPUFSDPEngineWithValueHead)
    engine.model_config = SimpleNamespace(path="M")
    with pytest.raises(UserError, match="critic: M cannot be loaded on a CPU"):
        engine._build_module()


def test_a_part_that_cannot_be_registered_is_loud(tmp_path):
    """verl swallows errors of plugins; ours must not vanish with them."""
    code = (
        "from verl_ext.registration import register_when_imported\n"
        "register_when_imported('colorsys', 'verl_ext.no_such_part:register')\n"
        "import colorsys"
    )
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.returncode != 0
    assert "verl_ext could not register verl_ext.no_such_part:register with colorsys" in ended.stderr
