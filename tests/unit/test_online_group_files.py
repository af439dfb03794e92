"""Groups that wait for an update survive in a checkpoint to the last bit."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from tensordict import TensorDict
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1 import replay_buffer  # noqa: F401  registers the modes, which import what is tested here
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_ext.trainer.online import group_files
from verl_ext.trainer.online.stopping import ROWS_FILE, UPDATE_FILE, OpenUpdate


class Queue:
    """TransferQueue in memory, as far as groups are read and written."""

    def __init__(self) -> None:
        self.rows: dict[str, dict] = {}
        self.tags: dict[str, dict] = {}

    def kv_list(self, partition_id):
        return {partition_id: dict(self.tags)}

    def kv_batch_put(self, keys, partition_id, tags, fields=None):
        self.tags.update(zip(keys, tags, strict=True))
        if fields is not None:
            self.rows.update({key: fields[i] for i, key in enumerate(keys)})

    def kv_batch_get(self, keys, partition_id):
        return [self.rows[key] for key in keys]


def _answer(session: int) -> dict:
    generator = torch.Generator().manual_seed(session)
    length = 3 + session
    return {
        "prompts": torch.tensor([5, 6]),
        "responses": torch.arange(length),
        "rollout_log_probs": -torch.rand(length, generator=generator),
        "rm_scores": torch.zeros(length),
        "raw_prompt": [{"role": "user", "content": "Wieviel ist ½ · 4?"}],
        "reward_model": {"ground_truth": "2", "style": "rule"},
        "extra_fields": {"reward_extra_info": {"acc": 1.0, "grade_seconds": np.float64(0.1)}},
        "index": 7,
    }


@pytest.fixture
def queue(monkeypatch):
    queue = Queue()
    monkeypatch.setattr(group_files, "tq", queue)
    return queue


def test_groups_come_back_as_they_were(queue):
    answers = [_answer(session) for session in range(2)]
    keys = ["0000000004_0_0", "0000000004_1_0"]
    tags = [{"status": "success", "seq_len": 5, "global_steps": 3}] * 2
    queue.kv_batch_put(keys, "train", tags, list_of_dict_to_tensordict(answers))
    queue.tags["0000000004"] = {"is_prompt": True, "status": "finished", "global_steps": 3}
    queue.tags["0000000005"] = {"is_prompt": True, "status": "running", "global_steps": 3}
    assert group_files.waiting_groups() == (["0000000004"], ["0000000005"])
    lines = list(group_files.get_groups(["0000000004"]))
    assert all(json.loads(line) for line in lines) and len(lines) == 2

    queue.rows.clear()
    queue.tags.clear()
    assert group_files.put_groups(lines) == 1
    assert queue.tags["0000000004"] == {"is_prompt": True, "status": "finished", "global_steps": 3}
    for key, before in zip(keys, answers, strict=True):
        after = queue.rows[key]
        for name in ("prompts", "responses", "rollout_log_probs", "rm_scores"):
            assert torch.equal(after[name], before[name])
            assert after[name].dtype == before[name].dtype
        assert after["raw_prompt"] == before["raw_prompt"]
        assert after["extra_fields"]["reward_extra_info"]["acc"] == 1.0


def test_a_prompt_that_failed_is_generated_again(queue):
    queue.tags["0000000003"] = {"is_prompt": True, "status": "failure", "global_steps": 3}
    assert group_files.waiting_groups() == ([], ["0000000003"])


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16, torch.bool])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3)])
def test_tensors_come_back_whatever_their_dtype_and_shape(queue, dtype, shape):
    tensor = (torch.rand(shape) * 9).to(dtype)
    encoded = json.loads(json.dumps(group_files._encode(TensorDict({"x": tensor}))))
    decoded = group_files._decode(encoded)["x"]
    assert torch.equal(decoded, tensor) and decoded.dtype == dtype and decoded.shape == shape


def test_groups_of_checkpoints_with_plain_numbers_are_read(queue):
    line = {
        "key": "0000000004_0_0",
        "tag": {"status": "success", "global_steps": 3},
        "tensors": {"responses": {"dtype": "int64", "values": [5, 6, 7]}},
        "values": {"index": 7},
    }
    assert group_files.put_groups([json.dumps(line)]) == 1
    assert queue.rows["0000000004_0_0"]["responses"].tolist() == [5, 6, 7]


def test_the_rows_of_an_update_come_back_in_their_order_and_as_no_group_that_waits(queue):
    keys = ["0000000004_1_0", "pad7_0_0", "0000000004_0_0"]
    tags = [{"status": "success", "seq_len": 5, "is_padding": key.startswith("pad")} for key in keys]
    queue.kv_batch_put(keys, "train", tags, list_of_dict_to_tensordict([_answer(session) for session in range(3)]))
    metrics = {"reward/acc": 0.5, "actor/grad_norm": np.float32(0.25), "name": "x"}
    batch = KVBatchMeta(keys=keys, tags=tags, partition_id="train", extra_info={"temperature": 1.0})
    files = OpenUpdate.of(batch, 3, metrics).files()

    queue.rows.clear()
    queue.tags.clear()
    update = OpenUpdate.restore(files[UPDATE_FILE], files[ROWS_FILE])
    assert update.batch().keys == keys and update.batch().tags == tags
    assert (update.mini_batches_done, update.metrics) == (3, {"reward/acc": 0.5, "actor/grad_norm": 0.25})
    assert [queue.rows[key]["responses"].tolist() for key in keys] == [list(range(3 + n)) for n in range(3)]
    assert group_files.waiting_groups() == ([], [])


def test_metrics_of_an_update_in_two_parts_are_those_of_the_whole():
    metrics = {"reward/acc": 0.5, "actor/pg_loss": 1.0, "actor/grad_norm": float("nan"), "actor/entropy_max": 3.0}
    update = OpenUpdate.of(KVBatchMeta(keys=[], tags=[], partition_id="train"), 1, metrics)
    rest = {"actor/pg_loss": 5.0, "actor/grad_norm": 1.0, "actor/entropy_max": 2.0, "actor/lr": 0.1}
    whole = update.metrics_with(rest, 4)
    assert math.isnan(whole.pop("actor/grad_norm"))  # a step that was skipped in part is seen
    assert whole == {"reward/acc": 0.5, "actor/pg_loss": 4.0, "actor/entropy_max": 3.0, "actor/lr": 0.1}


def test_no_groups_are_no_lines(queue):
    assert list(group_files.get_groups([])) == []
    assert group_files.put_groups([]) == 0
