"""What a run continues from: one process decides, from what all of them hold on their own disks.

Machines need not share a disk, and a run can be killed anywhere in a save: then one machine may hold a checkpoint that
another has not put in place yet. So every process says which checkpoints it holds, complete and with its own shards;
rank 0 (online: the driver) chooses the newest that everybody holds, and compares it with the run that was asked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from omegaconf import DictConfig

from verl_ext.errors import UserError
from verl_ext.trainer.run.checkpoint_names import check_path, step_of
from verl_ext.trainer.run.checkpoints import (
    RUN_STATE_FILE,
    Checkpoint,
    RunState,
    complete_checkpoints,
    has_weights,
    shard_names,
    tracked_step,
    write_atomically,
)
from verl_ext.trainer.run.identity import Identity

RUN_FILE = "run_identity.json"
"""In the run's folder from its start on: what run it is, also before the first checkpoint."""


@dataclass(frozen=True)
class Holding:
    """What one process finds of a run's checkpoints on its own disk."""

    who: str
    """The process and its machine, for messages."""
    digests: dict[int, str]
    """Step of each complete checkpoint -> hash of its `run_state.json`."""
    without: dict[int, str]
    """Step -> the first of this process's own files that is not there."""
    order: list[int]
    """The same steps, the one to prefer first."""
    tracked: int | None
    """The newest step whose save has ended on every machine, as this one noted then."""


@dataclass(frozen=True)
class Resumption:
    """What a run begins with; the same on every rank, but for the place of the checkpoint."""

    state: RunState
    step: int
    """After which it continues; 0 for a fresh start."""
    extended: bool
    """Whether it is to be longer than it was: then the schedule is that of the new length."""
    finished: bool
    """Whether there is nothing left to do, and the trained model has been written."""
    notes: tuple[str, ...]
    """What the user should know."""

    def checkpoint(self, trainer: DictConfig) -> Checkpoint | None:
        """On this machine's disk; None for a fresh start."""
        if self.step == 0:
            return None
        return Checkpoint.read(_folder_of(trainer, self.step), extended=self.extended)


def look(trainer: DictConfig, who: str, own_files: Sequence[str] = ()) -> Holding:
    """Find the checkpoints that the configuration's `trainer` group may mean, on this machine.

    Args:
        who: this process, for messages.
        own_files: that a checkpoint must have for it.

    Raises:
        UserError: `trainer.resume_from_path` cannot be what is meant.
    """
    check_path(trainer)
    named = trainer.resume_from_path
    if trainer.resume_mode == "disable":
        return Holding(who, {}, {}, [], None)
    if named is not None:
        path = Path(named)
        found = {step_of(path): path} if (path / RUN_STATE_FILE).is_file() else {}
    else:
        found = complete_checkpoints(Path(trainer.default_local_dir))
    digests = {step: hashlib.sha256((path / RUN_STATE_FILE).read_bytes()).hexdigest() for step, path in found.items()}
    without = {
        step: next((name for name in own_files if not (path / name).is_file()), "") for step, path in found.items()
    }
    tracked = tracked_step(Path(trainer.default_local_dir))
    # Steps above the tracked one are of a run before, whose folder this one took over, or of a save that was cut off.
    order = sorted(found, reverse=True, key=lambda step: (tracked is None or step <= tracked, step))
    return Holding(who, digests, {step: name for step, name in without.items() if name}, order, tracked)


