"""Online NFT through Ray with the `hf` rollout: it learns, says what it does, and goes on after an end."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from tests.support.launch import finish, kill, python_path, wait_until
from tests.support.online import (
    RESPONSE_LENGTH,
    answers,
    logged,
    prepare,
    ray_folder,
    start,
    validations,
    workers,
)

STEPS = 20
TIMES = ("perf/", "timing_")
ROOT = Path(__file__).parents[2]
HELD_UPDATE = ROOT / "tests" / "support" / "held_update"

pytestmark = pytest.mark.timeout(1200)  # the first test of a kind pays for the whole run, others start several


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    """Of runs with two updates a step."""
    return [*prepare(tmp_path_factory.mktemp("parity")), "actor_rollout_ref.actor.ppo_mini_batch_size=4"]


@pytest.fixture(scope="module")
def whole_run(arguments, tmp_path_factory):
    """A run of 20 steps without interruption: (folder, output)."""
    folder = tmp_path_factory.mktemp("whole")
    run, log = folder / "run", folder / "log"
    more = [f"trainer.total_training_steps={STEPS}", "trainer.val_before_train=True"]
    with ray_folder() as ray:
        process = start([*arguments, *more], run, log, ray)
        assert finish(process) == 0, log.read_text()
    return run, log.read_text()


@pytest.mark.slow
def test_accuracy_rises(whole_run):
    measured = validations(whole_run[0])
    before, after = measured[0]["val/math/avg@8"], measured[STEPS]["val/math/avg@8"]
    assert before < 0.75
    assert after > before + 0.1, (before, after)
    assert {"val/math/pass@8", "val/math/maj@8"} <= measured[STEPS].keys()


@pytest.mark.slow
def test_rollout_and_actor_give_the_same_probabilities(whole_run):
    fresh = [m for m in logged(whole_run[0]).values() if not m.get("sampling/kept_from_before")]
    assert fresh
    assert max(metrics["training/rollout_probs_diff_max"] for metrics in fresh) < 1e-5


@pytest.mark.slow
def test_a_step_says_what_it_did(whole_run):
    run, output = whole_run
    metrics = logged(run)[1]
    expected = {"nft/positive_share", "nft/correct_rate_p50", "nft/positive_loss", "nft/negative_loss"}
    expected |= {"nft/clipped_share", "nft/ratio_p50", "actor/entropy", "actor/grad_norm", "reward/grader/no_answer"}
    expected |= {"sampling/generated_groups", "sampling/dropped_all_right", "sampling/dropped_all_wrong"}
    assert expected <= metrics.keys()
    assert metrics["nft/ratio_p50"] == pytest.approx(1.0, abs=0.01)  # of two updates, the second is a little off-policy
    assert any((run / "tensorboard").iterdir())
    assert "step 20: acc" in output and "Traceback" not in output


@pytest.mark.slow
def test_answers_count_as_cut_where_they_fill_their_length(whole_run):
    steps = logged(whole_run[0]).values()
    assert any(
        m["response_length/max"] < RESPONSE_LENGTH for m in steps
    )  # where verl's own would say that some are cut
    assert all((m["response_length/clip_ratio"] > 0) == (m["response_length/max"] == RESPONSE_LENGTH) for m in steps)


@pytest.mark.slow
def test_generations_can_be_read_and_hold_whole_groups(whole_run):
    for step in (1, STEPS):
        rows = answers(whole_run[0], step)
        assert len(rows) == 64
        for uid in {row["uid"] for row in rows}:
            group = [row for row in rows if row["uid"] == uid]
            rate = sum(row["acc"] for row in group) / 8
            assert 0 < rate < 1
            assert all(row["advantage"] == pytest.approx(row["acc"] - rate) for row in group)
            for row in group:
                is_right = row["response"] == f"\\boxed{{{row['ground_truth']}}}"
                assert row["acc"] == is_right if step == 1 else row["acc"] >= is_right  # it learns to say it otherwise


@pytest.mark.slow
def test_no_group_is_trained_twice(whole_run):
    trained = [uid for step in range(1, STEPS + 1) for uid in {row["uid"] for row in answers(whole_run[0], step)}]
    assert len(trained) == len(set(trained)) == 8 * STEPS


@pytest.mark.slow
def test_the_trained_model_is_a_plain_hugging_face_folder(whole_run):
    model = AutoModelForCausalLM.from_pretrained(whole_run[0] / f"global_step_{STEPS}" / "huggingface")
    assert model.config.vocab_size == 259


@pytest.mark.slow
def test_a_finished_run_goes_on_only_as_itself_and_longer_by_name_until_a_server_dies(whole_run, arguments, tmp_path):
    shutil.copytree(whole_run[0], tmp_path / "run")
    same = [*arguments, f"trainer.total_training_steps={STEPS}"]

    # refused before Ray is started: no folder for its files is given or made
    other = start([*same, "objective=grpo"], tmp_path / "run", tmp_path / "log", None, RAY_TMPDIR="/nowhere")
    assert finish(other) == 2
    (error,) = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("error: ")]
    assert f"global_step_{STEPS} belongs to another run" in error
    assert (
        "objective.name = nft there, grpo here" in error and "algorithm.adv_estimator = nft there, grpo here" in error
    )

    longer = [
        *same[:-1],
        f"trainer.total_training_steps={STEPS + 50}",
        "trainer.extend_run=True",
        "trainer.save_freq=1",
    ]
    with ray_folder() as ray:
        process = start(longer, tmp_path / "run", tmp_path / "log", ray)
        wait_until(lambda: f"step {STEPS + 1}: " in (tmp_path / "log").read_text(), process, tmp_path / "log")
        (victim,) = workers(process, "HFServer")
        victim.kill()
        assert finish(process) == 4, (tmp_path / "log").read_text()
    output = (tmp_path / "log").read_text()
    assert f"continuing after step {STEPS} of {STEPS + 50}" in output and "rollout server 0 died" in output
    metrics = logged(tmp_path / "run")
    assert list(metrics)[: STEPS + 1] == list(range(1, STEPS + 2))
    assert metrics[STEPS + 1]["actor/lr"] == pytest.approx(2e-4)
    state = json.loads((tmp_path / "run" / f"global_step_{STEPS + 1}" / "run_state.json").read_text())["state"]
    assert state["total_steps"] == STEPS + 50


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed_goes_on_to_the_same_answers(whole_run, arguments, tmp_path):
    steps = [f"trainer.total_training_steps={STEPS}", "trainer.save_freq=3"]
    run, log, held = tmp_path / "run", tmp_path / "log", tmp_path / "held"

    def started(ray, **environment):
        return start([*arguments, *steps], run, log, ray, **environment)

    with ray_folder() as ray:  # while the first step's groups are generated
        process = started(ray)
        wait_until(lambda: "first weights" in log.read_text(), process, log)
        process.send_signal(signal.SIGTERM)
        assert finish(process) == 75, log.read_text()
        assert "stopped inside step 1 by SIGTERM" in log.read_text()
    sampling = json.loads((run / "global_step_0" / "sampling.json").read_text())
    assert sampling["position"] > 0 and not (run / "generations" / "1.jsonl").exists()

    with ray_folder() as ray:  # between the two mini-batches of the third step
        process = started(ray, PYTHONPATH=python_path(HELD_UPDATE, ROOT), HELD_UPDATE="5", HELD_FILE=str(held))
        wait_until(held.exists, process, log)
        process.send_signal(signal.SIGTERM)
        wait_until(lambda: "SIGTERM: stopping inside this step" in log.read_text(), process, log)
        held.unlink()
        assert finish(process) == 75, log.read_text()
        assert "stopped inside step 3 by SIGTERM" in log.read_text()
    assert json.loads((run / "global_step_2" / "open_update.json").read_text())["mini_batches_done"] == 1

    with ray_folder() as ray:
        process = started(ray)
        wait_until(lambda: (run / "generations" / "7.jsonl").exists(), process, log)
        kill(process)
        assert f"continuing after step 2 of {STEPS}" in log.read_text()
    with ray_folder() as ray:
        process = started(ray)
        wait_until(lambda: (run / "generations" / "10.jsonl").exists(), process, log)
        (victim,) = workers(process, "RewardLoopWorker")
        victim.kill()
        assert finish(process) == 4, log.read_text()
        assert "reward worker 0 died" in log.read_text()
    for step in range(1, 11):
        assert answers(run, step) == answers(whole_run[0], step), step
    # What was measured before the stop is there too; times are those of the run that finished the step.
    whole, found = ({k: v for k, v in logged(r)[3].items() if not k.startswith(TIMES)} for r in (whole_run[0], run))
    assert found.keys() == whole.keys()
    same = [name for name in whole if name.startswith(("sampling/", "reward/acc", "training/"))]
    # Log-probs of generation hang, in their last digit, on which requests a server had in hand together.
    rounded = {name for name in same if name.startswith("training/rollout_")}
    assert {name: found[name] for name in same if name not in rounded} == {
        name: whole[name] for name in same if name not in rounded
    }
    assert {name: found[name] for name in rounded} == pytest.approx({name: whole[name] for name in rounded}, rel=1e-4)
