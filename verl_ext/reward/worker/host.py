"""The process that a `GraderPool` starts: it holds the worker processes and answers one JSON line with one JSON line.

It is a program of its own, so that the workers are forked from a small process with sympy already loaded, whatever the
caller is (a thread, an asyncio loop, a Ray actor, a script without a main guard, a process that holds a GPU). It ends
when its standard input does, that is with its caller, however the caller ends.

Each worker has a pipe of its own and shares no lock with the others, so that one can be killed at any moment without
harm to the rest. (pebble 5's workers share one channel guarded by semaphores: a worker that is killed while it holds
them, or while no task runs, breaks the whole pool.)
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import queue
import sys
import threading
import time
from multiprocessing.connection import Connection, wait
from typing import Any, TextIO

from verl_ext.reward.worker import serve
from verl_ext.sandbox.seccomp import why_unavailable

MAX_ATTEMPTS = 3
"""A worker that dies without a verdict (killed, or out of memory) is replaced, and its answer tried again."""
ANSWERS_PER_WORKER = 2000
"""A worker is replaced after this many answers, which bounds whatever sympy keeps."""
START_LIMIT_S = 120.0
"""Time for a worker to start, which counts against no answer; the first one waits for sympy to load."""


def main(arguments: list[str] | None = None) -> None:
    """Serve until standard input ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, required=True)
    parser.add_argument("--timeout-s", type=float, required=True)
    parser.add_argument("--memory-mb", type=int, required=True)
    parser.add_argument("--reasoning-gym", action="store_true", help="load it before the workers start")
    options = parser.parse_args(arguments)
    requests, replies = _take_standard_streams()
    lacking = why_unavailable()
    if lacking:
        print(f"grader: {lacking}; an audit hook and resource limits alone confine the workers", file=sys.stderr)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["verl_ext.reward.worker.preload", *(["reasoning_gym"] if options.reasoning_gym else [])]
    )
    jobs: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    lock = threading.Lock()
    slots = [_Slot(context, options, jobs, replies, lock) for _ in range(options.workers)]
    for slot in slots:
        slot.start()
    for line in requests:
        jobs.put(json.loads(line))
    for slot in slots:
        slot.kill()
    os._exit(0)  # the slots' threads wait for jobs that will not come


def _take_standard_streams() -> tuple[TextIO, TextIO]:
    """Keep both pipes to ourselves: workers inherit 0, 1 and 2, and nothing they print may pass for a reply."""
    requests = os.fdopen(os.dup(0), "r", encoding="ascii")
    replies = os.fdopen(os.dup(1), "w", encoding="ascii", buffering=1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return requests, replies


class _WorkerDied(Exception):
    """The worker ended, or never started, without a verdict."""


class _Slot(threading.Thread):
    """One place for a worker process: takes jobs, hands them to its worker, and replaces a worker that fails."""

    def __init__(
        self, context: Any, options: argparse.Namespace, jobs: queue.SimpleQueue, replies: TextIO, lock: threading.Lock
    ) -> None:
        super().__init__(daemon=True)
        self._context = context
        self._options = options
        self._jobs = jobs
        self._replies = replies
        self._lock = lock
        self._process: Any = None
        self._pipe: Connection | None = None
        self._answered = 0

    def run(self) -> None:
        while True:
            job = self._jobs.get()
            outcome, seconds = self._settle(json.dumps(job["undecided"]).encode())
            reply = json.dumps({"id": job["id"], "outcome": outcome, "seconds": seconds})
            with self._lock:
                self._replies.write(reply + "\n")

    def kill(self) -> None:
        """End the worker at once."""
        process = self._process
        if process is not None:
            process.kill()

    def _settle(self, job: bytes) -> tuple[Any, float]:
        for _ in range(MAX_ATTEMPTS):
            started = time.perf_counter()
            try:
                if self._process is None:
                    self._start_worker()
                    started = time.perf_counter()
                self._pipe.send_bytes(job)
                reply = self._receive(self._options.timeout_s)
            except (_WorkerDied, EOFError, OSError):
                self._stop_worker()
                continue
            if reply is None:
                self._stop_worker()
                return (False, "timeout", f"no verdict in {self._options.timeout_s:g} s"), time.perf_counter() - started
            self._answered += 1
            if self._answered >= ANSWERS_PER_WORKER:
                self._stop_worker()
            return json.loads(reply)
        return (False, "error", f"{MAX_ATTEMPTS} workers ended without a verdict"), 0.0

    def _start_worker(self) -> None:
        self._pipe, theirs = self._context.Pipe()
        process = self._context.Process(
            target=serve.serve, args=(theirs, self._options.memory_mb, self._options.timeout_s), daemon=True
        )
        process.start()
        self._process = process  # only now: `kill` may come from the other thread at any moment
        theirs.close()
        self._answered = 0
        if self._receive(START_LIMIT_S) is None:
            raise _WorkerDied

    def _receive(self, timeout_s: float) -> bytes | None:
        """The worker's next message; None when there is none in time.

        Raises:
            EOFError: the worker ended.
        """
        if not wait([self._pipe, self._process.sentinel], timeout_s):
            return None
        if not self._pipe.poll(0):
            raise _WorkerDied
        return self._pipe.recv_bytes()

    def _stop_worker(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._process = None
        if self._pipe is not None:
            self._pipe.close()
            self._pipe = None


if __name__ == "__main__":
    main(sys.argv[1:])