def decide(
    trainer: DictConfig,
    asked: Identity,
    total_steps: int | None,
    holdings: Sequence[Holding],
    defaults: Mapping[str, Any],
) -> Resumption:
    """Choose what to continue from.

    Args:
        trainer: the configuration's group.
        asked: the run that the configuration is.
        total_steps: of the whole run; None while it is not known yet, and then not compared.
        holdings: of every process, the one that decides first.
        defaults: of the configuration, see `Identity.differences`.

    Raises:
        UserError: it belongs to another run, is not on every machine, or is of a run of another length.
    """
    own, *others = holdings
    if not own.order:
        _require_fresh(trainer, own, others)
        return _fresh_start(trainer, asked, total_steps)
    lacking: list[str] = []
    for step in own.order:
        path = _folder_of(trainer, step)
        saved = Checkpoint.read(path)
        notes = _require_same(trainer, asked, saved, defaults)
        extended = total_steps is not None and _is_extended(trainer, saved, total_steps)
        problems = [problem for holding in holdings if (problem := _lack(holding, own, step))]
        if not problems:
            break
        lacking += problems
    else:
        if trainer.resume_from_path is None and all(holding.tracked is None for holding in holdings):
            return _fresh_start(trainer, asked, total_steps, f"{lacking[0]}; no save had ended, so starting anew")
        raise UserError(
            f"{_folder_of(trainer, own.order[0])}, from which {own.who} would continue, is not whole on every machine: "
            f"{lacking[0]}; copy it there, or start afresh with trainer.resume_mode=disable"
        )
    if lacking:
        notes += (f"{lacking[0]}; continuing from the newest checkpoint that every rank holds",)
    if extended:
        notes += (f"longer than it was: the learning rate follows the schedule of {total_steps} steps from here on",)
    state = RunState(asked, total_steps or 0, saved.state.run_id if saved.state else secrets.token_hex(4))
    if saved.state is not None:
        state = replace(state, start_fingerprint=saved.state.start_fingerprint)
    finished = total_steps is not None and step >= total_steps and has_weights(path)
    return Resumption(state, step, extended, finished, notes)


def _fresh_start(trainer: DictConfig, asked: Identity, total_steps: int | None, *notes: str) -> Resumption:
    run_id, more = _started_before(trainer, asked)
    run_id = run_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
    return Resumption(RunState(asked, total_steps or 0, run_id), 0, False, False, (*notes, *more))


def agree(trainer: DictConfig, asked: Identity, total_steps: int, defaults: Mapping[str, Any]) -> Resumption:
    """`decide` by rank 0 for all ranks; every rank calls it, after the process group has formed.

    Raises:
        UserError: on every rank, where rank 0 finds no checkpoint that all can continue from, or a rank that was
            started with other input.
    """
    rank, ranks = dist.get_rank(), dist.get_world_size()
    holding = look(trainer, f"rank {rank} on {socket.gethostname()}", shard_names(rank, ranks))
    gathered: list[Any] = [None] * ranks
    dist.all_gather_object(gathered, (holding, asked))
    answer: list[Resumption | UserError | None] = [None]
    if rank == 0:
        try:
            _require_same_input(gathered)
            answer = [decide(trainer, asked, total_steps, [held for held, _ in gathered], defaults)]
        except UserError as error:
            answer = [UserError(str(error))]
    dist.broadcast_object_list(answer, src=0)
    if isinstance(answer[0], UserError):
        raise answer[0]
    return answer[0]


def nothing_to_do(step: int, total_steps: int) -> str:
    """The last line of a run that was complete when it started."""
    return f"nothing to do: step {step} of {total_steps}"


def open_run_folder(trainer: DictConfig, state: RunState) -> None:
    """Write down which run the folder is from now on; the process that decides does."""
    folder = Path(trainer.default_local_dir)
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / RUN_FILE, json.dumps(asdict(state), indent=2))


def _folder_of(trainer: DictConfig, step: int) -> Path:
    if trainer.resume_from_path is not None:
        return Path(trainer.resume_from_path)
    return Path(trainer.default_local_dir) / f"global_step_{step}"


