"""What online training says, and how it ends, when its input or its disk fail; of workers, test_nft_online.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.support.launch import finish
from tests.support.online import custom_reward, logged, prepare, ray_folder, run_to_end, start, validations
from tests.support.tiny_model import save_tiny_model

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("parity"))


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
def test_a_model_that_is_too_weak_ends_the_run_after_three_steps_and_says_what_to_do(arguments, tmp_path):
    """The model answers with random bytes, so no answer is right and most fill their length.

    The reward function fails for some prompts, and for some of these each time.
    """
    weak = [
        f"actor_rollout_ref.model.path={save_tiny_model(tmp_path / 'random')}",
        "algorithm.filter_groups.max_num_gen_batches=1",
        "trainer.total_training_steps=10",
        "trainer.val_before_train=True",
        "trainer.save_freq=2",
    ]
    reward = custom_reward(tmp_path / "picky.py", "{'score': float(ground_truth == solution_str), 'acc': 0.0}")
    (tmp_path / "picky.py").write_text(
        (tmp_path / "picky.py").read_text().replace("    return", "    1 / (extra_info['index'] % 10)\n    return")
    )
    code, output = run_to_end([*arguments, *weak, *reward], tmp_path)
    assert code == 3, output
    assert "error: nothing to learn: 3 steps in a row (trainer.max_empty_steps=3)" in output
    assert "all wrong and cut off at the length limit" in output and "try a longer data.max_response_length" in output
    steps = logged(tmp_path / "run")
    assert sorted(steps) == [1, 2, 3]
    assert all(step["sampling/dropped_all_wrong"] > 0 for step in steps.values())
    (validation,) = validations(tmp_path / "run").values()
    assert (validation["val/failed"], validation["val/math/problems"]) == (1, 9)
    assert "1 of 10 prompts failed and are left out: 1 x ZeroDivisionError: division by zero" in output


@pytest.mark.slow
def test_a_cluster_that_is_too_small_is_said_at_once(arguments, tmp_path):
    code, output = run_to_end([*arguments, "trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=1"], tmp_path)
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
