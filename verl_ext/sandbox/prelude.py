"""What every program may use without importing it, and how it ends: the same in a slot and at a service."""

from __future__ import annotations

_MODULES = (
    "string re datetime collections heapq bisect copy math random statistics itertools functools operator io json"
)
PRELUDE = "\n".join(
    [f"from {name} import *" for name in f"{_MODULES} typing".split()]
    + [f"import {name}" for name in f"{_MODULES} sys".split()]
    + ["from builtins import *"]
)
"""Solutions of competitions count on these, since the sites that they come from import them."""
COMPILE_ERROR, MEMORY, NO_FUNCTION = 91, 92, 93
GONE = 94
"""Of tests: the program is gone; its own exit code says how."""
BY_EXIT = {COMPILE_ERROR: "compile_error", MEMORY: "memory_limit", NO_FUNCTION: "no_function"}
"""Exit code -> status; any other but 0 is a runtime error."""