def _require_fresh(trainer: DictConfig, own: Holding, others: Iterable[Holding]) -> None:
    """Nothing to continue from here must mean nothing anywhere: else a lost disk would quietly start a run anew."""
    if trainer.resume_mode == "disable":
        return
    if trainer.resume_from_path is not None:
        raise UserError(
            f"trainer.resume_from_path: {trainer.resume_from_path} is not a complete checkpoint folder on {own.who}"
        )
    for other in others:
        if other.order:
            raise UserError(
                f"{trainer.default_local_dir}: {other.who} holds global_step_{other.order[0]}, and {own.who}, which "
                "decides, holds no checkpoint; copy it there, or start afresh with trainer.resume_mode=disable"
            )


def _require_same(trainer: DictConfig, asked: Identity, saved: Checkpoint, defaults: Mapping[str, Any]) -> tuple:
    """Notes on what has changed in a harmless way.

    Raises:
        UserError: the checkpoint is of another run, or does not say of which.
    """
    if saved.state is None:
        if trainer.resume_from_path is not None:
            return (f"{saved.path} does not say of which run it is; continuing because it was named",)
        raise UserError(
            f"{saved.path} does not say of which run it is (it was saved by an older verl_ext), so it cannot be "
            f"compared with this one; to continue from it all the same, name it: trainer.resume_from_path={saved.path}"
        )
    differences = asked.differences(saved.state.identity, defaults)
    if differences:
        raise UserError(
            f"{saved.path} belongs to another run: {'; '.join(differences)}; set that back, or start afresh with "
            "trainer.resume_mode=disable and another trainer.default_local_dir"
        )
    rounding = asked.rounding_differences(saved.state.identity, defaults)
    if not rounding:
        return ()
    return (f"changed since {saved.path}, so that numbers differ by their rounding: {'; '.join(rounding)}",)


def _is_extended(trainer: DictConfig, saved: Checkpoint, total_steps: int) -> bool:
    """Whether a longer run is asked for, and by name.

    Raises:
        UserError: the length differs, and was not meant to or cannot.
    """
    before = total_steps if saved.state is None else saved.state.total_steps
    if total_steps == before:
        return False
    what = f"trainer.total_epochs, trainer.total_training_steps: the run in {saved.path} has {before} steps in all"
    if total_steps < before:
        raise UserError(f"{what}, this configuration gives {total_steps}: a run cannot become shorter; set it back")
    if not trainer.extend_run:
        raise UserError(
            f"{what}, this configuration gives {total_steps}; to make it longer set trainer.extend_run=True (the "
            f"learning rate then follows the schedule of {total_steps} steps), or set it back"
        )
    return True


def _lack(holding: Holding, own: Holding, step: int) -> str | None:
    """What a process lacks of a checkpoint of the one that decides."""
    if step not in holding.digests:
        return f"{holding.who} has no complete global_step_{step}"
    if holding.digests[step] != own.digests[step]:
        return f"{holding.who} has another global_step_{step}"
    if step in holding.without:
        return f"{holding.who} has no {holding.without[step]} in global_step_{step}"
    return None


def _require_same_input(gathered: Sequence[tuple[Holding, Identity]]) -> None:
    (own, ours), *others = gathered
    for other, theirs in others:
        differences = ours.differences(theirs, {})
        if differences:
            raise UserError(
                f"{other.who} and {own.who} were not started alike: {'; '.join(differences)} ('there' is {other.who})"
            )


def _started_before(trainer: DictConfig, asked: Identity) -> tuple[str | None, tuple[str, ...]]:
    """The name of a run that was started here and ended before its first checkpoint, where it is the same; and notes.

    Nothing of another one is continued, so it is not refused: the folder is the new run's.
    """
    file = Path(trainer.default_local_dir) / RUN_FILE
    if trainer.resume_mode == "disable" or not file.is_file():
        return None, ()
    state = RunState.from_json(json.loads(file.read_text()))
    differences = asked.differences(state.identity, {})
    if differences:
        return None, (f"{file.parent} held another run, which saved nothing ({'; '.join(differences)}); starting anew",)
    return state.run_id, ()
