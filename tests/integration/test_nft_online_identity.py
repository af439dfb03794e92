"""An online run continues as what it was: another objective is refused, more steps are a wish of its own."""

from __future__ import annotations

import json

import pytest

from tests.support.launch import finish
from tests.support.online import logged, prepare, run_to_end, start

pytestmark = pytest.mark.timeout(600)


@pytest.mark.slow
def test_a_finished_run_goes_on_only_as_itself_and_only_longer_by_name(tmp_path):
    arguments = prepare(tmp_path)
    code, output = run_to_end([*arguments, "trainer.total_training_steps=1"], tmp_path)
    assert code == 0, output

    # refused before Ray is started: no folder for its files is given or made
    other = start([*arguments, "objective=grpo"], tmp_path / "run", tmp_path / "log", None, RAY_TMPDIR="/nowhere")
    assert finish(other) == 2
    (error,) = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error: ")]
    assert "global_step_1 belongs to another run" in error
    assert (
        "objective.name = nft there, grpo here" in error and "algorithm.adv_estimator = nft there, grpo here" in error
    )

    longer = [*arguments, "trainer.total_training_steps=2", "trainer.extend_run=True"]
    code, output = run_to_end(longer, tmp_path)
    assert code == 0, output
    assert "continuing after step 1 of 2" in output
    metrics = logged(tmp_path / "run")
    assert sorted(metrics) == [1, 2] and metrics[2]["actor/lr"] == pytest.approx(2e-4)

    state = json.loads((tmp_path / "run" / "global_step_2" / "run_state.json").read_text())["state"]
    assert state["total_steps"] == 2
