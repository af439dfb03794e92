"""Batches are a function of seed and step: the same for every number of ranks, every row once an epoch."""

from __future__ import annotations

import pytest

from verl_ext.data.batching import GlobalBatches, evaluation_batches


def test_every_row_comes_once_an_epoch_and_in_another_order_the_next():
    batches = GlobalBatches(12, 4, seed=1)
    epochs = [[row for step in range(3 * e, 3 * e + 3) for row in batches.of_step(step)] for e in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == list(range(12))
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("dp_size", [1, 2, 4])
def test_the_global_batch_does_not_depend_on_the_number_of_ranks(dp_size):
    whole = GlobalBatches(30, 8, seed=5)
    ranks = [GlobalBatches(30, 8, seed=5, dp_rank=rank, dp_size=dp_size) for rank in range(dp_size)]
    for step in range(7):
        assert [row for rank in ranks for row in rank.local_rows(step)] == whole.of_step(step)


def test_a_step_is_the_same_whether_or_not_the_steps_before_were_asked_for():
    walked = GlobalBatches(10, 2, seed=3)
    for step in range(12):
        walked.of_step(step)
    assert walked.of_step(12) == GlobalBatches(10, 2, seed=3).of_step(12)


def test_the_last_incomplete_batch_is_left_out():
    assert len(GlobalBatches(11, 4, seed=0)) == 2


def test_without_shuffling_rows_keep_the_order_of_the_files():
    assert GlobalBatches(6, 3, seed=0, shuffle=False).of_step(1) == [3, 4, 5]


@pytest.mark.parametrize(("num_rows", "batch_size", "dp_size"), [(7, 2, 2), (8, 2, 2), (1, 4, 3), (5, 1, 1)])
def test_validation_sees_every_row_once_and_keeps_ranks_in_step(num_rows, batch_size, dp_size):
    ranks = [list(evaluation_batches(num_rows, batch_size, rank, dp_size)) for rank in range(dp_size)]
    assert len({len(batches) for batches in ranks}) == 1
    assert all(len(batch) == batch_size for batches in ranks for batch in batches)
    seen = [row for batches in ranks for batch in batches for row in batch if row is not None]
    assert sorted(seen) == list(range(num_rows))
