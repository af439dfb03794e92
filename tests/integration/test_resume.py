"""Killed anywhere, a run continues to the same numbers, digit for digit."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.launch import finish, kill, metrics, run, start, trainer_arguments, wait_until

STEPS = 12
HELD_SAVE = Path(__file__).resolve().parents[1] / "support" / "held_save"


@pytest.fixture(scope="module")
def arguments(model_folder, train_file, val_file):
    def of(folder, *more):
        return trainer_arguments(
            *(model_folder, train_file, folder, f"data.val_files={val_file}"),
            *("trainer.test_freq=4", "trainer.save_freq=2", "trainer.total_epochs=2", *more),
        )

    return of


@pytest.fixture(scope="module")
def uninterrupted(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(arguments(folder), ranks=2, log=folder / "log.txt")
    logged = metrics(folder)
    assert logged[-1]["step"] == STEPS
    return logged


def logged_steps(folder) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("train/loss") if path.exists() else 0


@pytest.mark.slow
def test_killed_in_the_middle_of_training(arguments, uninterrupted, tmp_path):
    log = tmp_path / "log.txt"
    process = start(arguments(tmp_path), ranks=2, log=log)
    wait_until(lambda: logged_steps(tmp_path) >= 5, process, log)
    kill(process)

    output = run(arguments(tmp_path), ranks=2, log=log)
    assert "continuing after step" in output
    assert metrics(tmp_path) == uninterrupted


@pytest.mark.slow
def test_killed_in_the_middle_of_a_save(arguments, uninterrupted, tmp_path):
    """The third save is cut off: the run continues from the second, and the remains are removed."""
    log = tmp_path / "log.txt"
    partial = tmp_path / "global_step_6.incomplete"
    held = {
        "PYTHONPATH": os.pathsep.join(filter(None, [str(HELD_SAVE), os.environ.get("PYTHONPATH")])),
        "HELD_STEP": "6",
    }
    process = start(arguments(tmp_path), ranks=2, log=log, environment=held)
    wait_until(partial.exists, process, log)
    kill(process)
    assert partial.exists() and not (tmp_path / "global_step_6").exists()

    output = run(arguments(tmp_path), ranks=2, log=log)
    assert f"continuing after step 4 of {STEPS}" in output
    assert metrics(tmp_path) == uninterrupted
    assert not partial.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_signal_finishes_the_step_saves_and_exits_with_75(arguments, uninterrupted, tmp_path, number, name):
    """One process without torchrun, whose exit code is the trainer's; other ranks, other digits, hence no baseline."""
    log = tmp_path / "log.txt"
    process = start(arguments(tmp_path, "trainer.save_freq=-1"), ranks=0, log=log)
    wait_until(lambda: logged_steps(tmp_path) >= 3, process, log)
    os.kill(process.pid, number)
    assert finish(process) == 75
    saved = int((tmp_path / "latest_checkpointed_iteration.txt").read_text())
    assert f"stopped after step {saved} by {name}" in log.read_text()
    assert (tmp_path / f"global_step_{saved}" / "huggingface" / "model.safetensors").exists()

    process = start(arguments(tmp_path, "trainer.save_freq=-1"), ranks=0, log=log)
    assert finish(process) == 0
    assert f"continuing after step {saved} of {STEPS}" in log.read_text()
    assert [entry["step"] for entry in metrics(tmp_path) if "train/loss" in entry] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_a_signal_to_torchrun_reaches_every_rank(arguments, uninterrupted, tmp_path):
    log = tmp_path / "log.txt"
    process = start(arguments(tmp_path, "trainer.save_freq=-1"), ranks=2, log=log)
    wait_until(lambda: logged_steps(tmp_path) >= 3, process, log)
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    assert "the same command continues from here" in log.read_text()

    run(arguments(tmp_path, "trainer.save_freq=-1"), ranks=2, log=log)
    assert metrics(tmp_path) == uninterrupted


@pytest.mark.slow
def test_old_checkpoints_are_removed_and_other_data_is_refused(arguments, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    run(
        arguments(folder, "trainer.total_training_steps=6", "trainer.max_ckpt_to_keep=2"),
        ranks=2,
        log=tmp_path / "log.txt",
    )
    assert sorted(path.name for path in folder.glob("global_step_*")) == ["global_step_4", "global_step_6"]

    process = start(arguments(folder, "data.train_batch_size=16"), ranks=2, log=tmp_path / "log.txt")
    assert finish(process) != 0
    errors = [line for line in (tmp_path / "log.txt").read_text().splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "was saved with data.train_batch_size = 8, this run has 16" in errors[0]


@pytest.mark.slow
def test_killed_after_the_last_save_the_weights_are_still_written(arguments, tmp_path):
    """As a kill in the middle of the export leaves it: a part under the other name, the rest not there."""
    more = ("trainer.total_training_steps=2",)
    run(arguments(tmp_path, *more), ranks=1, log=tmp_path / "log.txt")
    weights = tmp_path / "global_step_2" / "huggingface" / "model.safetensors"
    written = weights.read_bytes()
    partial = weights.parent.with_name("huggingface.incomplete")
    partial.mkdir()
    weights.rename(partial / weights.name)

    run(arguments(tmp_path, *more), ranks=1, log=tmp_path / "log.txt")
    assert weights.read_bytes() == written
    assert not partial.exists()
