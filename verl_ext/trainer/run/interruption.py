"""SIGTERM and SIGINT end a run after the step in hand, with a checkpoint."""

from __future__ import annotations

import signal
from types import FrameType

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Interruption:
    """Notes a signal; `agreed` tells all ranks together whether any of them got one.

    Later signals of the same kind change nothing: torchrun repeats to its workers what the terminal or the
    scheduler has already sent them, and kills them itself when they take too long.
    """

    def __init__(self) -> None:
        self.received: str | None = None
        for number in SIGNALS:
            signal.signal(number, self._note)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self.received = signal.Signals(number).name

    def agreed(self, device: str) -> bool:
        """Whether any rank was asked to stop (a collective: call it on all ranks at the same place)."""
        flag = torch.tensor(int(self.received is not None), device=device)
        dist.all_reduce(flag, op=dist.ReduceOp.MAX)
        return bool(flag.item())
