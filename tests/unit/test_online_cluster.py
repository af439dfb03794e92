"""What the Ray processes of a run get from their environment."""

from __future__ import annotations

import pytest

from verl_ext.trainer.online import cluster
from verl_ext.trainer.online.vocabulary import NFT_VOCABULARY
from verl_ext.trainer.run.command_line import compose_config


@pytest.mark.parametrize(
    "mode, spins", [("nft", "10000"), ("nft_colocate_async", "10000"), ("nft_separate_async", "0")]
)
def test_threads_spin_only_where_no_other_process_computes_at_that_time(mode, spins, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(cluster.os, "cpu_count", lambda: 6)
    overrides = [f"trainer.v1.trainer_mode={mode}", "trainer.n_gpus_per_node=2"]
    config = compose_config("nft_trainer", overrides, NFT_VOCABULARY)
    variables = cluster._runtime_env(config, "cpu", {})["env_vars"]
    assert (variables["OMP_WAIT_POLICY"], variables["GOMP_SPINCOUNT"]) == ("passive", spins)
    assert variables["OMP_NUM_THREADS"] == "3"


def test_the_users_variables_of_ray_win():
    config = compose_config("nft_trainer", [], NFT_VOCABULARY)
    variables = cluster._runtime_env(config, "cpu", {"env_vars": {"OMP_NUM_THREADS": "7"}})["env_vars"]
    assert variables["OMP_NUM_THREADS"] == "7"
