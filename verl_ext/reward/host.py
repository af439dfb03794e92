"""The process that a `GraderPool` starts: it holds the worker processes and answers one JSON line with one JSON line.

It is a program of its own, so that the workers are forked from a small process with sympy already loaded, whatever the
caller is (a thread, an asyncio loop, a Ray actor, a script without a main guard, a process that holds a GPU). It ends
when its standard input does, that is with its caller, however the caller ends.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import threading
from concurrent.futures import Future, TimeoutError
from functools import partial
from typing import Any, TextIO

from pebble import ProcessExpired, ProcessPool

from verl_ext.reward.grader import Undecided
from verl_ext.reward.policy import GradingPolicy

MAX_ATTEMPTS = 3
"""A worker that dies without a verdict (killed, or out of memory) is replaced, and its answer tried again."""
TASKS_PER_WORKER = 2000
"""A worker is replaced after this many answers, which bounds whatever sympy keeps."""


def main(arguments: list[str] | None = None) -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--memory-mb", type=int, required=True)
    parser.add_argument("--reasoning-gym", action="store_true", help="load it before the workers start")
    options = parser.parse_args(arguments)
    requests, replies = _take_standard_streams()
    _Host(options, replies).serve(requests)
    os._exit(0)  # without waiting for threads that pebble may keep in a worker's last second


def _take_standard_streams() -> tuple[TextIO, TextIO]:
    """Keep both pipes to ourselves: workers inherit 0, 1 and 2, and nothing they print may pass for a reply."""
    requests = os.fdopen(os.dup(0), "r", encoding="ascii")
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


class _Host:
    def __init__(self, options: argparse.Namespace, replies: TextIO) -> None:
        from verl_ext.reward import workers as worker_side

        context = multiprocessing.get_context("forkserver")
        extra = ["reasoning_gym"] if options.reasoning_gym else []
        context.set_forkserver_preload(["verl_ext.reward.warm", *extra])
        self.run = worker_side.run
        self.timeout_s = options.timeout_s
        self.replies = replies
        self.lock = threading.Lock()
        self.pool = ProcessPool(
            max_workers=options.workers,
            max_tasks=TASKS_PER_WORKER,
            initializer=worker_side.start,
            initargs=(options.memory_mb,),
            context=context,
        )

    def serve(self, requests: TextIO) -> None:
        """Schedule each request as it arrives; replies go out as they come, in any order."""
        for line in requests:
            message = json.loads(line)
            undecided = Undecided(**{**message["undecided"], "policy": GradingPolicy(**message["undecided"]["policy"])})
            self._schedule(message["id"], undecided, attempt=1)
        self.pool.stop()
        self.pool.join()

    def _schedule(self, number: int, undecided: Undecided, attempt: int) -> None:
        future = self.pool.schedule(self.run, args=(undecided, self.timeout_s), timeout=self.timeout_s)
        future.add_done_callback(partial(self._settle, number, undecided, attempt))

    def _settle(self, number: int, undecided: Undecided, attempt: int, future: Future[Any]) -> None:
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            outcome, seconds = future.result()
        elif isinstance(error, TimeoutError):
            outcome, seconds = (False, "timeout", f"no verdict in {self.timeout_s:g} s"), self.timeout_s
        elif isinstance(error, ProcessExpired) and attempt < MAX_ATTEMPTS:
            self._schedule(number, undecided, attempt + 1)
            return
        else:
            outcome, seconds = (False, "error", f"worker: {type(error).__name__}"), 0.0
        reply = json.dumps({"id": number, "outcome": outcome, "seconds": seconds})
        with self.lock:
            self.replies.write(reply + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
