"""Dynamic sampling: which groups a step takes, what is kept, and where it stops."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable

import pytest
import torch
from verl.trainer.ppo.v1 import replay_buffer

from verl_ext.trainer.online import groups, truncation, verdicts
from verl_ext.trainer.online.dynamic_sampling import MAX_IDLE_BATCHES, Acceptance, SamplingOptions
from verl_ext.trainer.online.groups import AsyncGroupBuffer, GroupBuffer, NoGroupsError
from verl_ext.trainer.online.pass_rates import FILE, Journal
from verl_ext.trainer.online.stopping import StepInterruptedError
from verl_ext.trainer.run.exits import WorkerDiedError

RIGHT, WRONG, CUT_OFF, MIXED, FAILED = "right", "wrong", "cut off", "mixed", "failed"
MIXED_AND_NONE, RIGHT_AND_NONE, ONE_LEFT, NONE = "mixed and none", "right and none", "one left", "none"
ANSWERS = {  # accuracies; a status where the grader came to no verdict
    RIGHT: [1, 1],
    WRONG: [0, 0],
    CUT_OFF: [0, 0],
    MIXED: [1, 0],
    FAILED: [],
    MIXED_AND_NONE: ["timeout", 1, "error", 0],
    RIGHT_AND_NONE: [1, "unparsable_gold", 1],
    ONE_LEFT: ["timeout", 1],
    NONE: ["error", "error"],
}
LONG_RIGHT, ONE_ENDED = "right, one truncated", "one of two ended"
ANSWERS |= {LONG_RIGHT: [1, 0, 1], ONE_ENDED: [1, 0]}
TRUNCATED = {CUT_OFF: (0, 1), LONG_RIGHT: (1,), ONE_ENDED: (1,)}
"""Kind -> the answers that are as long as they may be and do not end."""
RESPONSE_LENGTH = 7
END_TOKEN = 2


class Queue:
    """TransferQueue in memory, as far as a buffer reads it, with one partition."""

    def __init__(self) -> None:
        self.partition_id = "train"
        self.tags: dict[str, dict] = {}
        self.infos: dict[str, dict] = {}

    def kv_list(self, partition_id: str | None = None) -> dict[str, dict[str, dict]]:
        return {self.partition_id: {key: dict(tag) for key, tag in self.tags.items()}}

    def kv_clear(self, keys: Iterable[str], partition_id: str) -> None:
        for key in keys:
            self.tags.pop(key)

    def kv_batch_get(self, keys: list[str], partition_id: str, select_fields: list[str]) -> dict[str, list]:
        if select_fields == ["responses"]:
            assert all(self.tags[key]["response_len"] >= RESPONSE_LENGTH for key in keys), "only those are looked at"
            return {"responses": [torch.tensor([5, self.last_tokens.get(key, 5)]) for key in keys]}
        assert select_fields == ["extra_fields"]
        return {"extra_fields": [{"reward_extra_info": self.infos[key]} for key in keys]}

    @property
    def last_tokens(self) -> dict[str, int]:
        """Of answers that end just at their limit; the others were cut off there."""
        return {key: END_TOKEN for key, info in self.infos.items() if info.get("ends")}


class Rollout:
    """Generates one group after the other, of kinds that are given."""

    def __init__(self, queue: Queue, kinds: Iterable[str]) -> None:
        self.queue = queue
        self.kinds = iter(kinds)
        self.submitted: list[int] = []
        self.next = 0
        self.step = 1
        self.slow: dict[int, str] = {}
        """Prompts whose answers do not come by themselves -> their kind."""

    def __call__(self, prompts: int) -> None:
        self.submitted.append(prompts)
        for _ in range(prompts):
            prompt, kind = self.next, next(self.kinds)
            self.next += 1
            if prompt in self.slow:
                self.slow[prompt] = kind
                self.queue.tags[f"{prompt:010d}"] = {"is_prompt": True, "status": "running", "global_steps": 1}
            else:
                self.answer(prompt, kind)

    def answer(self, prompt: int, kind: str) -> None:
        uid, status = f"{prompt:010d}", "failure" if kind == FAILED else "finished"
        self.queue.tags[uid] = {"is_prompt": True, "status": status, "global_steps": self.step}
        if kind == FAILED:
            self.queue.tags[uid]["reason"] = "OSError: no judge answers"
        for session, verdict in enumerate(ANSWERS[kind]):
            length = RESPONSE_LENGTH if session in TRUNCATED.get(kind, ()) else 3
            status, accuracy = (verdict, 0) if isinstance(verdict, str) else ("ok", verdict)
            for output in range(self.outputs):
                key = f"{uid}_{session}_{output}"
                self.queue.tags[key] = {"status": "success", "seq_len": length + 1, "response_len": length}
                self.queue.infos[key] = {"acc": accuracy, "grade_status": status, "grade_seconds": 0.5}

    outputs = 1


@pytest.fixture
def make(monkeypatch):
    def _make(
        kinds,
        *,
        gen_batch_size=4,
        max_gen_batches=10,
        drop_uniform=True,
        train_batch_size=2,
        drop_no_verdict=False,
        mode="sync",
        **options,
    ):
        queue = Queue()
        for module in (replay_buffer, groups, verdicts, truncation):
            monkeypatch.setattr(module, "tq", queue)
        rollout = Rollout(queue, kinds)
        buffer = (GroupBuffer if mode == "sync" else AsyncGroupBuffer)(
            options=SamplingOptions(
                gen_batch_size, max_gen_batches, drop_uniform, RESPONSE_LENGTH, drop_no_verdict, **options
            ),
            train_batch_size=train_batch_size,
            trainer_mode=mode,
            trainer_config={},
            max_off_policy_threshold=None if mode == "sync" else 2,
            max_off_policy_strategy="drop",
            sampler_kwargs={},
            refill_fn=rollout,
            filter_groups_metric="acc" if drop_uniform else None,
        )
        buffer.tell_truncated_by(truncation.Truncation(RESPONSE_LENGTH, {END_TOKEN}))
        return buffer, rollout

    return _make


def _sample(buffer, step, count):
    """Prompts of the batch and the metrics of the step so far."""
    batch, _ = buffer.sample(step, "train", count)
    return _prompts(batch), buffer.this_step.metrics()


def _prompts(batch) -> list[int]:
    return sorted({int(key.split("_")[0]) for key in batch.keys})


def test_a_step_takes_the_oldest_usable_groups_and_all_their_answers(make):
    buffer, _ = make([WRONG, MIXED, RIGHT, MIXED])
    batch, _ = buffer.sample(1, "train", 2)
    metrics = buffer.this_step.metrics()
    assert _prompts(batch) == [1, 3]
    assert batch.keys == ["0000000001_0_0", "0000000001_1_0", "0000000003_0_0", "0000000003_1_0"]
    assert metrics["sampling/dropped_all_right"] == metrics["sampling/dropped_all_wrong"] == 1
    assert metrics["sampling/generated_groups"] == 4


def test_it_generates_until_there_are_enough(make):
    buffer, rollout = make([WRONG] * 4 + [MIXED, WRONG, WRONG, WRONG] + [MIXED] + [WRONG] * 20)
    prompts, metrics = _sample(buffer, 1, 2)
    assert prompts == [4, 8]
    assert metrics["sampling/generation_batches"] == len(rollout.submitted) == 3


def test_surplus_opens_the_next_step_and_is_not_generated_again(make):
    buffer, rollout = make([MIXED] * 20)
    first, metrics = _sample(buffer, 1, 2)
    assert metrics["sampling/surplus_groups"] == 2
    second, metrics = _sample(buffer, 2, 2)
    assert metrics["sampling/kept_from_before"] == 2
    assert metrics.get("sampling/generated_groups", 0) == 0
    third, _ = _sample(buffer, 3, 2)
    assert [first, second, third] == [[0, 1], [2, 3], [4, 5]]
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


def test_without_dynamic_sampling_its_bound_is_none(make):
    buffer, rollout = make([MIXED] * 8, drop_uniform=False, gen_batch_size=1, max_gen_batches=1, train_batch_size=8)
    assert _sample(buffer, 1, 8)[0] == list(range(8))
    assert rollout.submitted == [8]


def test_a_failed_group_is_replaced(make):
    buffer, _ = make([FAILED] + [MIXED] * 30, train_batch_size=12, gen_batch_size=12)
    prompts, metrics = _sample(buffer, 1, 12)
    assert prompts == list(range(1, 13))
    assert metrics["sampling/dropped_failed"] == 1


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_failures_in_small_rounds_do_not_end_the_run(make, mode):
    """Each round is of one prompt or two, so a single failure is half of it or all."""
    kinds = [MIXED, FAILED, FAILED, WRONG, FAILED] + [MIXED] * 10
    buffer, rollout = make(kinds, train_batch_size=2, gen_batch_size=2, mode=mode)
    rollout(2 if mode != "sync" else 0)
    prompts, metrics = _sample(buffer, 1, 2)
    assert len(prompts) == 2
    assert metrics["sampling/dropped_failed"] == 3


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_failures_add_up_over_the_rounds_of_a_step_and_begin_anew_with_the_next(make, mode):
    kinds = [MIXED, FAILED, FAILED, FAILED, MIXED] + [FAILED, FAILED, FAILED, MIXED, MIXED] + [FAILED] * 4 + [MIXED]
    buffer, rollout = make(kinds, train_batch_size=2, gen_batch_size=1, mode=mode)
    for step in (1, 2):
        rollout.step = step
        rollout(2 if mode != "sync" else 0)
        prompts, metrics = _sample(buffer, step, 2)
        assert len(prompts) == 2
        assert metrics["sampling/dropped_failed"] == 3
    rollout.step = 3
    with pytest.raises(
        WorkerDiedError, match=r"step 3: .* failed for 4 of \d+ prompts, each of them twice: 4 x OSError"
    ):
        rollout(2 if mode != "sync" else 0)
        buffer.sample(3, "train", 2)


def test_a_tenth_of_a_large_step_may_fail_and_no_more(make):
    buffer, _ = make([FAILED] * 10 + [MIXED] * 200, train_batch_size=100, gen_batch_size=100)
    assert _sample(buffer, 1, 100)[1]["sampling/dropped_failed"] == 10
    buffer, _ = make([FAILED] * 11 + [MIXED] * 200, train_batch_size=100, gen_batch_size=100)
    with pytest.raises(WorkerDiedError, match="11 of 100 prompts"):
        buffer.sample(1, "train", 100)


def test_where_everything_fails_the_run_ends_however_small_the_step(make):
    buffer, _ = make([FAILED] * 100, train_batch_size=1, gen_batch_size=1)
    with pytest.raises(WorkerDiedError, match="4 of 4 prompts"):
        buffer.sample(1, "train", 1)


def test_a_dead_worker_is_the_better_reason(make):
    buffer, _ = make([FAILED] * 8)

    def check() -> None:
        raise WorkerDiedError("rollout server 0 died")

    buffer.check_workers = check
    with pytest.raises(WorkerDiedError, match="rollout server 0"):
        buffer.sample(1, "train", 2)


@pytest.mark.parametrize("failed", [0, 1, 3])
def test_validation_leaves_failed_prompts_out_and_says_why(make, failed):
    buffer, rollout = make([MIXED, RIGHT, WRONG][failed:] + [FAILED] * failed)
    rollout.queue.partition_id = "val"
    rollout(3)
    batch, reasons = buffer.validated()
    assert _prompts(batch) == list(range(3 - failed))
    assert reasons == ({"OSError: no judge answers": failed} if failed else {})
    assert not any(tag.get("is_prompt") for tag in rollout.queue.tags.values())


def test_groups_that_teach_nothing_are_told_apart(make):
    buffer, _ = make([RIGHT, WRONG, WRONG, CUT_OFF, FAILED, MIXED, MIXED, MIXED], gen_batch_size=8)
    buffer.acceptance = Acceptance(usable=2, generated=8)
    _, metrics = _sample(buffer, 1, 2)
    dropped = buffer.this_step.dropped
    assert (dropped.all_right, dropped.all_wrong, dropped.cut_off, dropped.failed) == (1, 2, 1, 1)
    assert (metrics["sampling/dropped_all_wrong"], metrics["sampling/dropped_cut_off"]) == (3, 1)


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_without_a_bound_a_step_without_usable_groups_ends_all_the_same(make, caplog, mode):
    buffer, rollout = make([WRONG] * 1000, max_gen_batches=0, mode=mode)
    rollout(2 if mode != "sync" else 0)
    with caplog.at_level(logging.WARNING), pytest.raises(NoGroupsError):
        buffer.sample(1, "train", 2)
    assert sum(rollout.submitted) == MAX_IDLE_BATCHES * 4 + (2 if mode != "sync" else 0)
    assert "none usable among the last 40" in caplog.text


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_without_a_bound_a_step_goes_on_as_long_as_usable_groups_come(make, mode):
    buffer, rollout = make(([WRONG] * 35 + [MIXED]) * 20, max_gen_batches=0, train_batch_size=5, mode=mode)
    rollout(5 if mode != "sync" else 0)
    assert len(_sample(buffer, 1, 5)[0]) == 5
    assert rollout.next > 4 * 36


def test_the_bound_of_an_asynchronous_step_holds_for_all_its_samples(make):
    """A step of several updates samples several times."""
    buffer, rollout = make([WRONG] * 1000, max_gen_batches=2, train_batch_size=4, mode="separate_async")
    rollout(4)
    for _ in range(2):
        with pytest.raises(NoGroupsError):
            buffer.sample(1, "train", 2)
    assert sum(rollout.submitted) == 4 + 2 * 4
    assert buffer.this_step.metrics()["sampling/dropped_all_wrong"] == 12


def test_stale_groups_are_counted_as_such(make):
    buffer, rollout = make([MIXED] * 20, mode="colocate_async")
    rollout(2)
    rollout.step = 3
    prompts, metrics = _sample(buffer, 3, 2)
    assert prompts == [2, 3]
    assert metrics["sampling/dropped_stale"] == 2


@pytest.mark.parametrize("slow", [[0], [1, 3], [2], [5], [4, 5, 6, 7]])  # of the first round, and of the second
def test_a_step_that_is_stopped_and_continued_takes_the_same_groups(make, slow):
    kinds = [WRONG, MIXED, WRONG, WRONG, MIXED, RIGHT, MIXED, WRONG, MIXED] + [WRONG, MIXED, RIGHT] * 20
    buffer, rollout = make(kinds)
    expected = [_sample(buffer, step, 2) for step in (1, 2)]
    prompts_taken = rollout.submitted

    stopped, before = make(kinds)
    before.slow = dict.fromkeys(slow, "")

    def stop() -> None:
        raise StepInterruptedError

    stopped.check_workers = stop
    with pytest.raises(StepInterruptedError):
        stopped.sample(1, "train", 2)
    saved = json.loads(json.dumps(stopped.state()))
    done = {uid: tag for uid, tag in before.queue.tags.items() if tag["status"] != "running"}

    continued, after = make(kinds[before.next :])
    after.next, after.queue.tags, after.queue.infos = before.next, done, before.queue.infos
    for prompt, kind in before.slow.items():  # generated again
        if kind:
            after.answer(prompt, kind)
    continued.restore(saved)
    found = [_sample(continued, step, 2) for step in (1, 2)]
    assert found == expected
    assert before.submitted + after.submitted == prompts_taken


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


# Answers without a verdict


@pytest.mark.parametrize("mode", ["sync", "separate_async"])
@pytest.mark.parametrize("drop_uniform", [True, False])
@pytest.mark.parametrize("outputs", [1, 2])
def test_a_step_is_what_it_would_be_without_the_answers_that_nobody_could_grade(make, mode, drop_uniform, outputs):
    pattern = [MIXED_AND_NONE, WRONG, ONE_LEFT, RIGHT_AND_NONE, MIXED, NONE, RIGHT]
    arguments = {"drop_uniform": drop_uniform, "mode": mode, "train_batch_size": 3}
    buffer, rollout = make(pattern * 20, drop_no_verdict=True, max_gen_batches=0, **arguments)
    rollout.outputs = outputs
    for step in range(3):
        if mode != "sync":
            rollout(3)  # as the trainer does; what gets lost, the buffer replaces
        batch, _ = buffer.sample(step, "train", 3)
        by_prompt: dict[int, list[str]] = {}
        for key in batch.keys:
            by_prompt.setdefault(int(key.split("_")[0]), []).append(key)
        assert len(by_prompt) == 3
        for prompt, keys in by_prompt.items():
            assert drop_uniform <= (pattern[prompt % 7] in (MIXED, MIXED_AND_NONE))
            graded = [n for n, verdict in enumerate(ANSWERS[pattern[prompt % 7]]) if not isinstance(verdict, str)]
            assert len(graded) >= 2
            assert keys == [f"{prompt:010d}_{n}_{output}" for n in graded for output in range(outputs)]
        assert len(batch.tags) == len(batch.keys)


def test_dropped_answers_are_counted_and_their_groups_are_judged_by_the_rest(make):
    kinds = [MIXED_AND_NONE, RIGHT_AND_NONE, ONE_LEFT, MIXED, *[MIXED] * 20]
    buffer, rollout = make(kinds, train_batch_size=3, drop_no_verdict=True)
    prompts, metrics = _sample(buffer, 1, 3)
    assert prompts == [0, 3, 4]
    assert metrics["sampling/answers_without_verdict"] == 4
    assert metrics["sampling/dropped_no_verdict"] == 1
    assert metrics["sampling/dropped_all_right"] == 1  # 1, 1 beside an answer without a verdict
    assert buffer.acceptance.usable == pytest.approx(0.9 * (0.9 * 3 + 2) + rollout.submitted[1])
    dropped = buffer.verdicts.dropped()
    assert sorted(info["grade_status"] for info in dropped) == ["error", "timeout", "timeout", "unparsable_gold"]
    assert buffer.verdicts.dropped() == []
    _, metrics = _sample(buffer, 2, 3)
    assert metrics["sampling/answers_without_verdict"] == 0


def test_where_no_verdict_counts_as_wrong_nothing_is_dropped(make):
    buffer, _ = make([ONE_LEFT, MIXED_AND_NONE, MIXED, MIXED], drop_uniform=False)
    batch, _ = buffer.sample(1, "train", 2)
    assert len(batch.keys) == 6
    assert buffer.this_step.metrics()["sampling/dropped_no_verdict"] == 0


@pytest.mark.parametrize("mode", ["sync", "separate_async"])
def test_a_grader_that_never_comes_to_a_verdict_ends_the_run(make, mode):
    buffer, rollout = make([MIXED, MIXED] + [NONE] * 400, drop_no_verdict=True, mode=mode)
    rollout(6)
    with pytest.raises(WorkerDiedError, match=r"no verdict on the answers to 1\d of 1\d prompts \(error 2\d\)"):
        buffer.sample(1, "train", 3)


def test_some_lost_groups_end_no_run(make):
    buffer, _ = make([NONE, MIXED, MIXED] * 100, train_batch_size=20, gen_batch_size=20, drop_no_verdict=True)
    prompts, metrics = _sample(buffer, 1, 20)
    assert len(prompts) == 20
    assert metrics["sampling/dropped_no_verdict"] >= 10


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_truncated_answers_leave_their_groups_which_are_judged_by_the_rest(make, mode):
    kinds = [LONG_RIGHT, ONE_ENDED, CUT_OFF, MIXED, *[MIXED] * 20]
    buffer, rollout = make(kinds, train_batch_size=2, exclude_truncated=True, mode=mode)
    rollout(4 if mode != "sync" else 0)
    batch, _ = buffer.sample(1, "train", 2)
    metrics = buffer.this_step.metrics()
    assert _prompts(batch) == [3, 4]
    assert metrics["sampling/truncated_excluded"] == 4
    assert metrics["sampling/dropped_truncated"] == 2  # one answer is left, and none
    assert metrics["sampling/dropped_all_right"] == 1
    assert metrics["sampling/dropped_all_wrong"] == metrics["sampling/dropped_cut_off"] == 0


def test_an_answer_that_ends_at_its_limit_is_not_truncated(make):
    buffer, rollout = make([CUT_OFF, MIXED], drop_uniform=False, exclude_truncated=True)
    submit = buffer.refill_fn

    def end_all(prompts: int) -> None:
        submit(prompts)
        for info in rollout.queue.infos.values():
            info["ends"] = True

    buffer.refill_fn = end_all
    assert _sample(buffer, 1, 2)[0] == [0, 1]


def test_a_model_that_never_ends_its_answers_ends_the_step(make):
    buffer, rollout = make([CUT_OFF] * 1000, drop_uniform=False, exclude_truncated=True)
    with pytest.raises(NoGroupsError):
        buffer.sample(1, "train", 2)
    assert rollout.next <= MAX_IDLE_BATCHES * 4 + 4
    assert buffer.this_step.dropped.truncated == rollout.next
    assert "without two answers that ended" in buffer.this_step.dropped.shares()
    assert "data.max_response_length" in buffer.this_step.dropped.advice()


def test_without_surplus_every_step_is_of_its_own_policy(make):
    buffer, rollout = make([MIXED] * 40, keep_surplus=False)
    first, metrics = _sample(buffer, 1, 2)
    second, again = _sample(buffer, 2, 2)
    assert first == [0, 1] and metrics["sampling/surplus_groups"] == 2
    assert again["sampling/kept_from_before"] == 0
    assert min(second) >= rollout.submitted[0]
    left = {int(key.split("_")[0]) for key in rollout.queue.tags}
    assert left <= set(first) | set(second)


def _journal(folder, buffer, kept=0):
    buffer.journal = Journal(folder, kept, lambda uids: [f"problem {int(uid) % 3}" for uid in uids])
    return folder / FILE


def _lines(path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("mode", ["sync", "colocate_async"])
def test_the_journal_has_every_decided_group_used_or_dropped_once(make, tmp_path, mode):
    kinds = [MIXED, RIGHT, FAILED, WRONG, MIXED_AND_NONE, ONE_LEFT, LONG_RIGHT, *[MIXED] * 20]
    buffer, rollout = make(kinds, train_batch_size=2, drop_no_verdict=True, gen_batch_size=7, mode=mode)
    path = _journal(tmp_path, buffer)
    rollout(7 if mode != "sync" else 0)
    used = {step: _sample(buffer, step, 2)[0] for step in (1, 2)}
    buffer.journal.write()
    lines = _lines(path)
    by_prompt = {int(line["uid"]): line for line in lines}
    assert len(lines) == len(by_prompt)
    assert {prompt for prompt, line in by_prompt.items() if line["used"]} == {*used[1], *used[2]}
    assert all(by_prompt[prompt]["step"] == step for step in used for prompt in used[step])
    found = {prompt: (line["right"], line["of"], line["truncated"], line["used"]) for prompt, line in by_prompt.items()}
    assert found[0] == (1, 2, 0, True)
    assert found[1] == (2, 2, 0, False) and found[3] == (0, 2, 0, False)
    assert 2 not in found  # failed
    assert found[4] == (1, 2, 0, True)  # of those with a verdict
    assert found[5] == (1, 1, 0, False)
    assert found[6] == (2, 3, 1, True)
    assert by_prompt[4]["problem"] == "problem 1"


def test_the_journal_goes_on_where_the_checkpoint_was(make, tmp_path):
    buffer, _ = make([MIXED] * 40)
    path = _journal(tmp_path, buffer)
    _sample(buffer, 1, 2)
    kept = buffer.journal.write()
    whole = path.read_bytes()
    _sample(buffer, 2, 2)
    buffer.journal.write()
    assert path.stat().st_size > kept
    path.write_bytes(path.read_bytes() + b'{"step": 3, "ui')  # killed while it wrote
    again, _ = make([MIXED] * 40)
    _journal(tmp_path, again, kept)
    assert path.read_bytes() == whole
    _journal(tmp_path, again, 10**6)  # a file that somebody has cut
    assert path.read_bytes() == whole


def test_a_reward_that_does_not_say_what_is_right_has_no_journal(make, tmp_path):
    buffer, rollout = make([MIXED] * 4, drop_uniform=False)
    submit = buffer.refill_fn

    def without_accuracy(prompts: int) -> None:
        submit(prompts)
        for info in rollout.queue.infos.values():
            info.pop("acc", None)

    buffer.refill_fn = without_accuracy
    path = _journal(tmp_path, buffer)
    _sample(buffer, 1, 2)
    buffer.journal.write()
    assert path.read_text() == ""
