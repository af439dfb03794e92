"""Checkpoints that are complete or not there: saved under another name, renamed when every rank is done.

default_local_dir/
  latest_checkpointed_iteration.txt     step of the newest complete checkpoint
  global_step_N/                        verl's shards of model, optimizer, scheduler and random state
    run_state.json                      what must match for the run to continue, and its counters
    huggingface/                        config and tokenizer; in the last checkpoint also the weights
  global_step_N.incomplete/             a save that was interrupted; removed by the next one
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch.distributed as dist
from omegaconf import DictConfig
from verl.utils.checkpoint.checkpoint_manager import get_checkpoint_tracker_filename
from verl.workers.engine import BaseEngine

from verl_ext.engine.hf_export import export_hugging_face
from verl_ext.errors import UserError
from verl_ext.run_folder import INCOMPLETE_SUFFIX

RUN_STATE_FILE = "run_state.json"


@dataclass(frozen=True)
class RunState:
    """What makes a step of one run the same step in another, such as the order of the data and the shards."""

    values: dict[str, int | bool | str | None]
    """What the user knows it by (a configuration key, in most cases) -> its value."""
    start_fingerprint: str = ""
    """Of the weights that the run began with; known once they are loaded, empty where it does not matter."""

    def require_same(self, saved: RunState, path: Path) -> None:
        """Refuse to continue a run whose data, batches or ranks have changed.

        Raises:
            UserError: names the first difference.
        """
        for key, ours in self.values.items():
            theirs = saved.values.get(key)
            if ours != theirs:
                raise UserError(
                    f"{path} was saved with {key} = {theirs}, this run has {ours}; set it back, or start afresh with "
                    "trainer.resume_mode=disable"
                )


@dataclass
class Progress:
    """Counters of a run that go on when it is continued."""

    total_tokens: int = 0
    skipped_updates: int = 0
    skipped_in_a_row: int = 0


@dataclass(frozen=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path
    step: int
    state: RunState
    progress: Progress

    @classmethod
    def read(cls, path: Path) -> Checkpoint:
        saved = json.loads((path / RUN_STATE_FILE).read_text())
        return cls(path, _step_of(path), RunState(**saved["state"]), Progress(**saved["progress"]))


def find_checkpoint(trainer: DictConfig, state: RunState) -> Checkpoint | None:
    """The checkpoint that the configuration's `trainer` group says to continue from; None for a fresh start.

    Raises:
        UserError: it is missing or incomplete, or belongs to a run with other data, batches or ranks.
    """
    if trainer.resume_mode == "disable":
        return None
    if trainer.resume_from_path is not None:
        path = Path(trainer.resume_from_path)
        if _step_of(path) is None or not (path / RUN_STATE_FILE).is_file():
            raise UserError(f"trainer.resume_from_path: {path} is not a complete checkpoint folder global_step_N")
    elif trainer.resume_mode == "resume_path":
        raise UserError("trainer.resume_from_path: not set, and trainer.resume_mode is resume_path")
    else:
        path = _newest_checkpoint(Path(trainer.default_local_dir))
    if path is None:
        return None
    checkpoint = Checkpoint.read(path)
    state.require_same(checkpoint.state, path)
    return checkpoint


def _newest_checkpoint(folder: Path) -> Path | None:
    complete = _complete_checkpoints(folder)
    tracker = Path(get_checkpoint_tracker_filename(str(folder)))
    step = int(tracker.read_text()) if tracker.is_file() else None
    return complete.get(step) or (complete[max(complete)] if complete else None)


class Checkpoints:
    """Saves and loads the checkpoints of a run; every method is called by all ranks together.

    Args:
        engine: verl's engine, initialised.
        state: of this run.
        folder: trainer.default_local_dir.
        max_to_keep: newest checkpoints to keep; None keeps all.
        hdfs_dir: where complete checkpoints are copied to, or None.
    """

    def __init__(
        self, engine: BaseEngine, state: RunState, folder: str, *, max_to_keep: int | None, hdfs_dir: str | None
    ) -> None:
        self.engine = engine
        self.state = state
        self.folder = Path(folder)
        self.max_to_keep = max_to_keep
        self.hdfs_dir = hdfs_dir
        self._first_on_node = _is_first_on_node()

    def load(self, path: Path) -> None:
        """Restore model, optimizer, scheduler and random state."""
        self.engine.load_checkpoint(str(path), del_local_after_load=False)

    def save(self, step: int, progress: Progress, *, files: Mapping[str, str] | None = None) -> Path:
        """Save after `step` steps; returns the folder of the checkpoint.

        Args:
            files: name -> text of further files that belong to the checkpoint.
        """
        final = self.folder / f"global_step_{step}"
        partial = final.with_name(final.name + INCOMPLETE_SUFFIX)
        if self._first_on_node:
            self._remove_incomplete()
        dist.barrier()
        self.engine.save_checkpoint(local_path=str(partial), global_step=step, max_ckpt_to_keep=None)
        if self._first_on_node:
            saved = {"state": asdict(self.state), "progress": asdict(progress)}
            (partial / RUN_STATE_FILE).write_text(json.dumps(saved, indent=2))
            for name, text in (files or {}).items():
                (partial / name).write_text(text)
        dist.barrier()
        if dist.get_rank() == 0:
            _put_in_place(partial, final)
        dist.barrier()
        if self._first_on_node and partial.exists():  # nodes that share no disk
            _put_in_place(partial, final)
        dist.barrier()
        if self._first_on_node:
            _write_atomically(Path(get_checkpoint_tracker_filename(str(self.folder))), str(step))
            self._prune(keep=step)
        dist.barrier()
        return final

    def copy_to_hdfs(self, path: Path) -> None:
        """Copy a complete checkpoint to `hdfs_dir`, if there is one."""
        if dist.get_rank() == 0 and self.hdfs_dir:
            from verl.utils import hdfs_io

            hdfs_io.makedirs(self.hdfs_dir, exist_ok=True)
            hdfs_io.copy(src=str(path), dst=self.hdfs_dir, dirs_exist_ok=True)
        dist.barrier()

    def has_weights(self, path: Path) -> bool:
        """Whether `add_weights` has been done for a checkpoint, to its end; rank 0's disk decides for all."""
        folder = path / "huggingface"
        partial = folder.with_name(folder.name + INCOMPLETE_SUFFIX)
        answer = [not partial.exists() and any(folder.glob("*.safetensors"))]
        dist.broadcast_object_list(answer, src=0)
        return answer[0]

    def add_weights(self, path: Path) -> None:
        """Make the `huggingface/` folder of a checkpoint a plain model that transformers and vLLM load.

        The checkpoint is complete before, so that a run that is killed meanwhile has lost nothing.
        """
        folder = path / "huggingface"
        partial = folder.with_name(folder.name + INCOMPLETE_SUFFIX)
        export_hugging_face(self.engine, partial)
        if dist.get_rank() == 0:
            for file in partial.iterdir():
                file.replace(folder / file.name)
            partial.rmdir()
        dist.barrier()

    def _remove_incomplete(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.glob(f"global_step_*{INCOMPLETE_SUFFIX}"):
            shutil.rmtree(path, ignore_errors=True)

    def _prune(self, keep: int) -> None:
        if not self.max_to_keep:
            return
        complete = _complete_checkpoints(self.folder)
        older = sorted(step for step in complete if step != keep)
        surplus = len(older) - (self.max_to_keep - 1)
        for step in older[: max(surplus, 0)]:
            shutil.rmtree(complete[step], ignore_errors=True)


def _is_first_on_node() -> bool:
    """Whether no rank before this one runs on this machine. torchrun counts ranks per node, Ray does not."""
    hosts: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(hosts, socket.gethostname())
    return hosts.index(socket.gethostname()) == dist.get_rank()


def _step_of(path: Path) -> int | None:
    found = re.fullmatch(r"global_step_(\d+)", path.name)
    return int(found[1]) if found else None


def _complete_checkpoints(folder: Path) -> dict[int, Path]:
    candidates = {_step_of(path): path for path in folder.glob("global_step_*")}
    return {step: path for step, path in candidates.items() if step is not None and (path / RUN_STATE_FILE).is_file()}


def _put_in_place(partial: Path, final: Path) -> None:
    """Rename; an older checkpoint of the same step makes room."""
    if final.exists():
        shutil.rmtree(final)
    partial.rename(final)


def _write_atomically(path: Path, text: str) -> None:
    # One name a writer: nodes that share the disk write the same text at the same time.
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
