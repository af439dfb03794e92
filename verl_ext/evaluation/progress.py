"""How far a long step is: done, time left, tokens per second, right so far."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

LINE_EVERY_S = 30.0
"""Where the output is a file, a line of its own from time to time."""


class Progress:
    """Progress of one step; the time left counts only what this start has done.

    Args:
        what: a word before the numbers.
        total: how many there are.
        done: how many an earlier start left behind.
    """

    def __init__(self, what: str, total: int, done: int = 0) -> None:
        self._what, self._total, self._done, self._first = what, total, done, done
        self._started = self._last_line = time.monotonic()
        self._tokens = 0
        self._graded = self._correct = 0
        # `initial` keeps what was there before out of tqdm's rate.
        self._bar = tqdm(total=total, initial=done, desc=what, unit="sample", disable=not sys.stderr.isatty())

    def __enter__(self) -> Progress:  # noqa: PYI034 - typing.Self needs Python 3.11
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        if self._bar.disable and self._done > self._first:
            self._line()

    def add(self, tokens: int = 0) -> None:
        """One more is done."""
        self._done += 1
        self._tokens += tokens
        self._bar.set_postfix_str(self._state(), refresh=False)
        self._bar.update(1)
        if self._bar.disable and time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._line()

    def graded(self, correct: bool) -> None:
        """One more has a verdict."""
        self._graded += 1
        self._correct += correct

    def _state(self) -> str:
        seconds = max(time.monotonic() - self._started, 1e-9)
        parts = [f"{self._tokens / seconds:.0f} tokens/s"] if self._tokens else []
        if self._graded:
            parts.append(f"{self._correct / self._graded:.1%} of {self._graded} right")
        return ", ".join(parts)

    def _line(self) -> None:
        self._last_line = time.monotonic()
        seconds = self._last_line - self._started
        left = (self._total - self._done) * seconds / max(self._done - self._first, 1)
        parts = [f"{self._done} of {self._total}", f"{clock(seconds)} so far, {clock(left)} left", self._state()]
        print(f"{self._what}: {', '.join(part for part in parts if part)}", file=sys.stderr, flush=True)


def clock(seconds: float) -> str:
    """`2:03:04` or `3:04`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
