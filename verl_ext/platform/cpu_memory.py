"""Give freed tensors back to the system.

glibc raises its threshold for memory that it maps directly with every large block that is freed, up to 32 MB. After a
few steps nearly all activations come from the heap, whose holes no other shape fits into: a rank of the quickstart
grew from 3.2 to 4.4 GB in 40 steps of packed sequences of different lengths. A fixed threshold stops that for a few
per cent of time.
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
    if not sys.platform.startswith("linux") or OVERRIDE_VARIABLE in os.environ:
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):  # musl has a mallopt that does nothing
        return False
    return bool(library.mallopt(M_MMAP_THRESHOLD, THRESHOLD_BYTES))
