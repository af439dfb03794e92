"""A few answers of each validation (`trainer.log_val_generations`), in every logger that can show them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from verl.utils.tracking import ValidationGenerationsLogger

MAX_CHARACTERS = 600
"""Of a prompt or an answer on the console; W&B, TensorBoard and the like get all of it."""


@dataclass
class SampleLog(ValidationGenerationsLogger):
    """verl's tables of samples, and text for the logger `console`, which verl's tables leave out."""

    say: Callable[[str], None] = print

    def log(self, loggers: Sequence[str], samples: Sequence[tuple[str, str, Any]], step: int) -> None:
        """Show samples of a validation.

        Args:
            loggers: the names in `trainer.logger`.
            samples: prompt, answer and score of each.
            step: after which it was made.
        """
        super().log(loggers, samples, step)
        if "console" not in loggers:
            return
        for number, (prompt, answer, score) in enumerate(samples, start=1):
            self.say(
                f"step {step}: validation sample {number} of {len(samples)}, score {score:g}\n"
                f"  prompt: {_shortened(prompt)}\n  answer: {_shortened(answer)}"
            )


def _shortened(text: str) -> str:
    """The text in one line; what is too long loses its middle, as its end has the answer."""
    line = " ".join(text.split())
    if len(line) <= MAX_CHARACTERS:
        return line
    half = MAX_CHARACTERS // 2
    return f"{line[:half]} [...] {line[-half:]}"
