"""Several slots, used by as many threads as there are; a slot that dies is replaced and its job run again."""

from __future__ import annotations

import queue
import time
from concurrent.futures import Future, ThreadPoolExecutor

from verl_ext.errors import ConfigError
from verl_ext.sandbox import landlock, namespaces, seccomp
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.remote import REMOTE, Remote
from verl_ext.sandbox.slot import Job, Run, Slot, SlotError

ISOLATIONS = {
    "namespaces": lambda: namespaces.why_unavailable() or seccomp.why_unavailable(),
    "landlock": lambda: landlock.why_unavailable() or seccomp.why_unavailable(),
}
"""Isolation on this machine -> why it cannot be had, or None; in the order in which `auto` tries them."""
SANDBOXES = ("auto", *ISOLATIONS, REMOTE)
MAX_ATTEMPTS = 3
RUNS_PER_SLOT = 2000
_PAUSE_S = 0.5


def choose(sandbox: str = "auto", url: str = "") -> str:
    """The isolation that works here, tried out.

    Args:
        sandbox: one of `SANDBOXES`.
        url: of the service, with `remote`.

    Raises:
        ConfigError: none does, with what each lacks; there is no running without one.
    """
    if sandbox not in SANDBOXES:
        raise ConfigError("sandbox", given=sandbox, expected=f"one of {', '.join(SANDBOXES)}")
    lacks = []
    for name in ISOLATIONS if sandbox == "auto" else (sandbox,):
        reason = (ISOLATIONS[name]() if name in ISOLATIONS else None) or _trial(name, url)
        if reason is None:
            return name
        lacks.append(f"{name}: {reason}")
    raise ConfigError("sandbox", given=sandbox, expected=f"an isolation that works here; {'; '.join(lacks)}")


def _trial(isolation: str, url: str) -> str | None:
    """Why a first program does not run, or None."""
    try:
        place = _place(isolation, url)
        try:
            run = place.run(Job("print(6 * 7)", ""), Limits())
        finally:
            place.close()
    except (SlotError, OSError) as error:
        return str(error)
    return None if run.output == "42\n" else f"the trial run ended with {run.status}"


def _place(isolation: str, url: str) -> Slot | Remote:
    return Remote(url) if isolation == REMOTE else Slot(isolation)


class SandboxPool:
    """Runs jobs in `workers` slots.

    Args:
        workers: slots.
        limits: of each run.
        sandbox, url: see `choose`.

    Raises:
        ConfigError: no isolation works here, or `workers` is not positive.
    """

    def __init__(self, workers: int, limits: Limits, sandbox: str = "auto", url: str = "") -> None:
        if workers < 1:
            raise ConfigError("workers", given=workers, expected="at least 1")
        self.sandbox = choose(sandbox, url)
        self._url = url
        self.limits = limits
        self._slots: queue.SimpleQueue[tuple[Slot | Remote | None, int]] = queue.SimpleQueue()
        for _ in range(workers):
            self._slots.put((None, 0))
        self._workers = workers
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sandbox")

    def submit(self, job: Job) -> Future[Run]:
        """Run a job when a slot is free; a slot that died three times over it gives the status `died`."""
        return self._threads.submit(self.run, job)

    def run(self, job: Job) -> Run:
        """`submit` and wait."""
        slot, used = self._slots.get()
        try:
            for attempt in range(MAX_ATTEMPTS):
                if attempt and self.sandbox == REMOTE:  # the service, not a slot of one's own, was in trouble
                    time.sleep(_PAUSE_S * 4**attempt)
                try:
                    if slot is None:
                        slot, used = _place(self.sandbox, self._url), 0
                    answer = slot.run(job, self.limits)
                except (SlotError, OSError):  # also a machine out of processes or descriptors
                    if slot is not None:
                        slot.close()
                    slot = None
                    continue
                used += 1
                if used >= RUNS_PER_SLOT:
                    slot.close()
                    slot = None
                return answer
            return Run("died")
        finally:
            self._slots.put((slot, used))

    def close(self) -> None:
        """End all slots, after the jobs that were submitted."""
        self._threads.shutdown()
        for _ in range(self._workers):
            slot, _used = self._slots.get()
            if slot is not None:
                slot.close()
