"""The journal of pass rates: what the answers of every group were, of used and of dropped ones.

Groups that dynamic sampling drops are exactly those of problems that are too easy or too hard. `pass_rates.jsonl` in the
run's folder keeps them, by the problem itself, for `python -m verl_ext.data.by_pass_rate` and for the stages of a
curriculum.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from verl_ext.trainer.online.verdicts import Tally

FILE = "pass_rates.jsonl"


class Journal:
    """Lines in memory until `write`, which comes at the end of a step and before a checkpoint.

    Args:
        folder: of the run.
        kept: bytes of the file that the run continues from, as `write` returned them; what is behind them belongs to
            steps that are about to be run again.
        problems_of: names of prompts -> ids of their problems (`verl_ext.data.pass_rates.problem_id`).
    """

    def __init__(self, folder: Path, kept: int, problems_of: Callable[[Sequence[str]], list[str]]) -> None:
        self._path = folder / FILE
        self._problems_of = problems_of
        self._lines: list[str] = []
        folder.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.truncate(min(kept, file.tell()))

    def add(self, step: int, tallies: Mapping[str, Tally], *, used: bool) -> None:
        """Note groups that are decided; those of a reward that does not say which answers are right are left out.

        Args:
            step: in which they were decided.
            tallies: name of a prompt -> what its answers were.
            used: whether they are trained on.
        """
        known = {uid: tally for uid, tally in tallies.items() if tally.right is not None and tally.of}
        if not known:
            return
        for (uid, tally), problem in zip(known.items(), self._problems_of(list(known)), strict=True):
            entry = {"step": step, "uid": uid, "problem": problem, "right": tally.right, "of": tally.of}
            self._lines.append(json.dumps({**entry, "truncated": tally.truncated, "used": used}) + "\n")

    def write(self) -> int:
        """Append what was noted; returns the bytes of the file, which a checkpoint keeps."""
        with self._path.open("ab") as file:
            file.write("".join(self._lines).encode())
            self._lines = []
            return file.tell()
