"""What `torch.cuda` is to a GPU, for the processor: the device module of the platform `cpu`.

verl calls these by the names of `torch.cuda`. Memory is the resident memory of this process in bytes; work is
synchronous, so that streams, events and caches are nothing.
"""

from __future__ import annotations

import platform
import resource
import sys
from contextlib import nullcontext
from typing import Any

import psutil
import torch


def is_available() -> bool:
    return True


def device_count() -> int:
    return 1


def current_device() -> str:
    return "cpu"


def set_device(device: Any) -> None:
    pass


def get_device_name(device: Any = None) -> str:
    return platform.processor() or platform.machine()


def synchronize(device: Any = None) -> None:
    pass


def empty_cache() -> None:
    pass


def ipc_collect() -> None:
    pass


def set_per_process_memory_fraction(fraction: float, device: Any = None) -> None:
    pass


def manual_seed(seed: int) -> None:
    torch.manual_seed(seed)


manual_seed_all = manual_seed


def get_rng_state(device: Any = None) -> torch.Tensor:
    return torch.get_rng_state()


def set_rng_state(state: torch.Tensor, device: Any = None) -> None:
    torch.set_rng_state(state)


def memory_allocated(device: Any = None) -> int:
    return psutil.Process().memory_info().rss


def memory_reserved(device: Any = None) -> int:
    return memory_allocated()


def max_memory_allocated(device: Any = None) -> int:
    """Highest resident memory of this process so far, in bytes."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # kilobytes on Linux, bytes on macOS


def max_memory_reserved(device: Any = None) -> int:
    return max_memory_allocated()


def reset_peak_memory_stats(device: Any = None) -> None:
    pass


def reset_accumulated_memory_stats(device: Any = None) -> None:
    pass


def mem_get_info(device: Any = None) -> tuple[int, int]:
    """Memory (free, total) of the machine in bytes."""
    memory = psutil.virtual_memory()
    return memory.available, memory.total


class Stream:
    """Work on a processor is already in order."""

    def wait_stream(self, stream: Stream) -> None:
        pass

    def wait_event(self, event: Event) -> None:
        pass

    def record_event(self, event: Event | None = None) -> Event:
        return event or Event()

    def synchronize(self) -> None:
        pass


class Event:
    def record(self, stream: Stream | None = None) -> None:
        pass

    def wait(self, stream: Stream | None = None) -> None:
        pass

    def synchronize(self) -> None:
        pass


def current_stream(device: Any = None) -> Stream:
    return Stream()


def stream(stream: Stream | None) -> Any:
    return nullcontext()
