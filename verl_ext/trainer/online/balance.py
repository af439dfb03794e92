"""Which rank trains on which answers: alike work for all, and the answers to a prompt together where their prompt is shared."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions


def order_with_groups_together(
    keys: Sequence[str], tags: Sequence[Mapping[str, Any]], *, ranks: int, rows_per_update: int
) -> list[int] | None:
    """An order of a batch's rows, of which verl gives each rank an equal share, and of that an equal share an update.

    Answers to a prompt stay together: all of them, or as many as a rank's share of an update is a multiple of.

    Args:
        keys: PROMPT_SAMPLE_OUTPUT of each row.
        tags: `prompt_len` and `response_len` in tokens of each.
        ranks: data-parallel ranks.
        rows_per_update: of all ranks.

    Returns:
        Places of the rows; None where groups do not fit (their sizes differ, or a rank's share is a single row).
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row in sorted(range(len(keys)), key=lambda row: keys[row]):
        groups[keys[row].rsplit("_", 2)[0]].append(row)
    size = math.gcd(rows_per_update // ranks, *(len(rows) for rows in groups.values()))
    if size == 1:
        return None
    units = [rows[start : start + size] for rows in groups.values() for start in range(0, len(rows), size)]
    if len(units) % ranks:
        return None
    tokens = [_tokens([tags[row] for row in unit]) for unit in units]
    workloads = calculate_workload(torch.tensor(tokens)).tolist()
    shares = get_seqlen_balanced_partitions(workloads, k_partitions=ranks, equal_size=True)
    return [row for share in shares for unit in share for row in units[unit]]


def _tokens(tags: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of answers whose prompt is shared: the prompt, and of each answer its own and the prompt's last."""
    return max(tag["prompt_len"] for tag in tags) - 1 + sum(1 + tag["response_len"] for tag in tags)
