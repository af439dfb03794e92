"""Runs a plan: filters, starts and watches stages, hands weights over, and goes on wherever it was ended."""

from __future__ import annotations

import ctypes
import fcntl
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from verl_ext.curriculum.commands import arguments_of, command_of, doctor_of, folder_of
from verl_ext.curriculum.filtering import JOURNAL, chosen_rows
from verl_ext.curriculum.plan import EVALUATION, OFFLINE, Plan, Stage, Until
from verl_ext.curriculum.progress import checkpoints_of, plateau, steps_of
from verl_ext.curriculum.report import write_report
from verl_ext.curriculum.state import Done, State, hash_of, model_hash, require_same
from verl_ext.errors import UserError
from verl_ext.run_folder import LOCK_FILE

INTERRUPTED, WORKER_DIED = 75, 4
"""Exit codes of the trainers (`trainer.run.exits`, which needs verl to be imported)."""
POLL_S = 2.0
_PR_SET_PDEATHSIG = 1
_BATCH_KEY = "data.train_batch_size"


@dataclass
class Runner:
    """One run of a plan in a folder.

    Args:
        plan: what to do.
        run_dir: where; each stage has a folder below it.
    """

    plan: Plan
    run_dir: Path
    _asked_to_stop: bool = field(default=False, init=False)
    _process: subprocess.Popen | None = field(default=None, init=False)

    def run(self, redo_from: str | None = None) -> int:
        """Do what is not done yet; returns the exit code: 0, or that of the stage that ended otherwise.

        Raises:
            UserError: the plan cannot work, or is not the one that the folder's finished stages belong to.
        """
        state = State(self.run_dir)
        if redo_from is not None:
            self._forget_from(state, redo_from)
        model = self.plan.model
        for number, done in enumerate(state.done):
            if number >= len(self.plan.stages):
                raise UserError(f"stage {done.name!r} is finished, and the plan has no such stage any more")
            stage = self.plan.stages[number]
            require_same(done, stage.name, _settings(stage), _data(stage), model_hash(model))
            model = done.model
        self._examine(self.plan.stages[len(state.done) :], model)
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, self._stop)
        for number in range(len(state.done), len(self.plan.stages)):
            stage = self.plan.stages[number]
            code, done = self._stage(number, stage, model)
            if done is None:
                return code
            state.add(done)
            model = done.model
        write_report(self.run_dir, self.plan.stages, state.done)
        return 0

    def _forget_from(self, state: State, name: str) -> None:
        names = [stage.name for stage in self.plan.stages]
        if name not in names:
            raise UserError(f"redo_from: no stage {name!r}; there are {', '.join(names)}")
        number = names.index(name)
        state.forget_from(number)
        for position, stage in enumerate(self.plan.stages[number:], start=number + 1):
            folder = folder_of(self.run_dir, position, stage)
            if folder.exists():
                kept = next(
                    p for i in range(1, 10_000) if not (p := folder.with_name(f"{folder.name}.old{i}")).exists()
                )
                folder.rename(kept)
                print(f"stage {stage.name}: what it has done before is kept in {kept}", flush=True)

    def _examine(self, stages: Sequence[Stage], model: str) -> None:
        """Have the doctor look at every stage before the first of them starts, each with the weights that there are now.

        Raises:
            UserError: one will fail; the doctor has said why.
        """
        for stage in stages:
            missing = [file for file in stage.train if not Path(file).is_file()]
            if missing:
                raise UserError(f"stage {stage.name!r}: train: {missing[0]} not found")
            if stage.trainer == OFFLINE:
                continue
            command = doctor_of(stage, arguments_of(stage, model, stage.train, self.run_dir / "examined"))
            if (
                command
                and (ended := subprocess.run(command, capture_output=True, text=True, check=False)).returncode == 2
            ):
                print(ended.stdout, ended.stderr, sep="", file=sys.stderr, flush=True)
                raise UserError(f"stage {stage.name!r} will fail, for the reasons above; nothing was started")

    def _stage(self, number: int, stage: Stage, model: str) -> tuple[int, Done | None]:
        """One stage: (exit code, what it has done); None where it has not come to its end."""
        folder = folder_of(self.run_dir, number + 1, stage)
        folder.mkdir(parents=True, exist_ok=True)
        train = self._training_files(stage, folder)
        command = command_of(stage, arguments_of(stage, model, train, folder))
        print(f"== stage {number + 1} of {len(self.plan.stages)}: {stage.name}, in {folder}", flush=True)
        print(" ".join(command), flush=True)
        ended, left = "done", self.plan.retries
        while not (flat := plateau(folder, stage.until)):
            before = steps_of(folder)
            code, flat = self._start(command, folder, stage.until)
            if self._asked_to_stop:
                return (code or INTERRUPTED), None
            if flat or code == 0:
                break
            left = self.plan.retries if steps_of(folder) > before else left
            if code != WORKER_DIED or left == 0:
                print(f"error: stage {stage.name!r} ended with exit code {code}", file=sys.stderr, flush=True)
                return code, None
            left -= 1
            print(f"stage {stage.name}: lost a worker; the same command again ({left} tries left)", flush=True)
        if flat:
            ended = flat
            print(f"stage {stage.name}: {flat}", flush=True)
        weights = model if stage.trainer == EVALUATION else _weights_of(folder, stage)
        started_from = model_hash(model)
        fingerprint = started_from if weights == model else model_hash(weights)
        return 0, Done(stage.name, _settings(stage), _data(stage), started_from, weights, fingerprint, ended)

    def _training_files(self, stage: Stage, folder: Path) -> Sequence[str]:
        """What `keep` leaves; written once, so that a stage that goes on has the rows that it began with."""
        if stage.keep is None:
            return stage.train
        made = folder / f"train{Path(stage.train[0]).suffix}"
        if made.exists():
            return (str(made),)
        batch = stage.settings.get(_BATCH_KEY)
        journals = [folder_of(self.run_dir, n + 1, self.plan.stages[n]) / JOURNAL for n in self._measured_in(stage)]
        return (chosen_rows(stage, stage.train, journals, folder, int(batch) if batch is not None else None),)

    def _measured_in(self, stage: Stage) -> list[int]:
        """The stages whose journals tell pass rates: the one that `rates` names, and its epochs up to there.

        A problem that an epoch left out has the rate of the one before.
        """
        name, _, last = stage.rates.partition(".")
        return [
            number
            for number, other in enumerate(self.plan.stages)
            if stage.rates
            and other.name.partition(".")[0] == name
            and (not last or int(other.name.partition(".")[2]) <= int(last))
        ]

    def _start(self, command: Sequence[str], folder: Path, until: Until) -> tuple[int, str]:
        """(exit code, why it was ended on a plateau, or empty)."""
        _wait_until_free(folder)
        libc = ctypes.CDLL(None)
        # Where the runner is killed its stage is asked to stop, and saves: the next runner goes on with it.
        self._process = subprocess.Popen(
            command,
            preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM) and None,  # noqa: PLW1509 - one thread here
        )
        flat = ""
        while True:
            try:
                code = self._process.wait(POLL_S)
            except subprocess.TimeoutExpired:
                if not flat and not self._asked_to_stop and (flat := plateau(folder, until)):
                    self._process.send_signal(signal.SIGTERM)
                continue
            self._process = None
            return code, flat if code in (0, INTERRUPTED) else ""

    def _stop(self, number: int, _frame: object) -> None:
        self._asked_to_stop = True
        if self._process is not None and number == signal.SIGTERM:  # Ctrl-C reaches it by itself
            self._process.send_signal(number)


