"""Truncated answers: which they are, and that masking takes their tokens out of loss and of its denominator."""

from __future__ import annotations

import pytest
import torch
from transfer_queue import KVBatchMeta

from verl_ext.trainer.online import truncation
from verl_ext.trainer.online.truncation import NOTHING_LEFT, Truncation, mask_truncated

LONGEST, END, OTHER_END = 4, 2, 3
ANSWERS = {
    "short": [5, 6, END],
    "ended": [5, 6, 7, END],
    "ended otherwise": [5, 6, 7, OTHER_END],
    "cut": [5, 6, 7, 8],
    "end inside": [5, END, 7, 8],
    "filler": [5, 6, 7, 8],
}


class Queue:
    """TransferQueue in memory, with jagged rows as the trainer puts them there."""

    def __init__(self) -> None:
        self.rows = {
            key: {
                "responses": torch.tensor(tokens),
                "response_mask": torch.ones(len(tokens), dtype=torch.int64),
                "loss_mask": torch.tensor([0, 0, *[1] * len(tokens)]),
            }
            for key, tokens in ANSWERS.items()
        }
        self.fetched: list[str] = []

    def kv_batch_get(self, keys, partition_id, select_fields):
        self.fetched += keys
        return {
            name: torch.nested.as_nested_tensor([self.rows[key][name] for key in keys], layout=torch.jagged)
            for name in select_fields
        }

    def kv_batch_put(self, keys, partition_id, fields):
        for name, values in fields.items():
            for key, value in zip(keys, values.unbind(), strict=True):
                assert value.shape == self.rows[key][name].shape and value.dtype == self.rows[key][name].dtype
                self.rows[key][name] = value


@pytest.fixture
def queue(monkeypatch):
    queue = Queue()
    monkeypatch.setattr(truncation, "tq", queue)
    return queue


def _tags() -> dict[str, dict]:
    tags = {key: {"response_len": len(tokens)} for key, tokens in ANSWERS.items()}
    tags["filler"]["is_padding"] = True
    return tags


def test_truncated_is_what_is_as_long_as_may_be_and_does_not_end(queue):
    assert Truncation(LONGEST, [END, OTHER_END]).of("train", _tags()) == {"cut", "end inside"}
    assert set(queue.fetched) == {"ended", "ended otherwise", "cut", "end inside"}, "only long ones are fetched"


def test_nothing_is_fetched_where_all_answers_are_short(queue):
    assert Truncation(LONGEST + 1, [END]).of("train", _tags()) == set()
    assert not queue.fetched


def test_both_masks_of_truncated_answers_go_and_no_others(queue):
    batch = KVBatchMeta(partition_id="train", keys=list(ANSWERS), tags=list(_tags().values()))
    mask_truncated(batch, {"cut", "end inside"})
    for key, row in queue.rows.items():
        masked = key in {"cut", "end inside"}
        for name in ("response_mask", "loss_mask"):
            assert row[name].sum().item() == (0 if masked else len(ANSWERS[key])), (key, name)
        assert row["responses"].tolist() == ANSWERS[key]
    assert not batch.extra_info[NOTHING_LEFT]


def test_a_batch_of_truncated_answers_alone_has_nothing_left(queue):
    keys = ["cut", "end inside", "filler"]
    batch = KVBatchMeta(partition_id="train", keys=keys, tags=[_tags()[key] for key in keys])
    mask_truncated(batch, {"cut", "end inside"})
    assert batch.extra_info[NOTHING_LEFT]


def test_a_batch_without_truncated_answers_is_left_alone(queue):
    batch = KVBatchMeta(partition_id="train", keys=list(ANSWERS), tags=list(_tags().values()))
    mask_truncated(batch, set())
    assert not queue.fetched and NOTHING_LEFT not in batch.extra_info
