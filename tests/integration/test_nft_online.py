"""Online NFT through Ray with the `hf` rollout: it learns, and goes on after every kind of end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest
from transformers import AutoModelForCausalLM

from tests.support.launch import finish, kill, wait_until
from tests.support.online import answers, logged, prepare, ray_folder, start, validations, workers

STEPS = 20

pytestmark = pytest.mark.timeout(1200)  # the first test of a kind pays for the whole run, others start several


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("parity"))


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


def _run(arguments, folder, *more) -> tuple[int, str]:
    with ray_folder() as ray:
        process = start([*arguments, *more], folder / "run", folder / "log", ray)
        code = finish(process)
    return code, (folder / "log").read_text()


def _custom_reward(path, expression: str) -> list[str]:
    """Arguments of a reward function of the user's own."""
    path.write_text(
        f"def compute_score(data_source, solution_str, ground_truth, extra_info=None):\n    return {expression}\n"
    )
    return [
        "reward.reward_manager.name=naive",
        f"reward.custom_reward_function.path={path}",
        "reward.custom_reward_function.name=compute_score",
    ]


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
    assert metrics["nft/ratio_p50"] == pytest.approx(1.0, abs=1e-6)
    assert any((run / "tensorboard").iterdir())
    assert "step 20: acc" in output and "Traceback" not in output


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
            assert all(row["acc"] == (row["response"] == f"\\boxed{{{row['ground_truth']}}}") for row in group)


@pytest.mark.slow
def test_no_group_is_trained_twice(whole_run):
    trained = [uid for step in range(1, STEPS + 1) for uid in {row["uid"] for row in answers(whole_run[0], step)}]
    assert len(trained) == len(set(trained)) == 8 * STEPS


@pytest.mark.slow
def test_the_trained_model_is_a_plain_hugging_face_folder(whole_run):
    model = AutoModelForCausalLM.from_pretrained(whole_run[0] / f"global_step_{STEPS}" / "huggingface")
    assert model.config.vocab_size == 259


@pytest.mark.slow
def test_a_run_that_is_stopped_and_killed_goes_on_to_the_same_answers(whole_run, arguments, tmp_path):
    steps = [f"trainer.total_training_steps={STEPS}", "trainer.save_freq=3"]
    run, log = tmp_path / "run", tmp_path / "log"
    with ray_folder() as ray:
        process = start([*arguments, *steps], run, log, ray)
        wait_until(lambda: (run / "generations" / "2.jsonl").exists(), process, log)
        process.send_signal(signal.SIGTERM)
        assert finish(process) == 75, log.read_text()
        assert "stopped after step" in log.read_text()
    stopped_at = max(logged(run))
    assert (run / f"global_step_{stopped_at}" / "run_state.json").exists()
    with ray_folder() as ray:
        process = start([*arguments, *steps], run, log, ray)
        wait_until(lambda: (run / "generations" / f"{stopped_at + 5}.jsonl").exists(), process, log)
        kill(process)
        assert f"continuing after step {stopped_at} of {STEPS}" in log.read_text()
    with ray_folder() as ray:
        process = start([*arguments, *steps], run, log, ray)
        wait_until(lambda: (run / "generations" / f"{stopped_at + 8}.jsonl").exists(), process, log)
        process.send_signal(signal.SIGINT)
        assert finish(process) == 75, log.read_text()
    for step in range(1, stopped_at + 9):
        assert answers(run, step) == answers(whole_run[0], step), step


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["dapo", "grpo"])
def test_the_papers_baselines_run_from_the_same_configuration(arguments, tmp_path, objective):
    code, output = _run(arguments, tmp_path, f"objective={objective}", "trainer.total_training_steps=3")
    assert code == 0, output
    metrics = logged(tmp_path / "run")
    assert len(metrics) == 3
    assert all(entry["actor/grad_norm"] > 0 for entry in metrics.values())
    assert "nft/positive_share" not in metrics[1]


