"""The door of a worker process. Kept apart so that the host, which only hands out work, never imports sympy."""

from __future__ import annotations

import json
from contextlib import suppress
from multiprocessing.connection import Connection


def serve(pipe: Connection, memory_mb: int, timeout_s: float) -> None:
    """Say that we are ready, then answer jobs until the pipe closes.

    Messages are JSON: what comes out of a process that handles untrusted text is never unpickled.
    """
    from verl_ext.reward.grading import Undecided
    from verl_ext.reward.policy import GradingPolicy
    from verl_ext.reward.worker import confined, preload  # noqa: F401 - `preload` was imported before the fork; this is its guarantee

    confined.confine(memory_mb)
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the host is gone, and nobody waits for us
        pipe.send_bytes(b"ready")
        while True:
            job = json.loads(pipe.recv_bytes())
            undecided = Undecided(**{**job, "policy": GradingPolicy(**job["policy"])})
            pipe.send_bytes(json.dumps(confined.run(undecided, timeout_s)).encode())
