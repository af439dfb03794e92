"""What an online step was, from other metrics, lengths and advantages, not from the model."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta

from verl_ext.engine.shared_prompts import TOKENS_COMPUTED, TOKENS_OF_ROWS
from verl_ext.trainer.online.outcomes import Outcomes
from verl_ext.trainer.online.truncation import NOTHING_LEFT

ROWS_AT_ONCE = 256
"""Answers whose advantages are looked at together; the first few settle it in most steps."""


def accuracy_before_sampling(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Share of right answers among all that a step generated and that were graded, the dropped groups included.

    The groups that were kept are taken to be as good as those that the step trains on.
    """
    ungraded = sum(metrics.get(f"sampling/dropped_{why}", 0.0) for why in ("failed", "no_verdict", "truncated"))
    generated = metrics.get("sampling/generated_groups", 0.0) - ungraded
    if not generated or "reward/acc" not in metrics:
        return {}
    right = metrics.get("sampling/dropped_all_right", 0.0)
    mixed = generated - right - metrics.get("sampling/dropped_all_wrong", 0.0)
    return {"sampling/accuracy": (right + metrics["reward/acc"] * mixed) / generated}


def shares_at_limit(
    tags: Sequence[Mapping[str, Any]], max_prompt_length: int, max_response_length: int
) -> dict[str, float]:
    """verl's `clip_ratio` metrics: the shares of prompts and responses that fill the length they are allowed.

    verl 0.9.1 compares with the width of the batch (metric_utils.py), and its trainers pad that to the longest response:
    with short answers, half of a batch can be as long as its longest.

    Args:
        tags: `prompt_len` and `response_len` in tokens, one of each answer; `is_padding` where it only fills a batch.
        max_prompt_length, max_response_length: tokens.
    """
    answers = [tag for tag in tags if not tag.get("is_padding", False)]
    responses = [tag["response_len"] for tag in answers]
    given = [length for length in responses if length > 0]  # an aborted one is empty
    return {
        "prompt_length/clip_ratio": _share(tag["prompt_len"] >= max_prompt_length for tag in answers),
        "response_length/clip_ratio": _share(length >= max_response_length for length in responses),
        "response_length_non_aborted/clip_ratio": _share(length >= max_response_length for length in given),
    }


def share_of_tokens_computed(metrics: dict[str, Any]) -> dict[str, float]:
    """Take the counts of the engine out of verl's metrics of an update; returns computed tokens over those of the rows.

    verl averages each over micro-batches and ranks. Both have as many terms, so their ratio is that of the update.
    """
    names = [f"actor/{name}" for name in (TOKENS_COMPUTED, TOKENS_OF_ROWS)]
    if names[0] not in metrics:
        return {}
    computed, of_rows = (float(metrics.pop(name)) for name in names)
    return {"perf/share_of_tokens_computed": computed / of_rows}


def entropy_of_tokens(batch: KVBatchMeta) -> float:
    """Mean entropy of the policy over all generated tokens of a step, in nats at the temperature of sampling.

    verl's `actor/entropy` is reduced as the loss is: only with token-mean it is a mean over tokens.
    """
    total = tokens = 0.0
    real = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    for start in range(0, len(real), ROWS_AT_ONCE):
        data = tq.kv_batch_get(
            keys=real[start : start + ROWS_AT_ONCE],
            partition_id=batch.partition_id,
            select_fields=["entropy", "response_mask"],
        )
        for entropy, mask in zip(data["entropy"].unbind(), data["response_mask"].unbind(), strict=True):
            total += (entropy.double() * mask).sum().item()
            tokens += mask.sum().item()
    return total / tokens if tokens else float("nan")


class EntropyBand:
    """Speaks up when the entropy of the policy has left a band and stays outside.

    Args:
        band: (lowest, highest) in nats; None: never.
    """

    STEPS = 20

    def __init__(self, band: Sequence[float] | None) -> None:
        self._band = None if band is None else tuple(band)
        self._outside = 0

    def add(self, entropy: float) -> str | None:
        """A step's entropy; what to say, every `STEPS` steps outside."""
        if self._band is None:
            return None
        low, high = self._band
        self._outside = 0 if low <= entropy <= high else self._outside + 1
        if not self._outside or self._outside % self.STEPS:
            return None
        band = f"trainer.entropy_band=[{low:g}, {high:g}] for {self._outside} steps"
        if math.isnan(entropy):
            return f"rollout/entropy is no number, outside {band}"
        side, remedy = ("below", "higher") if entropy < low else ("above", "lower")
        return (
            f"rollout/entropy is {entropy:.3f}, {side} {band}; "
            f"a {remedy} actor_rollout_ref.rollout.temperature would change that"
        )


def outcomes_of(batch: KVBatchMeta, max_response_length: int) -> Outcomes:
    """What the groups of a trained batch were: all count as usable if any answer has an advantage, else as what they are.

    Without dynamic sampling, and where its metric is not what the advantages come from, a batch can be of groups from
    which nothing is learned.
    """
    groups: dict[str, list[int]] = defaultdict(list)
    for row, (key, tag) in enumerate(zip(batch.keys, batch.tags, strict=True)):
        if not tag.get("is_padding", False):
            groups[key.split("_")[0]].append(row)
    if batch.extra_info.get(NOTHING_LEFT):
        return Outcomes(truncated=len(groups))
    if _has_advantages(batch):
        return Outcomes(usable=len(groups))
    outcomes = Outcomes()
    for rows in groups.values():
        scores = tq.kv_batch_get(
            keys=[batch.keys[row] for row in rows], partition_id=batch.partition_id, select_fields=["rm_scores"]
        )["rm_scores"].unbind()
        cut_off = sum(batch.tags[row]["response_len"] >= max_response_length for row in rows)
        if sum(row.sum().item() for row in scores) > 0:
            outcomes.all_right += 1
        elif 2 * cut_off > len(rows):
            outcomes.cut_off += 1
        else:
            outcomes.all_wrong += 1
    return outcomes


def _has_advantages(batch: KVBatchMeta) -> bool:
    for start in range(0, len(batch.keys), ROWS_AT_ONCE):
        data = tq.kv_batch_get(
            keys=batch.keys[start : start + ROWS_AT_ONCE],
            partition_id=batch.partition_id,
            select_fields=["advantages"],
        )
        if any(row.any() for row in data["advantages"].unbind()):
            return True
    return False


def _share(hits: Iterable[bool]) -> float:
    hits = list(hits)
    return sum(hits) / len(hits) if hits else float("nan")
