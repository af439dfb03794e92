"""Checkpoints that are complete or not there: saved under another name, renamed when every rank is done.

default_local_dir/
  latest_checkpointed_iteration.txt     step of the newest complete checkpoint
  global_step_N/                        verl's shards of model, optimizer, scheduler and random state
    tensors_rank_R.safetensors          what else rank R needs to continue; where there is such a thing
    run_state.json                      which run it is of, and its counters
    huggingface/                        config and tokenizer; in the last checkpoint also the weights
    lora_config/                        how an adapter is scaled, in PEFT's form; with LoRA only
  global_step_N.incomplete/             a save that was interrupted; removed by the next one
"""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR
from verl.utils.checkpoint.checkpoint_manager import get_checkpoint_tracker_filename
from verl.workers.engine import BaseEngine

from verl_ext.engine.adapters import CONFIG_FOLDER, adapter_of, write_adapter_config
from verl_ext.engine.hf_export import export_hugging_face
from verl_ext.run_folder import INCOMPLETE_SUFFIX
from verl_ext.trainer.run.checkpoint_names import step_of
from verl_ext.trainer.run.identity import Identity

RUN_STATE_FILE = "run_state.json"


@dataclass(frozen=True)
class RunState:
    """Which run a checkpoint is of."""

    identity: Identity
    total_steps: int
    """Of the whole run, by which its learning rate is scheduled."""
    run_id: str
    """Under which a tracker on a server, such as W&B, goes on with the run."""
    start_fingerprint: str = ""
    """Of the weights that the run began with; known once they are loaded, empty where it does not matter."""

    @classmethod
    def from_json(cls, saved: Mapping[str, Any]) -> RunState | None:
        """None where it was written before runs had an identity."""
        if "identity" not in saved:
            return None
        return cls(**{**saved, "identity": Identity.from_json(saved["identity"])})


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
    state: RunState | None
    """None where it does not say of which run it is."""
    progress: Progress
    extended: bool = False
    """Whether the run that continues from it is longer than the one that saved it."""

    @classmethod
    def read(cls, path: Path, *, extended: bool = False) -> Checkpoint:
        saved = json.loads((path / RUN_STATE_FILE).read_text())
        return cls(path, step_of(path), RunState.from_json(saved["state"]), Progress(**saved["progress"]), extended)


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
        self._first_in_folder = _is_first_in(self.folder)

    def load(self, path: Path, *, extended: bool = False) -> None:
        """Restore model, optimizer, scheduler and random state.

        Args:
            extended: whether the run has become longer: the next step then has the learning rate that the schedule of
                the new length gives it, where the saved one would be that of the old (at its end, 0).
        """
        self.engine.load_checkpoint(str(path), del_local_after_load=False)
        if extended:
            follow_schedule(self.engine.lr_scheduler)

    def tensors(self, path: Path) -> dict[str, Tensor]:
        """What this rank gave `save` beside the engine's own; on the CPU."""
        file = _tensors_of_this_rank(path)
        return load_file(file) if file.is_file() else {}

    def save(
        self,
        step: int,
        progress: Progress,
        *,
        tensors: Mapping[str, Tensor] = MappingProxyType({}),
        files: Callable[[], Mapping[str, str]] = lambda: MappingProxyType({}),
    ) -> Path:
        """Save after `step` steps; returns the folder of the checkpoint.

        Args:
            tensors: name -> what else this rank needs to continue.
            files: gives name -> text of further files that belong to the checkpoint; called where they are written.
        """
        final = self.folder / f"global_step_{step}"
        partial = final.with_name(final.name + INCOMPLETE_SUFFIX)
        if self._first_in_folder:
            self._remove_incomplete()
        dist.barrier()
        self.engine.save_checkpoint(local_path=str(partial), global_step=step, max_ckpt_to_keep=None)
        if tensors:
            save_file({name: values.contiguous() for name, values in tensors.items()}, _tensors_of_this_rank(partial))
        if self._first_in_folder:
            saved = {"state": asdict(self.state), "progress": asdict(progress)}
            (partial / RUN_STATE_FILE).write_text(json.dumps(saved, indent=2))
            for name, text in files().items():
                (partial / name).write_text(text)
            adapter = adapter_of(self.engine.module)
            if adapter is not None:
                write_adapter_config(adapter, partial / CONFIG_FOLDER)
        dist.barrier()
        if dist.get_rank() == 0:
            _put_in_place(partial, final)
        dist.barrier()
        if self._first_in_folder and partial.exists():  # machines that share no disk
            _put_in_place(partial, final)
        dist.barrier()  # nothing older goes before every machine has the new one
        if self._first_in_folder:
            write_atomically(Path(get_checkpoint_tracker_filename(str(self.folder))), str(step))
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
        answer = [has_weights(path)]
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
        complete = complete_checkpoints(self.folder)
        older = sorted(step for step in complete if step < keep)  # later ones are another run's, and no part of this
        surplus = len(older) - (self.max_to_keep - 1)
        for step in older[: max(surplus, 0)]:
            _remove(complete[step])


