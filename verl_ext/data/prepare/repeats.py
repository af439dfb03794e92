"""Problems that occur more than once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

from verl_ext.data.prepare.split_report import SplitReport


def first_of_each(
    rows: Iterable[dict[str, Any]], report: SplitReport, *, keep: bool = False
) -> Iterator[dict[str, Any]]:
    """`rows` without those whose problem came before; two texts that differ in white space alone are one problem.

    Args:
        report: told of every repeated problem, and of those whose answer is another than the first one's.
        keep: only count them.
    """
    first_answers: dict[bytes, str | None] = {}
    for row in rows:
        info, answer = row["extra_info"], row["reward_model"]["ground_truth"]
        # A digest, because a data set of a million problems would otherwise be held in memory.
        identity = hashlib.blake2b(" ".join(info["question"].split()).encode(), digest_size=16).digest()
        if identity not in first_answers:
            first_answers[identity] = answer
        elif keep:
            report.repeats += 1
        else:
            other = "" if answer == first_answers[identity] else " with another answer"
            report.drop(f"repeats an earlier problem{other}", f"row {info['index']}")
            continue
        yield row
