"""Answers that were cut off before they had ended, and how the choices of `algorithm.overlong_filtering` treat them.

A truncated answer is as long as it may be and does not end with an end token. Its reward says that it is wrong, which
is not known: it may have been on its way to the right answer. `mask`: no gradient comes from it, while the rate of its
group counts it; that is DAPO's overlong filtering (arXiv 2503.14476, section 3.4), which AceReason-Nemotron 1.1 (arXiv
2506.13284) has on while answers are short. `exclude`: it leaves its group before anything counts it, as if it had never
been generated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import transfer_queue as tq
from transfer_queue import KVBatchMeta

NOTHING_LEFT = "all_truncated"
"""Of a batch: whether the mask has left no answer in it."""


class Truncation:
    """Tells which answers are truncated.

    Args:
        max_response_length: tokens.
        end_tokens: those that end an answer.
    """

    def __init__(self, max_response_length: int, end_tokens: Iterable[int]) -> None:
        self.max_response_length = max_response_length
        self.end_tokens = frozenset(end_tokens)

    def of(self, partition_id: str, tags: Mapping[str, Mapping[str, Any]]) -> set[str]:
        """The truncated ones among these answers.

        Args:
            partition_id: of TransferQueue.
            tags: key of an answer -> its tag; one that only fills a batch (`is_padding`) is none.
        """
        longest = [
            key
            for key, tag in tags.items()
            if not tag.get("is_padding", False) and tag["response_len"] >= self.max_response_length
        ]
        if not longest:
            return set()
        responses = tq.kv_batch_get(keys=longest, partition_id=partition_id, select_fields=["responses"])["responses"]
        return {key for key, tokens in zip(longest, responses, strict=True) if int(tokens[-1]) not in self.end_tokens}


def mask_truncated(batch: KVBatchMeta, truncated: set[str]) -> None:
    """Take the gradient of these answers away, once the advantages are there.

    Both masks go: verl masks the loss by `response_mask` (workers/utils/losses.py) and divides by the sum of
    `loss_mask` (workers/engine/fsdp/transformer_impl.py). So the gradient is that of the batch without these rows.
    Not before the advantages: a row without a mask belongs to no group.
    """
    if not truncated:
        return
    keys = [key for key in batch.keys if key in truncated]
    names = ["response_mask", "loss_mask"]
    masks = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=names)
    for name in names:
        masks[name] = torch.nested.nested_tensor_from_jagged(
            torch.zeros_like(masks[name].values()), offsets=masks[name].offsets()
        )
    tq.kv_batch_put(keys=keys, partition_id=batch.partition_id, fields=masks)
    real = {key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)}
    batch.extra_info[NOTHING_LEFT] = real <= truncated
