"""Keep a process on a CPU as small as what it computes with: libraries below torch hold on to more than that.

glibc raises its threshold for memory that it maps directly with every large block that is freed, up to 32 MB. After a
few steps nearly all activations come from the heap, whose holes no other shape fits into: a rank of the quickstart
grew from 3.2 to 4.4 GB in 40 steps of packed sequences of different lengths. A fixed threshold stops that for a few
per cent of time.

Smaller tensors still come from the heap, of which glibc gives back only the end. `trim_heap` gives back the rest,
where a process is about to wait for others: what a rank held between two updates fell by a quarter.

oneDNN, which computes products in bf16, compiles one kernel for each shape, some 0.6 MB, and keeps 1,024 of them; so
does torch's layer above it. A step of packed sequences or of generation has a number of tokens of its own, whose
kernels its layers share and hardly any other step: a server of the quickstart grew from 0.6 to 1.15 GB in 24 steps.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_MMAP_THRESHOLD = -3  # malloc.h
THRESHOLD_BYTES = 1 << 20
OVERRIDE_VARIABLE = "MALLOC_MMAP_THRESHOLD_"
KERNELS = 256
"""Enough for a training step and for generating with up to 32 sequences at a time, whose steps have the same shapes
again and again. 64 would do for training; such generation would compile its kernels anew every step."""
KERNEL_VARIABLES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Of oneDNN, and of ideep between it and torch; each is read at the first product."""


def keep_memory_small() -> None:
    """`return_freed_memory` and `keep_few_kernels`, for a process that is about to train or generate."""
    return_freed_memory()
    keep_few_kernels()


def keep_few_kernels() -> None:
    """Bound the compiled kernels that this process keeps, before its first product in bf16; not over the user."""
    for variable in KERNEL_VARIABLES:
        os.environ.setdefault(variable, str(KERNELS))


def return_freed_memory() -> bool:
    """Fix glibc's threshold in this process; whether that was done (not on other C libraries, not over the user)."""
    if OVERRIDE_VARIABLE in os.environ:
        return False
    library = _glibc()
    return library is not None and bool(library.mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES))


def trim_heap() -> None:
    """Give back every free page of the heap; nothing on other C libraries. Takes milliseconds."""
    library = _glibc()
    if library is not None:
        library.malloc_trim(0)


def _glibc() -> ctypes.CDLL | None:
    if not sys.platform.startswith("linux"):
        return None
    library = ctypes.CDLL(None)
    return library if hasattr(library, "gnu_get_libc_version") else None  # musl has a mallopt that does nothing
