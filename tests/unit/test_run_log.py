"""What the loggers of a run are told."""

from __future__ import annotations

import os

import pytest

from verl_ext.trainer.run.log import RunLog

VARIABLES = ("WANDB_RUN_ID", "WANDB_RESUME", "TENSORBOARD_DIR")


@pytest.fixture(autouse=True)
def variables(monkeypatch):
    """None of them is set, and what a run sets is gone afterwards."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


def log_one_step(folder, loggers, run_id="abc12345"):
    trainer = {"default_local_dir": str(folder), "project_name": "p", "experiment_name": "e", "logger": loggers}
    log = RunLog({"trainer": trainer}, total_steps=1, first_step=0, active=True, headline=str, run_id=run_id)
    log.step(1, {"train/loss": 1.0})
    log.close()


def test_a_run_that_continues_goes_on_under_the_same_name_at_wandb(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    log_one_step(tmp_path / "run", ["wandb"])
    log_one_step(tmp_path / "run", ["wandb"])
    assert os.environ["WANDB_RESUME"] == "allow"
    written = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert written and {name.rpartition("-")[2] for name in written} == {"abc12345"}


def test_a_name_that_the_user_gave_is_left_alone(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    log_one_step(tmp_path, ["wandb"])
    assert os.environ["WANDB_RUN_ID"] == "mine"


@pytest.mark.parametrize("loggers", ["console", ["console"], []])
def test_without_wandb_nothing_of_it_is_touched(tmp_path, loggers):
    log_one_step(tmp_path, loggers)
    assert "WANDB_RUN_ID" not in os.environ
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 1, "train/loss": 1.0}\n'
