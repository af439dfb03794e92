"""The training file of a stage: the rows that its `keep` leaves, by the journal of an earlier stage."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

from verl_ext.curriculum.plan import Stage
from verl_ext.data.by_pass_rate import PASS_RATE, Selection, draw, select, write_selected
from verl_ext.data.pass_rates import read_journal
from verl_ext.errors import UserError

JOURNAL = "pass_rates.jsonl"


def chosen_rows(stage: Stage, files: Sequence[str], journals: Sequence[Path], out: Path, batch: int | None) -> str:
    """Write the rows that stay, and a picture of the pass rates beside them; returns the file.

    Args:
        stage: whose `keep` it is.
        files: all of its training files.
        journals: of pass rates, the newest last, which counts where a problem is in several.
        out: the folder; the file has the kind of the files.
        batch: prompts of a batch, where the plan says so.

    Raises:
        UserError: no journal; fewer rows than a batch, with the threshold that would leave enough.
    """
    rates = {}
    for journal in journals:
        if not journal.is_file():
            raise UserError(f"stage {stage.name!r}: keep asks for {PASS_RATE}, and {journal} is not there")
        rates |= read_journal(journal)
    selection = select(files, stage.keep, rates, keep_unseen=stage.unseen == "keep")
    print(f"stage {stage.name}: keep {stage.keep.text}", *selection.lines(), sep="\n", flush=True)
    if selection.num_kept < (batch or 1):
        raise UserError(
            f"stage {stage.name!r}: keep {stage.keep.text!r} leaves {selection.num_kept} of {len(selection.kept)} rows, "
            f"fewer than a batch of {batch or 1}{_enough(stage, selection, batch or 1)}"
        )
    target = out / f"train{Path(files[0]).suffix}"
    write_selected(files, selection.kept, target)
    draw(selection, target.with_suffix(".png"))
    return str(target)


def _enough(stage: Stage, selection: Selection, batch: int) -> str:
    """The pass rate up to which (or from which on) a batch would be left, as the end of a sentence."""
    on_rate = [one for one in stage.keep.comparisons if one.column == PASS_RATE]
    if len(on_rate) != 1 or on_rate[0].sign not in ("<", "<=", ">", ">="):
        return ""
    measured = [rate for rate in selection.rates if rate is not None]
    unseen = (len(selection.rates) - len(measured)) if stage.unseen == "keep" else 0
    upper = on_rate[0].sign.startswith("<")
    for threshold in sorted(set(measured), reverse=not upper):
        left = unseen + sum(rate <= threshold if upper else rate >= threshold for rate in measured)
        if left >= batch:
            return f"; {PASS_RATE} {'<=' if upper else '>='} {_spelt(threshold)} would leave {left}"
    return ""


def _spelt(rate: Fraction) -> str:
    return str(rate.numerator) if rate.denominator == 1 else f"{rate.numerator}/{rate.denominator}"
