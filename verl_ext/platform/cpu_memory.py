"""Give freed tensors back to the system, which glibc does only in part.

glibc raises its threshold for memory that it maps directly with every large block that is freed, up to 32 MB. After a
few steps nearly all activations come from the heap, whose holes no other shape fits into: a rank of the quickstart
grew from 3.2 to 4.4 GB in 40 steps of packed sequences of different lengths. A fixed threshold stops that for a few
per cent of time.

Smaller tensors still come from the heap, of which glibc gives back only the end. `trim_heap` gives back the rest,
where a process is about to wait for others: what a rank held between two updates fell by a quarter.
"""

from __future__ import annotations

import ctypes
import os
import sys

M_MMAP_THRESHOLD = -3  # malloc.h
THRESHOLD_BYTES = 1 << 20
OVERRIDE_VARIABLE = "MALLOC_MMAP_THRESHOLD_"


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
