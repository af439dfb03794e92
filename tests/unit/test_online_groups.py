"""Dynamic sampling: which groups a step takes, what is kept, and where it stops."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import pytest
from verl.trainer.ppo.v1 import replay_buffer

from verl_ext.trainer.online.groups import Acceptance, GroupBuffer, NoGroupsError, SamplingOptions
from verl_ext.trainer.run.exits import WorkerDiedError

RIGHT, WRONG, MIXED, FAILED = "right", "wrong", "mixed", "failed"
ANSWERS = {RIGHT: [1, 1], WRONG: [0, 0], MIXED: [1, 0], FAILED: []}


class Queue:
    """TransferQueue in memory, as far as a buffer reads it."""

    def __init__(self) -> None:
        self.tags: dict[str, dict] = {}
        self.accuracy: dict[str, int] = {}

    def kv_list(self, partition_id: str | None = None) -> dict[str, dict[str, dict]]:
        return {"train": {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_clear(self, keys: Iterable[str], partition_id: str) -> None:
        for key in keys:
            self.tags.pop(key)

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, list]:
        assert select_fields == ["extra_fields"]
        return {"extra_fields": [{"reward_extra_info": {"acc": self.accuracy[key]}} for key in keys]}


class Rollout:
    """Generates one group after the other, of kinds that are given."""

    def __init__(self, queue: Queue, kinds: Iterable[str]) -> None:
        self.queue = queue
        self.kinds = iter(kinds)
        self.submitted: list[int] = []
        self.next = 0

    def __call__(self, prompts: int) -> None:
        self.submitted.append(prompts)
        for _ in range(prompts):
            uid, kind = f"{self.next:010d}", next(self.kinds)
            self.next += 1
            status = "failure" if kind == FAILED else "finished"
            self.queue.tags[uid] = {"is_prompt": True, "status": status, "global_steps": 1}
            for session, accuracy in enumerate(ANSWERS[kind]):
                key = f"{uid}_{session}_0"
                self.queue.tags[key] = {"status": "success", "seq_len": 3}
                self.queue.accuracy[key] = accuracy


@pytest.fixture
def make(monkeypatch):
    def _make(kinds, *, gen_batch_size=4, max_gen_batches=10, drop_uniform=True, train_batch_size=2):
        queue = Queue()
        monkeypatch.setattr(replay_buffer, "tq", queue)
        rollout = Rollout(queue, kinds)
        buffer = GroupBuffer(
            options=SamplingOptions(gen_batch_size, max_gen_batches, drop_uniform),
            train_batch_size=train_batch_size,
            trainer_mode="sync",
            trainer_config={},
            max_off_policy_threshold=None,
            max_off_policy_strategy="drop",
            sampler_kwargs={},
            refill_fn=rollout,
            filter_groups_metric="acc" if drop_uniform else None,
        )
        return buffer, rollout

    return _make


def _prompts(batch) -> list[int]:
    return sorted({int(key.split("_")[0]) for key in batch.keys})


def test_a_step_takes_the_oldest_usable_groups_and_all_their_answers(make):
    buffer, _ = make([WRONG, MIXED, RIGHT, MIXED])
    batch, metrics = buffer.sample(1, "train", 2)
    assert _prompts(batch) == [1, 3]
    assert batch.keys == ["0000000001_0_0", "0000000001_1_0", "0000000003_0_0", "0000000003_1_0"]
    assert metrics["sampling/dropped_all_right"] == metrics["sampling/dropped_all_wrong"] == 1
    assert metrics["sampling/generated_groups"] == 4


def test_it_generates_until_there_are_enough(make):
    buffer, rollout = make([WRONG] * 4 + [MIXED, WRONG, WRONG, WRONG] + [MIXED] + [WRONG] * 20)
    batch, metrics = buffer.sample(1, "train", 2)
    assert _prompts(batch) == [4, 8]
    assert metrics["sampling/generation_batches"] == len(rollout.submitted) == 3


def test_surplus_opens_the_next_step_and_is_not_generated_again(make):
    buffer, rollout = make([MIXED] * 20)
    first, metrics = buffer.sample(1, "train", 2)
    assert metrics["sampling/surplus_groups"] == 2
    second, metrics = buffer.sample(2, "train", 2)
    assert metrics["sampling/kept_from_before"] == 2
    assert metrics.get("sampling/generated_groups", 0) == 0
    third, _ = buffer.sample(3, "train", 2)
    assert [_prompts(batch) for batch in (first, second, third)] == [[0, 1], [2, 3], [4, 5]]
    assert rollout.submitted[0] == 4


def test_no_group_is_trained_twice_or_lost_over_many_steps(make):
    pattern = [MIXED, WRONG, RIGHT, MIXED, MIXED, WRONG, WRONG]
    buffer, rollout = make(pattern * 30, train_batch_size=3, gen_batch_size=5)
    trained = [prompt for step in range(12) for prompt in _prompts(buffer.sample(step, "train", 3)[0])]
    usable = [i for i in range(rollout.next) if pattern[i % len(pattern)] == MIXED]
    assert trained == usable[: len(trained)]
    assert len(trained) == 36


def test_at_the_bound_the_step_trains_on_what_there_is(make, caplog):
    buffer, rollout = make([MIXED] + [WRONG] * 50, max_gen_batches=2)
    with caplog.at_level(logging.WARNING):
        batch, _ = buffer.sample(1, "train", 2)
    assert _prompts(batch) == [0]
    assert sum(rollout.submitted) == 8
    assert "max_num_gen_batches=2" in caplog.text and "1 of 2 groups" in caplog.text


def test_a_bound_without_any_usable_group_ends_the_step_not_the_run(make):
    buffer, rollout = make([WRONG] * 50 + [MIXED] * 50, max_gen_batches=2)
    with pytest.raises(NoGroupsError):
        buffer.sample(1, "train", 2)
    assert rollout.next == 8


def test_without_dynamic_sampling_every_group_is_taken(make):
    buffer, rollout = make([WRONG, RIGHT, MIXED, MIXED], drop_uniform=False)
    batch, _ = buffer.sample(1, "train", 2)
    assert _prompts(batch) == [0, 1]
    assert rollout.submitted == [2]


def test_a_failed_group_is_replaced(make):
    buffer, _ = make([FAILED] + [MIXED] * 30, train_batch_size=12, gen_batch_size=12)
    batch, metrics = buffer.sample(1, "train", 12)
    assert _prompts(batch) == list(range(1, 13))
    assert metrics["sampling/dropped_failed"] == 1


def test_many_failures_end_the_run_with_the_reason(make):
    buffer, _ = make([FAILED, FAILED, MIXED, MIXED])
    with pytest.raises(WorkerDiedError, match="2 of 4 prompts"):
        buffer.sample(1, "train", 2)


def test_a_dead_worker_is_the_better_reason(make):
    buffer, _ = make([FAILED, FAILED, MIXED, MIXED])

    def check() -> None:
        raise WorkerDiedError("rollout server 0 died")

    buffer.check_workers = check
    with pytest.raises(WorkerDiedError, match="rollout server 0"):
        buffer.sample(1, "train", 2)


def test_rounds_grow_with_the_share_of_groups_that_are_dropped(make):
    buffer, rollout = make([MIXED, WRONG, WRONG, WRONG] * 200, train_batch_size=4, gen_batch_size=100)
    buffer.acceptance = Acceptance(usable=4, generated=4)
    for step in range(8):
        buffer.sample(step, "train", 4)
    first, last = rollout.submitted[0], max(rollout.submitted[-3:])
    assert first == 4
    assert 12 <= last <= 40


@pytest.mark.parametrize(("usable", "generated", "groups", "expected"), [(4, 4, 8, 8), (1, 4, 8, 42), (0, 10, 1, 20)])
def test_prompts_for_is_the_mean_and_one_standard_deviation(usable, generated, groups, expected):
    assert Acceptance(usable, generated).prompts_for(groups) == pytest.approx(expected, abs=1)
