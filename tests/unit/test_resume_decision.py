"""What a run continues from, where processes hold different checkpoints on disks of their own."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from omegaconf import OmegaConf
from verl.utils.torch_functional import get_cosine_schedule_with_warmup

from verl_ext.errors import UserError
from verl_ext.trainer.run.checkpoints import Progress, RunState, follow_schedule, shard_names
from verl_ext.trainer.run.identity import Identity
from verl_ext.trainer.run.resume import Resumption, decide, look, open_run_folder

RUN = Identity({"optim.lr": 1e-3, "trainer.seed": 1})
TOTAL = 12


def settings(folder, **more):
    trainer = {"default_local_dir": str(folder), "resume_mode": "auto", "resume_from_path": None, "extend_run": False}
    return OmegaConf.create({**trainer, **more})


def save(folder, step, state=None, *, ranks=2, tracked=True):
    """What a complete save leaves on the disk of a machine."""
    path = folder / f"global_step_{step}"
    path.mkdir(parents=True)
    for rank in range(ranks):
        for name in shard_names(rank, ranks):
            (path / name).touch()
    saved = {"state": asdict(state or RunState(RUN, TOTAL, "abc")), "progress": asdict(Progress(total_tokens=step))}
    (path / "run_state.json").write_text(json.dumps(saved))
    if tracked:
        (folder / "latest_checkpointed_iteration.txt").write_text(str(step))
    return path


def decided(*folders, asked=RUN, total=TOTAL, **more) -> Resumption:
    """The decision of the first of two ranks, each with a folder of its own."""
    holdings = [
        look(settings(folder, **more), f"rank {rank} on host{rank}", shard_names(rank, 2))
        for rank, folder in enumerate(folders)
    ]
    return decide(settings(folders[0], **more), asked, total, holdings, {})


@pytest.fixture
def folders(tmp_path):
    return tmp_path / "a", tmp_path / "b"


def test_nothing_saved_is_a_fresh_start(folders):
    assert decided(*folders).step == 0
    assert decided(*folders).checkpoint(settings(folders[0])) is None


def test_the_newest_that_every_rank_holds(folders):
    for folder in folders:
        save(folder, 4)
    save(folders[0], 6, tracked=False)  # the other machine was killed before it put its own in place
    (folders[1] / "global_step_6.incomplete").mkdir()
    assert decided(*folders).step == 4
    save(folders[1], 6, tracked=False)
    (folders[0] / "latest_checkpointed_iteration.txt").write_text("6")
    assert decided(*folders).step == 6


def test_a_newer_one_that_others_lack_is_said(folders):
    for folder in folders:
        save(folder, 4)
    save(folders[0], 6)
    resumption = decided(*folders)
    assert resumption.step == 4
    assert "rank 1 on host1 has no complete global_step_6" in resumption.notes[0]


@pytest.mark.parametrize("name", ["model_world_size_2_rank_1.pt", "optim_world_size_2_rank_1.pt"])
def test_a_checkpoint_without_a_shard_of_a_rank_is_not_whole(folders, name):
    for folder in folders:
        save(folder, 4)
    (folders[1] / "global_step_4" / name).unlink()
    with pytest.raises(UserError, match=f"rank 1 on host1 has no {name} in global_step_4; copy it there"):
        decided(*folders)


def test_two_machines_with_different_runs_of_the_same_step_are_told_apart(folders):
    save(folders[0], 4)
    save(folders[1], 4, RunState(RUN, TOTAL, "another run"))
    with pytest.raises(UserError, match="rank 1 on host1 has another global_step_4"):
        decided(*folders)


def test_a_lost_disk_does_not_quietly_start_anew(folders):
    save(folders[1], 4)
    with pytest.raises(
        UserError, match="rank 1 on host1 holds global_step_4, and rank 0 on host0, which decides, holds no"
    ):
        decided(*folders)
    assert decided(*folders, resume_mode="disable").step == 0


def test_a_first_save_that_was_cut_off_leaves_a_fresh_start(folders):
    """The machine of rank 0 has put its part in place, the other has not: nobody has noted the end of a save yet."""
    save(folders[0], 2, tracked=False)
    resumption = decided(*folders)
    assert resumption.step == 0
    assert "rank 1 on host1 has no complete global_step_2; no save had ended" in resumption.notes[0]


def test_a_named_checkpoint_must_be_on_every_machine(folders, tmp_path):
    path = save(tmp_path / "other", 4)
    assert (
        decided(*folders, resume_from_path=str(path)).checkpoint(settings(folders[0], resume_from_path=str(path))).path
        == path
    )
    own = look(settings(folders[0], resume_from_path=str(path)), "rank 0 on host0", shard_names(0, 2))
    away = look(settings(folders[1], resume_from_path="/nowhere/global_step_4"), "rank 1 on host1", shard_names(1, 2))
    with pytest.raises(UserError, match="rank 1 on host1 has no complete global_step_4"):
        decide(settings(folders[0], resume_from_path=str(path)), RUN, TOTAL, [own, away], {})
    with pytest.raises(UserError, match="trainer.resume_from_path: .* is not a complete checkpoint folder on rank 1"):
        decide(settings(folders[0], resume_from_path="/nowhere/global_step_4"), RUN, TOTAL, [away, own], {})


def test_another_run_is_refused_with_every_key_and_what_to_do(folders):
    save(folders[0], 4)
    other = Identity({"optim.lr": 1e-4, "trainer.seed": 2})
    with pytest.raises(UserError) as error:
        decided(*folders, asked=other)
    assert "\n" not in str(error.value)
    assert "optim.lr = 0.001 there, 0.0001 here; trainer.seed = 1 there, 2 here; set that back, or start" in str(
        error.value
    )
    assert "trainer.resume_mode=disable and another trainer.default_local_dir" in str(error.value)
    assert decided(*folders, asked=other, resume_mode="disable").step == 0


def test_a_checkpoint_from_before_runs_had_an_identity_is_continued_only_by_name(folders):
    path = save(folders[0], 4)
    saved = json.loads((path / "run_state.json").read_text())
    saved["state"] = {"values": {"data.train_batch_size": 8}, "start_fingerprint": ""}
    (path / "run_state.json").write_text(json.dumps(saved))
    with pytest.raises(UserError, match=f"cannot be compared .* trainer.resume_from_path={path}"):
        decided(folders[0])
    resumption = decided(folders[0], resume_from_path=str(path))
    assert resumption.step == 4 and "continuing because it was named" in resumption.notes[0]


def test_a_run_becomes_longer_by_name_only_and_never_shorter(folders):
    for folder in folders:
        save(folder, 4)
    with pytest.raises(UserError, match="has 12 steps in all, this configuration gives 24; .* trainer.extend_run=True"):
        decided(*folders, total=24)
    longer = decided(*folders, total=24, extend_run=True)
    assert longer.extended and longer.state.total_steps == 24
    assert "schedule of 24 steps" in longer.notes[0]
    assert not decided(*folders, extend_run=True).extended
    with pytest.raises(UserError, match="cannot become shorter"):
        decided(*folders, total=8, extend_run=True)


def test_a_longer_run_has_the_learning_rate_of_the_new_schedule_from_its_next_step_on():
    def optimizer_and_schedule(total):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(3))], lr=0.1)
        return optimizer, get_cosine_schedule_with_warmup(optimizer, 0, total)

    optimizer, schedule = optimizer_and_schedule(4)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    states = optimizer.state_dict(), schedule.state_dict()
    assert optimizer.param_groups[0]["lr"] == 0.0

    optimizer, schedule = optimizer_and_schedule(8)
    optimizer.load_state_dict(states[0])
    schedule.load_state_dict(states[1])
    assert optimizer.param_groups[0]["lr"] == 0.0  # as saved, which is why it has to be set
    follow_schedule(schedule)
    assert optimizer.param_groups[0]["lr"] == schedule.get_last_lr()[0] == pytest.approx(0.05)


def test_a_run_that_is_complete_has_nothing_left_to_do_once_its_weights_are_written(folders):
    for folder in folders:
        save(folder, TOTAL)
    assert not decided(*folders).finished
    weights = folders[0] / f"global_step_{TOTAL}" / "huggingface" / "model.safetensors"
    weights.parent.mkdir()
    weights.touch()
    assert decided(*folders).finished
    assert not decided(*folders, total=24, extend_run=True).finished


def test_checkpoints_of_a_run_before_in_the_same_folder_come_last(folders):
    """After a fresh start in a folder with other checkpoints, the tracker names the newest of this run."""
    for folder in folders:
        save(folder, 9)
        save(folder, 2)
    assert decided(*folders).step == 2


def test_the_run_of_a_tracker_is_kept_in_checkpoint_and_folder(folders, monkeypatch):
    monkeypatch.delenv("WANDB_RUN_ID", raising=False)
    fresh = decided(*folders)
    assert fresh.state.run_id != decided(*folders).state.run_id
    open_run_folder(settings(folders[0]), fresh.state)
    assert decided(*folders).state.run_id == fresh.state.run_id  # killed before its first save
    assert decided(*folders, resume_mode="disable").state.run_id != fresh.state.run_id
    save(folders[0], 4, fresh.state)
    assert decided(folders[0]).state.run_id == fresh.state.run_id


def test_a_folder_whose_run_saved_nothing_is_taken_over_and_that_is_said(folders):
    open_run_folder(settings(folders[0]), RunState(RUN, TOTAL, "abc"))
    other = decided(*folders, asked=replace(RUN, settings={"optim.lr": 7.0, "trainer.seed": 1}))
    assert other.step == 0 and other.state.run_id != "abc"
    assert "held another run, which saved nothing (optim.lr = 0.001 there, 7.0 here)" in other.notes[0]


def test_the_user_names_the_run_of_a_tracker(folders, monkeypatch):
    monkeypatch.setenv("WANDB_RUN_ID", "mine")
    assert decided(*folders).state.run_id == "mine"
