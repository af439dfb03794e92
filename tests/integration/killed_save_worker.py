"""Two ranks on two disks save, and one of them is killed at one operation on its files; then both decide anew.

Prints a JSON line for each place: whom it killed, at which operation, and from which step each rank then continues.
Processes are forked from this one, which has imported everything.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import time
import traceback
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
from omegaconf import OmegaConf

from verl_ext.errors import UserError
from verl_ext.trainer.run.checkpoints import Checkpoint, Checkpoints, Progress, RunState, shard_names
from verl_ext.trainer.run.identity import Identity
from verl_ext.trainer.run.resume import agree

RANKS = 2
STEPS = 3
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir")
"""Of Python's audit events, those that change files, or may."""


class ShardWriter:
    """Writes as verl's engine does: each rank its own files, into a folder that it makes."""

    module = torch.nn.Identity()

    def save_checkpoint(self, local_path: str, **_: object) -> None:
        Path(local_path).mkdir(parents=True, exist_ok=True)
        for name in shard_names(dist.get_rank(), RANKS):
            torch.save({"step": local_path}, Path(local_path) / name)


def save_steps(rank: int, folder: Path, kill_at: int | None) -> None:
    """Save three steps and keep one; die at operation number `kill_at` on the folder."""
    count = 0

    def note(event: str, arguments: tuple) -> None:
        nonlocal count
        if event in OPERATIONS and str(arguments[0]).startswith(str(folder)):
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1

    checkpoints = Checkpoints(
        ShardWriter(), RunState(Identity(), STEPS, "id"), str(folder), max_to_keep=1, hdfs_dir=None
    )
    sys.addaudithook(note)
    for step in range(1, STEPS + 1):
        checkpoints.save(step, Progress(total_tokens=step))
    (folder.parent / f"operations{rank}").write_text(str(count))


def decide(rank: int, folder: Path) -> None:
    """Write down from which step this rank continues."""
    trainer = {"default_local_dir": str(folder), "resume_mode": "auto", "resume_from_path": None, "extend_run": False}
    try:
        resumption = agree(OmegaConf.create(trainer), Identity(), STEPS, {})
        checkpoint = resumption.checkpoint(OmegaConf.create(trainer))
        if checkpoint is not None:
            assert isinstance(checkpoint, Checkpoint) and checkpoint.progress.total_tokens == checkpoint.step
            for name in shard_names(rank, RANKS):
                assert torch.load(checkpoint.path / name)["step"].startswith(str(checkpoint.path))
        answer = 0 if checkpoint is None else checkpoint.step
    except UserError as error:
        answer = str(error)
    (folder.parent / f"decision{rank}").write_text(json.dumps(answer))


def both(workspace: Path, work) -> None:
    """Run `work(rank, folder)` in two processes with a process group; waits until both are done or dead.

    Neither ends before the other is done: a rank that leaves can break the other's last collective.
    """
    shutil.rmtree(workspace / "store", ignore_errors=True)
    (workspace / "store").mkdir()
    children = {}
    for rank in range(RANKS):
        children[rank] = os.fork()
        if children[rank] == 0:
            _work_and_wait(workspace, rank, work)
    while children:
        time.sleep(0.005)
        for rank, child in list(children.items()):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                assert os.WIFSIGNALED(status), f"rank {rank} failed"
                del children[rank]
        if all((workspace / "store" / f"done{rank}").exists() for rank in children):
            for child in children.values():
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
            return


def _work_and_wait(workspace: Path, rank: int, work) -> None:
    try:
        store = dist.FileStore(str(workspace / "store" / "file"), RANKS)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=RANKS, timeout=timedelta(seconds=60))
        try:
            work(rank, workspace / f"disk{rank}")
        except RuntimeError as error:  # as where the other rank has died
            print(f"rank {rank}: {error}", file=sys.stderr, flush=True)
        (workspace / "store" / f"done{rank}").touch()
        signal.pause()
    finally:  # of an error; else the process is ended while it waits
        traceback.print_exc()
        os._exit(1)


def main(workspace: Path) -> None:
    def trial(victim: int | None, operation: int | None) -> None:
        for rank in range(RANKS):
            shutil.rmtree(workspace / f"disk{rank}", ignore_errors=True)
        both(workspace, lambda rank, folder: save_steps(rank, folder, operation if rank == victim else None))
        both(workspace, decide)

    trial(None, None)
    operations = [int((workspace / f"operations{rank}").read_text()) for rank in range(RANKS)]
    for victim in range(RANKS):
        for operation in range(operations[victim]):
            for rank in range(RANKS):
                (workspace / f"decision{rank}").unlink()
            trial(victim, operation)
            decisions = [json.loads((workspace / f"decision{rank}").read_text()) for rank in range(RANKS)]
            print(json.dumps({"victim": victim, "operation": operation, "decisions": decisions}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