@pytest.mark.slow
def test_rft_learns_from_rewards_of_minus_one_and_one(arguments, tmp_path):
    reward = _custom_reward(tmp_path / "signed.py", "1.0 if ground_truth in solution_str else -1.0")
    code, output = _run(arguments, tmp_path, *reward, "objective=rft", "trainer.total_training_steps=3")
    assert code == 0, output
    metrics = logged(tmp_path / "run")
    assert len(metrics) == 3
    assert all(entry["actor/grad_norm"] > 0 and 0 < entry["reward/acc"] < 1 for entry in metrics.values())
    rows = answers(tmp_path / "run", 1)
    assert {row["acc"] for row in rows} == {-1.0, 1.0}
    assert all((row["advantage"] > 0) == (row["acc"] > 0) for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["nft_colocate_async", "nft_separate_async"])
def test_the_asynchronous_modes_train(arguments, tmp_path, mode):
    more = [f"trainer.v1.trainer_mode={mode}", "trainer.total_training_steps=3"]
    if mode == "nft_separate_async":
        more += [
            "actor_rollout_ref.rollout.nnodes=1",
            "actor_rollout_ref.rollout.n_gpus_per_node=1",
            "actor_rollout_ref.rollout.checkpoint_engine.backend=ray_object_store",
            "actor_rollout_ref.actor.ppo_mini_batch_size=2",
        ]
    code, output = _run(arguments, tmp_path, *more)
    assert code == 0, output
    assert len(logged(tmp_path / "run")) == 3
    saved = json.loads((tmp_path / "run" / "global_step_3" / "sampling.json").read_text())
    assert saved["position"] >= 24


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "reason"), [("HFServer", "rollout server 0 died"), ("RewardLoopWorker", "reward worker 0 died")]
)
def test_a_worker_that_dies_ends_the_run_with_the_reason(arguments, tmp_path, title, reason):
    run, log = tmp_path / "run", tmp_path / "log"
    with ray_folder() as ray:
        process = start([*arguments, "trainer.total_training_steps=500"], run, log, ray)
        wait_until(lambda: (run / "generations" / "1.jsonl").exists(), process, log)
        (victim,) = workers(process, title)
        victim.kill()
        assert finish(process) == 4, log.read_text()
    assert reason in log.read_text()


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte, which a checkpoint with optimizer does not fit on."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], check=False)
    if done.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_ends_the_run_with_the_reason(arguments, tmp_path, small_disk):
    more = ["trainer.total_training_steps=5", "trainer.save_freq=1", "trainer.logger=[console]"]
    with ray_folder() as ray:
        process = start([*arguments, *more], small_disk / "run", tmp_path / "log", ray)
        assert finish(process) == 4, (tmp_path / "log").read_text()
    output = (tmp_path / "log").read_text()
    assert f"error: cannot save step 1 in {small_disk / 'run'}: " in output
    assert not (small_disk / "run" / "global_step_1").exists()


@pytest.mark.slow
def test_rewards_that_are_no_verdicts_are_refused(arguments, tmp_path):
    reward = _custom_reward(tmp_path / "half.py", "float(ground_truth in solution_str) + 0.5 * (len(solution_str) % 2)")
    code, output = _run(arguments, tmp_path, *reward)
    assert code == 2, output
    assert "error: acc: NFT needs answers that are right or wrong: rewards must be 0 and 1, or -1 and +1" in output


@pytest.mark.slow
def test_a_cluster_that_is_too_small_is_said_at_once(arguments, tmp_path):
    code, output = _run(arguments, tmp_path, "trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=1")
    assert code == 2
    assert "the run needs 2 GPUs, each number on one machine, and the Ray cluster has" in output


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["actor_rollout_ref.rollout.n=1"], "actor_rollout_ref.rollout.n: got 1, expected 2 or more"),
        (["data.train_files=/nowhere.parquet"], "data.train_files: /nowhere.parquet not found"),
        (["actor_rollout_ref.rolout.n=4"], "unknown key actor_rollout_ref.rolout.n; did you mean"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(arguments, more, message):
    done = subprocess.run(
        [sys.executable, "-m", "verl_ext.trainer.fsdp_nft_trainer", *arguments, *more],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
