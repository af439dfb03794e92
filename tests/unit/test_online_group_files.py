"""Groups that wait for an update survive in a checkpoint to the last bit."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from verl.trainer.ppo.v1 import replay_buffer  # noqa: F401  registers the modes, which import what is tested here
from verl.utils.tensordict_utils import list_of_dict_to_tensordict

from verl_ext.trainer.online import group_files


class Queue:
    """TransferQueue in memory, as far as groups are read and written."""

    def __init__(self) -> None:
        self.rows: dict[str, dict] = {}
        self.tags: dict[str, dict] = {}

    def kv_list(self, partition_id):
        return {partition_id: self.tags}

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


def test_no_groups_are_no_lines(queue):
    assert list(group_files.get_groups([])) == []
    assert group_files.put_groups([]) == 0