def _settings(stage: Stage) -> list[str]:
    """What makes a stage what it is, but for the paths that the runner gives."""
    chosen = {"keep": stage.keep.text if stage.keep else "", "unseen": stage.unseen, "rates": stage.rates}
    chosen |= {"trainer": stage.trainer, "processes": str(stage.processes)}
    until = {f"until.{name}": str(value) for name, value in vars(stage.until).items()}
    return [*(f"{k}={v}" for k, v in (chosen | until).items()), *arguments_of(stage, "", (), Path())]


def _data(stage: Stage) -> dict[str, str]:
    return {file: hash_of(file) for file in stage.train}


def _weights_of(folder: Path, stage: Stage) -> str:
    """The Hugging Face folder of a stage's last checkpoint; made here where the run was stopped before it wrote one.

    Raises:
        UserError: the stage has left no checkpoint.
    """
    from verl_ext.evaluation.checkpoints import model_folder_of

    checkpoints = checkpoints_of(folder)
    if not checkpoints:
        raise UserError(
            f"stage {stage.name!r}: no checkpoint in {folder}, with whose weights the next stage would begin"
        )
    whole = checkpoints[-1] / "huggingface"
    has_weights = whole.is_dir() and any(whole.glob("*.safetensors"))
    return str(whole) if has_weights else model_folder_of(str(checkpoints[-1]), folder)


def _wait_until_free(folder: Path) -> None:
    """A stage whose runner was killed may still be saving in its folder."""
    said = False
    path = folder / LOCK_FILE
    while path.exists():
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not said:
                    print(f"waiting for the run that still writes to {folder}", flush=True)
                    said = True
            else:
                return
        time.sleep(POLL_S)
