"""Which isolations of programs this machine has."""

from __future__ import annotations

import pytest

from verl_ext.sandbox import pool

LACKS = {name: why() for name, why in pool.ISOLATIONS.items()}
"""Isolation -> what this machine lacks for it, or None."""
isolated = pytest.mark.skipif(all(LACKS.values()), reason=f"no isolation works here: {LACKS}")


def require(isolation: str) -> None:
    """Skip the test, by name, where this isolation does not work."""
    if LACKS[isolation]:
        pytest.skip(f"{isolation}: {LACKS[isolation]}")
