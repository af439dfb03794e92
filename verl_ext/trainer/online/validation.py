"""Validation metrics of an online run: avg@k, pass@k and maj@k of each data source."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from verl_ext.reward.accuracy import avg_at_k, maj_at_k, pass_at_k, standard_error


def validation_metrics(
    data_sources: Sequence[str], uids: Sequence[str], infos: Mapping[str, Sequence]
) -> dict[str, float]:
    """Metrics of one validation.

    Args:
        data_sources, uids: data source and prompt of each answer.
        infos: what the reward reported, a list over answers each: `acc` (or else `reward`), above 0 counting as
            right, and where there is one `pred`, the answer found.

    Returns:
        `val/SOURCE/avg@k` with its standard error over problems; with k > 1 samples also `pass@k`, and `maj@k` where
        answers are known. In a vote all right answers are one candidate; wrong ones are told apart by their text.
    """
    right = [value > 0 for value in infos["acc" if "acc" in infos else "reward"]]
    answers = infos.get("pred")
    rows: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for row, (source, uid) in enumerate(zip(data_sources, uids, strict=True)):
        rows[source][uid].append(row)
    metrics = {}
    for source, problems in rows.items():
        correct = [[right[row] for row in samples] for samples in problems.values()]
        k = min(len(samples) for samples in correct)
        per_problem = avg_at_k(correct)
        metrics[f"val/{source}/avg@{k}"] = float(per_problem.mean())
        metrics[f"val/{source}/avg@{k}_standard_error"] = standard_error(per_problem)
        if k == 1:
            continue
        metrics[f"val/{source}/pass@{k}"] = float(pass_at_k(correct, k).mean())
        if answers is not None:
            votes = [[_candidate(right[row], answers[row]) for row in samples] for samples in problems.values()]
            metrics[f"val/{source}/maj@{k}"] = float(maj_at_k(correct, votes, k).mean())
    return metrics


def _candidate(is_right: bool, answer: str | None) -> str | bool | None:
    if is_right:
        return True
    return "".join(answer.split()) if answer else None
