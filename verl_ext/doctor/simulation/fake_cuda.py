"""A device "cuda" for fake tensors, under a torch that was built without CUDA (seen in torch 2.13).

`install` must run before anything imports torch, and only in a process that does nothing else: it answers for
`torch.cuda` as a GPU would that always has time and never holds anything. `torch.cuda.is_available()` stays False.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import types
from importlib import metadata, resources
from pathlib import Path

from verl_ext.errors import UserError


def install(memory_bytes: int) -> None:
    """Make the device known to torch.

    Args:
        memory_bytes: what the device says that it has.

    Raises:
        UserError: there is no g++, or it cannot build the library.
    """
    if "torch" in sys.modules:
        raise RuntimeError("the fake device must come before torch")
    ctypes.CDLL(str(_library()), mode=ctypes.RTLD_GLOBAL)
    _answer_for_cuda(memory_bytes)


def _library() -> Path:
    """The shared library, built once for each torch and each version of its source."""
    source = resources.files("verl_ext.doctor.simulation").joinpath("fake_cuda.cpp")
    key = hashlib.sha256(source.read_bytes() + metadata.version("torch").encode() + sys.version.encode()).hexdigest()
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "verl_ext"
    library = cache / f"fake_cuda_{key[:16]}.so"
    if library.exists():
        return library
    if shutil.which("g++") is None:
        raise UserError("--simulate: needs g++, which is not on this machine (Debian: apt-get install g++)")
    torch = importlib.util.find_spec("torch").submodule_search_locations[0]
    cache.mkdir(parents=True, exist_ok=True)
    partial = library.with_suffix(f".{os.getpid()}")
    options = ["-O1", "-shared", "-fPIC", "-std=c++20", f"-I{torch}/include", f"-L{torch}/lib"]
    linked = ["-lc10", "-ltorch_cpu", f"-Wl,-rpath,{torch}/lib"]
    built = subprocess.run(
        ["g++", *options, str(source), "-o", str(partial), *linked], check=False, capture_output=True, text=True
    )
    if built.returncode != 0:
        reason = next((line for line in built.stderr.splitlines() if "error" in line), "no reason given")
        raise UserError(f"--simulate: g++ cannot build the fake device: {reason}")
    partial.replace(library)  # whole or not at all: another process may build it too
    return library


def _answer_for_cuda(memory_bytes: int) -> None:
    import torch

    class Stream(torch.cpu.Stream):
        def __init__(self, *_, **__) -> None:
            self.device = torch.device("cuda:0")

        def wait_stream(self, stream) -> None: ...
        def wait_event(self, event) -> None: ...
        def synchronize(self) -> None: ...
        def record_event(self, event=None):
            return Event()

        def __enter__(self):
            return self

        def __exit__(self, *_) -> None: ...

    class Event(torch.cpu.Event):
        def __init__(self, *_, **__) -> None: ...
        def record(self, stream=None):
            return self

        def query(self) -> bool:
            return True

        def wait(self, stream=None) -> None: ...
        def synchronize(self) -> None: ...

    def answers(value):
        return lambda *_, **__: value  # a function of its own each: torch._dynamo keeps a table of them

    cuda, stream = torch.cuda, Stream()
    cuda.Stream, cuda.Event, cuda.stream = Stream, Event, lambda stream: stream
    cuda.current_stream, cuda.default_stream = answers(stream), answers(stream)
    for name in ("current_device", "memory_allocated", "max_memory_allocated", "memory_reserved"):
        setattr(cuda, name, answers(0))
    cuda.max_memory_reserved, cuda.device_count = answers(0), answers(1)
    for name in ("set_device", "synchronize", "empty_cache", "reset_peak_memory_stats"):
        setattr(cuda, name, answers(None))
    cuda.get_device_capability, cuda.mem_get_info = answers((9, 0)), answers((memory_bytes, memory_bytes))
    cuda.device = lambda *_: contextlib.nullcontext()
    cuda.nvtx.range = lambda *_: contextlib.nullcontext()
    properties = types.SimpleNamespace(
        multi_processor_count=132, total_memory=memory_bytes, name="fake", major=9, minor=0
    )
    cuda.get_device_properties = answers(properties)
    torch.Tensor.record_stream = lambda self, stream: None