def follow_schedule(scheduler: LambdaLR) -> None:
    """Set the learning rates to what the schedule gives for the step that it is at."""
    schedules = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * schedule(scheduler.last_epoch) for base, schedule in schedules]
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def has_weights(path: Path) -> bool:
    """Whether a checkpoint on this disk holds the whole model in Hugging Face form."""
    folder = path / "huggingface"
    partial = folder.with_name(folder.name + INCOMPLETE_SUFFIX)
    return not partial.exists() and any(folder.glob("*.safetensors"))


def shard_names(rank: int, ranks: int) -> list[str]:
    """The files of a rank in a checkpoint of verl's FSDP engine."""
    return [f"{kind}_world_size_{ranks}_rank_{rank}.pt" for kind in ("model", "optim", "extra_state")]


def _tensors_of_this_rank(checkpoint: Path) -> Path:
    return checkpoint / f"tensors_rank_{dist.get_rank()}.safetensors"


def _is_first_in(folder: Path) -> bool:
    """Whether no rank before this one writes to this folder of this machine. Machines may or may not share it."""
    here = (socket.gethostname(), str(folder.absolute()))
    places: list[tuple[str, str] | None] = [None] * dist.get_world_size()
    dist.all_gather_object(places, here)
    return places.index(here) == dist.get_rank()


def tracked_step(folder: Path) -> int | None:
    """The step of the newest checkpoint that a run in this folder has finished saving."""
    tracker = Path(get_checkpoint_tracker_filename(str(folder)))
    return int(tracker.read_text()) if tracker.is_file() else None


def complete_checkpoints(folder: Path) -> dict[int, Path]:
    """Step -> folder."""
    candidates = {step_of(path): path for path in folder.glob("global_step_*")}
    return {step: path for step, path in candidates.items() if step is not None and (path / RUN_STATE_FILE).is_file()}


def _put_in_place(partial: Path, final: Path) -> None:
    """Rename; an older checkpoint of the same step makes room, and is missing for no longer than a rename takes."""
    older = final.with_name(f"{final.name}.replaced{INCOMPLETE_SUFFIX}")
    if final.exists():
        final.rename(older)
    partial.rename(final)
    shutil.rmtree(older, ignore_errors=True)


def _remove(checkpoint: Path) -> None:
    """Under another name first: a run that is killed meanwhile leaves no half of a checkpoint that looks whole."""
    going = checkpoint.with_name(f"{checkpoint.name}.removed{INCOMPLETE_SUFFIX}")
    try:
        checkpoint.rename(going)
    except FileNotFoundError:  # another machine that shares the disk was first
        return
    shutil.rmtree(going, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """The file has either what it had or all of the text."""
    # One name a writer: machines that share the disk write the same text at the same time.
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    temporary.write_text(text)
    temporary.replace(path)
