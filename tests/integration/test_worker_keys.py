"""Keys of the trainer's environment reach workers on a cluster that runs already, and no log, folder or metadata."""

from __future__ import annotations

import json
import os
import secrets

import pytest
import ray
from ray.experimental import internal_kv

from tests.support.launch import python_path
from tests.support.rollout_cluster import REPOSITORY, ray_nodes
from verl_ext.errors import UserError
from verl_ext.trainer.online.cluster import ray_cluster
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.online.worker_keys import WorkerKeys
from verl_ext.trainer.run.command_line import compose_config

pytestmark = pytest.mark.timeout(120)


class Worker:
    def variable(self, name: str) -> str | None:
        return os.environ.get(name)


@pytest.fixture
def cluster(monkeypatch):
    """Address and folder of a cluster that was started without the keys."""
    for name in ("HF_TOKEN", "OPENAI_API_KEY", "PROOF_JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PYTHONPATH", python_path(REPOSITORY))
    with ray_nodes(1) as nodes:
        yield nodes


@pytest.mark.slow
def test_workers_have_the_keys_and_nothing_that_is_written_does(cluster, monkeypatch):
    address, folder = cluster
    values = {name: secrets.token_hex(20) for name in ("HF_TOKEN", "PROOF_JUDGE_KEY")}
    for name, value in values.items():
        monkeypatch.setenv(name, value)
    config = compose_config(
        "nft_trainer",
        [f"ray_kwargs.ray_init.address={address}", "+reward.reward_kwargs.judge.api_key_env=PROOF_JUDGE_KEY"],
        NFT_VOCABULARY,
    )
    config.transfer_queue.backend.SimpleStorage.num_data_storage_units = 1
    with ray_cluster(config, "cpu"):
        worker = ray.remote(Worker).remote()
        own = ray.remote(Worker).options(runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}}).remote()
        for name, value in values.items():
            assert ray.get([w.variable.remote(name) for w in (worker, own)]) == [value, value]
        assert ray.get(worker.variable.remote("OPENAI_API_KEY")) is None
        said = json.dumps(ray.get_runtime_context().runtime_env, default=str)
        assert "VERL_EXT_WORKER_KEYS" in said
        (stored,) = internal_kv._internal_kv_list("verl_ext_keys_")
    written = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    assert any(path.name.startswith("raylet") for path in written)
    texts = [said, *(path.read_text(errors="replace") for path in written)]
    assert not [value for value in values.values() if any(value in text for text in texts)]
    ray.init(address=address)
    assert internal_kv._internal_kv_get(stored) is None


def test_a_second_setup_hook_is_refused(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "x")
    with pytest.raises(UserError, match="worker_process_setup_hook: there can be one only"):
        WorkerKeys(["HF_TOKEN"]).with_hook({"worker_process_setup_hook": "mine.hook"})
