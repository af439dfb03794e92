"""The platform `cpu`: verl's device abstraction on a machine that has no accelerator (collectives over gloo).

verl probes its platforms in the order of registration, so this one is asked last, and only says yes where no
accelerator is in sight and nothing hints at a cluster that has some. `VERL_PLATFORM=cpu` forces it,
`VERL_PLATFORM=nvidia` forbids it.
"""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

import torch
from verl.plugin.platform import PlatformBase, PlatformRegistry

from verl_ext.platform import cpu_device

ACCELERATOR_DEVICE_FILES = ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/kfd", "/dev/davinci[0-9]*", "/dev/accel*")
CLUSTER_VARIABLES = ("RAY_ADDRESS", "RAY_RAYLET_PID")
"""Set in a driver that joins a running Ray cluster, and in every Ray worker: the GPUs may be on other nodes."""


def accelerator_in_sight() -> bool:
    """Whether this process, or the cluster that it belongs to, may have an accelerator."""
    if torch.cuda.is_available() or (hasattr(torch, "xpu") and torch.xpu.is_available()):
        return True
    if any(glob.glob(pattern) for pattern in ACCELERATOR_DEVICE_FILES):
        return True
    return any(os.environ.get(name) for name in CLUSTER_VARIABLES)


class PlatformCPU(PlatformBase):
    """verl on the processor: device `cpu`, backend gloo, resident memory instead of device memory."""

    @property
    def device_name(self) -> str:
        return "cpu"

    @property
    def vendor_name(self) -> str:
        return "cpu"

    @property
    def device_module(self) -> ModuleType:
        return cpu_device

    def is_available(self) -> bool:
        return True

    def is_platform_available(self, use_smi_check: bool = False) -> bool:
        return not accelerator_in_sight()

    def current_device(self) -> str:
        # verl hands this to `Tensor.to`; an index would mean an accelerator.
        return "cpu"

    def device_count(self) -> int:
        return 1

    def set_device(self, device_index: int) -> None:
        pass

    def synchronize(self, device_index: int | None = None) -> None:
        pass

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def manual_seed_all(self, seed: int) -> None:
        torch.manual_seed(seed)

    def set_allocator_settings(self, settings: str) -> None:
        pass

    def empty_cache(self) -> None:
        pass

    def get_device_capability(self, device_index: int = 0) -> tuple[int | None, int | None]:
        return None, None

    def communication_backend_name(self) -> str:
        return "gloo"

    def visible_devices_envvar(self) -> str:
        return "CUDA_VISIBLE_DEVICES"

    @contextmanager
    def nvtx_range(self, msg: str) -> Iterator[None]:
        yield

    def profiler_start(self) -> None:
        pass

    def profiler_stop(self) -> None:
        pass

    def ray_resource_name(self) -> str:
        # verl's resource check knows GPU and NPU only; on this platform Ray is started with logical GPUs.
        return "GPU"

    def rollout_env_vars(self) -> dict[str, str]:
        # vLLM would bind its threads to cores of its own choice, the same ones in every server.
        return {"VLLM_CPU_OMP_THREADS_BIND": os.environ.get("VLLM_CPU_OMP_THREADS_BIND", "nobind")}

    def ray_noset_envvars(self) -> list[str]:
        return ["RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES"]

    def is_ipc_supported(self) -> bool:
        return False

    def cudart(self) -> Any:
        return None


@cache
def register_platform() -> None:
    """Make it known to verl as `cpu`; verl probes it last."""
    PlatformRegistry.register(platform="cpu")(PlatformCPU)
