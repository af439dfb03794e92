"""SIGTERM and SIGINT end a run with a checkpoint; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType

from verl_ext.trainer.run.exits import ABORTED_EXIT_CODE

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SECOND_WITHIN_S = 5.0
"""A second Ctrl-C ends the run at once when it comes so soon after the first."""
REPEATED_WITHIN_S = 0.5
"""Sooner than a person presses twice on purpose: torchrun, srun or a shell passing on what all have already got."""


class Interruption:
    """Notes a signal; `agreed` tells all ranks together whether any of them got one.

    A second Ctrl-C within 5 seconds ends this process at once, without a checkpoint. That is decided in a thread, which
    the system tells of a signal itself: Python's own handlers wait for the main thread, and that may hang in a
    collective. torchrun passes the first Ctrl-C on as SIGINT and, when it is pressed again, sends SIGTERM.

    Args:
        on_signal: called once, in a thread of its own, when the first signal comes.
    """

    def __init__(self, on_signal: Callable[[], None] | None = None) -> None:
        self.received: str | None = None
        self.on_signal = on_signal
        second = {signal.SIGINT, signal.SIGTERM} if "TORCHELASTIC_RUN_ID" in os.environ else {signal.SIGINT}
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        for number in SIGNALS:
            signal.signal(number, self._note)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, args=(reader, second), name="signals", daemon=True).start()

    def _note(self, number: int, _frame: FrameType | None = None) -> None:
        self.received = signal.Signals(number).name

    def _watch(self, reader: int, second: set[signal.Signals]) -> None:
        first_interrupt, told = None, False
        while True:
            (number,) = os.read(reader, 1)
            if number not in SIGNALS:
                continue
            self._note(number)
            since = time.monotonic() - first_interrupt if first_interrupt is not None else float("inf")
            if number in second and REPEATED_WITHIN_S <= since <= SECOND_WITHIN_S:
                os.write(2, b"interrupted twice: ended at once, without saving\n")
                os._exit(ABORTED_EXIT_CODE)
            if number == signal.SIGINT and since > SECOND_WITHIN_S:
                first_interrupt = time.monotonic()
            if self.on_signal is not None and not told:
                told = True
                threading.Thread(target=self.on_signal, daemon=True).start()

    def agreed(self, device: str) -> bool:
        """Whether any rank was asked to stop (a collective: call it on all ranks at the same place)."""
        import torch
        import torch.distributed as dist

        flag = torch.tensor(int(self.received is not None), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())
