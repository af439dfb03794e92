"""Metrics of an online step that come from other metrics and from lengths, not from the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def accuracy_before_sampling(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Share of right answers among all that a step generated, the dropped groups included.

    The groups that were kept are taken to be as good as those that the step trains on.
    """
    generated = metrics.get("sampling/generated_groups", 0.0) - metrics.get("sampling/dropped_failed", 0.0)
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


def _share(hits: Iterable[bool]) -> float:
    hits = list(hits)
    return sum(hits) / len(hits) if hits else float("nan")
