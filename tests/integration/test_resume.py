"""Killed anywhere, a run continues to the same numbers, digit for digit."""

from __future__ import annotations

import math
import os
import shutil
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.conftest import arithmetic_rows, write_parquet
from tests.support.launch import finish, kill, metrics, python_path, run, start, trainer_arguments, wait_until

STEPS = 12
HELD_SAVE = Path(__file__).resolve().parents[1] / "support" / "held_save"


@pytest.fixture(scope="module")
def arguments(model_folder, train_file, val_file):
    def of(folder, *more):
        return trainer_arguments(
            *(model_folder, train_file, folder, f"data.val_files={val_file}"),
            # Its old policy lasts from one save into the next, so that a checkpoint has more to keep than with DFT.
            *("objective.name=psft", "objective.steps=5", "objective.clip_high=0.02"),
            *("trainer.test_freq=4", "trainer.save_freq=2", "trainer.total_epochs=2", *more),
        )

    return of


@pytest.fixture(scope="module")
def uninterrupted(arguments, tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(arguments(folder), ranks=2, log=folder / "log.txt")
    assert metrics(folder)[-1]["step"] == STEPS
    return folder


def logged_steps(folder) -> int:
    path = folder / "metrics.jsonl"
    return path.read_text().count("train/loss") if path.exists() else 0


@pytest.mark.slow
def test_killed_in_a_save_killed_between_saves_and_stopped_a_run_comes_to_the_same_end(
    arguments, uninterrupted, tmp_path
):
    """The third save is cut off: the run continues from the second, and the remains are removed."""
    log = tmp_path / "log.txt"
    partial = tmp_path / "global_step_6.incomplete"
    held = {
        "PYTHONPATH": python_path(HELD_SAVE),
        "HELD_STEP": "6",
    }
    process = start(arguments(tmp_path), ranks=2, log=log, environment=held)
    wait_until(partial.exists, process, log)
    kill(process)
    assert partial.exists() and not (tmp_path / "global_step_6").exists()

    process = start(arguments(tmp_path), ranks=2, log=log)
    wait_until(lambda: logged_steps(tmp_path) >= 7, process, log)
    kill(process)
    assert f"continuing after step 4 of {STEPS}" in log.read_text()
    assert not partial.exists()

    process = start(arguments(tmp_path), ranks=2, log=log)  # a signal to torchrun reaches every rank
    wait_until(lambda: logged_steps(tmp_path) >= 9, process, log)
    os.kill(process.pid, signal.SIGTERM)
    finish(process)
    assert "continuing after step" in log.read_text() and "the same command continues from here" in log.read_text()

    run(arguments(tmp_path), ranks=2, log=log)
    assert metrics(tmp_path) == metrics(uninterrupted)


@pytest.mark.slow
def test_a_signal_finishes_the_step_saves_and_exits_with_75(arguments, tmp_path):
    """One process without torchrun, whose exit code is the trainer's; other ranks, other digits, hence no baseline."""
    log = tmp_path / "log.txt"
    for number, steps in ((signal.SIGTERM, 3), (signal.SIGINT, 6)):
        process = start(arguments(tmp_path, "trainer.save_freq=-1"), ranks=0, log=log)
        wait_until(lambda steps=steps: logged_steps(tmp_path) >= steps, process, log)
        os.kill(process.pid, number)
        assert finish(process) == 75
        saved = int((tmp_path / "latest_checkpointed_iteration.txt").read_text())
        assert saved >= steps and f"stopped after step {saved} by {number.name}" in log.read_text()
        assert (tmp_path / f"global_step_{saved}" / "huggingface" / "model.safetensors").exists()

    process = start(arguments(tmp_path, "trainer.save_freq=-1"), ranks=0, log=log)
    assert finish(process) == 0
    assert f"continuing after step {saved} of {STEPS}" in log.read_text()
    assert [entry["step"] for entry in metrics(tmp_path) if "train/loss" in entry] == list(range(1, STEPS + 1))


@pytest.mark.slow
def test_old_checkpoints_are_removed_and_other_data_is_refused(arguments, train_file, tmp_path):
    folder, log = tmp_path / "run", tmp_path / "log.txt"
    short = ("trainer.total_training_steps=6", "trainer.max_ckpt_to_keep=2")
    run(arguments(folder, *short), ranks=2, log=log)
    assert sorted(path.name for path in folder.glob("global_step_*")) == ["global_step_4", "global_step_6"]

    other = write_parquet(tmp_path / "other.parquet", arithmetic_rows(48, seed=9))  # as many rows
    process = start(arguments(folder, *short, f"data.train_files={other}"), ranks=2, log=log)
    assert finish(process) != 0
    assert "\ncontinuing after" not in log.read_text()
    (error,) = errors_of(log)
    assert f"data.train_files holds something else ({train_file} there, {other} here)" in error


def errors_of(log) -> list[str]:
    return [line for line in log.read_text().splitlines() if line.startswith("error: ")]


@pytest.mark.slow
def test_a_baseline_does_not_hand_back_the_model_of_another_objective(model_folder, train_file, tmp_path):
    """In the folder of a finished DFT run SFT is refused before a model is loaded; in its own it trains."""
    log, short = tmp_path / "log.txt", "trainer.total_training_steps=1"

    def start_in(folder, *more):
        arguments = trainer_arguments(model_folder, train_file, folder, short, *more)
        return start(arguments, ranks=0, log=log)

    assert finish(start_in(tmp_path / "dft")) == 0, log.read_text()
    assert finish(start_in(tmp_path / "dft", "objective.name=sft", "optim.lr=1e-2")) == 2
    (error,) = errors_of(log)
    assert "objective.name = dft there, sft here; optim.lr = 0.001 there, 0.01 here" in error
    assert "loss head" not in log.read_text()  # which the model says once it is built

    (tmp_path / "sft").mkdir()
    default = [a for a in trainer_arguments(model_folder, train_file, "", short) if "default_local_dir" not in a]
    process = start([*default, "objective.name=sft"], ranks=0, log=log, folder=tmp_path / "sft")
    assert finish(process) == 0, log.read_text()
    model = f"sft-{model_folder.name}"
    assert (tmp_path / "sft" / "checkpoints" / "verl_ext" / model / "global_step_1" / "huggingface").is_dir()


@pytest.mark.slow
def test_a_finished_run_has_nothing_to_do_and_becomes_longer_by_name_only(model_folder, train_file, tmp_path):
    log = tmp_path / "log.txt"

    def start_with(*more):
        return start(trainer_arguments(model_folder, train_file, tmp_path / "run", *more), ranks=0, log=log)

    assert finish(start_with()) == 0, log.read_text()
    assert finish(start_with()) == 0
    assert log.read_text().rstrip().splitlines()[-1] == "nothing to do: step 6 of 6"
    assert finish(start_with("trainer.total_epochs=2")) == 2
    (error,) = errors_of(log)
    assert "has 6 steps in all, this configuration gives 12; to make it longer set trainer.extend_run=True" in error

    assert finish(start_with("trainer.total_epochs=2", "trainer.extend_run=True")) == 0, log.read_text()
    rates = {entry["step"]: entry["train/lr"] for entry in metrics(tmp_path / "run")}
    warmup = 1  # a tenth of 12 steps
    of_cosine = {
        step: 1e-3 * 0.5 * (1 + math.cos(math.pi * (step - 1 - warmup) / (12 - warmup))) for step in range(7, 13)
    }
    assert {step: rates[step] for step in of_cosine} == pytest.approx(of_cosine)

    def weights(step):
        return load_file(tmp_path / "run" / f"global_step_{step}" / "huggingface" / "model.safetensors")

    before, after = weights(6), weights(12)
    assert any((before[name] - after[name]).abs().max() > 1e-4 for name in before)


@pytest.mark.slow
def test_killed_after_the_last_save_the_weights_are_still_written(arguments, uninterrupted, tmp_path):
    """As a kill in the middle of the export leaves it: a part under the other name, the rest not there."""
    folder = tmp_path / "run"
    shutil.copytree(uninterrupted, folder)
    weights = folder / f"global_step_{STEPS}" / "huggingface" / "model.safetensors"
    written = weights.read_bytes()
    partial = weights.parent.with_name("huggingface.incomplete")
    partial.mkdir()
    weights.rename(partial / weights.name)

    run(arguments(folder), ranks=2, log=tmp_path / "log.txt")
    assert weights.read_bytes() == written
    assert not partial.exists()
