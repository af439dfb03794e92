"""Several slots, used by as many threads as there are; a slot that dies is replaced and its job run again."""

from __future__ import annotations

import queue
from concurrent.futures import Future, ThreadPoolExecutor

from verl_ext.errors import ConfigError
from verl_ext.sandbox import landlock, seccomp
from verl_ext.sandbox.limits import Limits
from verl_ext.sandbox.slot import Job, Run, Slot, SlotError

SANDBOXES = ("auto", "landlock")
MAX_ATTEMPTS = 3
RUNS_PER_SLOT = 2000


def choose(sandbox: str = "auto") -> str:
    """The isolation that works here, tried out.

    Raises:
        ConfigError: none does, with what is lacking; there is no running without one.
    """
    if sandbox not in SANDBOXES:
        raise ConfigError("sandbox", given=sandbox, expected=f"one of {', '.join(SANDBOXES)}")
    lacks = [reason for reason in (landlock.why_unavailable(), seccomp.why_unavailable()) if reason]
    if not lacks:
        try:
            slot = Slot()
            try:
                run = slot.run(Job("print(6 * 7)", ""), Limits())
            finally:
                slot.close()
            if run.output == "42\n":
                return "landlock"
            lacks.append(f"the trial run ended with {run.status}")
        except SlotError as error:
            lacks.append(str(error))
    raise ConfigError("sandbox", given=sandbox, expected=f"an isolation that works here; landlock: {'; '.join(lacks)}")


class SandboxPool:
    """Runs jobs in `workers` slots.

    Args:
        workers: slots.
        limits: of each run.
        sandbox: see `choose`.

    Raises:
        ConfigError: no isolation works here, or `workers` is not positive.
    """

    def __init__(self, workers: int, limits: Limits, sandbox: str = "auto") -> None:
        if workers < 1:
            raise ConfigError("workers", given=workers, expected="at least 1")
        self.sandbox = choose(sandbox)
        self.limits = limits
        self._slots: queue.SimpleQueue[tuple[Slot | None, int]] = queue.SimpleQueue()
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
            for _ in range(MAX_ATTEMPTS):
                try:
                    if slot is None:
                        slot, used = Slot(), 0
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
