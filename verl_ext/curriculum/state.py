"""What a run of a plan has done, in `RUN/curriculum.json`, written whole after each stage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from verl_ext.errors import UserError
from verl_ext.model_folder import weights_fingerprint

STATE_FILE = "curriculum.json"


@dataclass(frozen=True)
class Done:
    """A finished stage."""

    name: str
    settings: list[str]
    """`key=value` of its command, without the paths that the runner gives, and what chose its data."""
    data: dict[str, str]
    """Training file as the plan names it -> hash of what it held."""
    started_from: str
    """Fingerprint of the weights that it began with."""
    model: str
    """Where the weights are that it ended with; for a stage that trains nothing those that it began with."""
    fingerprint: str
    """Of these."""
    ended: str
    """Why: `done`, or the plateau."""


class State:
    """The finished stages of a run, in their order.

    Raises:
        UserError: the file is there and cannot be read.
    """

    def __init__(self, run_dir: Path) -> None:
        self._path = run_dir / STATE_FILE
        self.done: list[Done] = []
        if self._path.exists():
            try:
                self.done = [Done(**entry) for entry in json.loads(self._path.read_text(encoding="utf-8"))["stages"]]
            except (ValueError, KeyError, TypeError) as error:
                raise UserError(f"{self._path}: not the state of a curriculum ({error})") from error

    def add(self, done: Done) -> None:
        """Remember a stage."""
        self.done.append(done)
        self._write()

    def forget_from(self, number: int) -> None:
        """Forget the stages from this one on, counted from 0; their folders stay where they are."""
        self.done = self.done[:number]
        self._write()

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        partial = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        partial.write_text(json.dumps({"stages": [asdict(done) for done in self.done]}, indent=1), encoding="utf-8")
        partial.replace(self._path)


def require_same(done: Done, name: str, settings: Sequence[str], data: dict[str, str], started_from: str) -> None:
    """Refuse a plan whose finished stage has become another.

    Raises:
        UserError: names the stage and what differs.
    """
    if done.name != name:
        raise UserError(f"stage {done.name!r} is finished, and the plan has {name!r} in its place; {_WAY_OUT}")
    before, now = (dict(entry.partition("=")[::2] for entry in entries) for entries in (done.settings, settings))
    differences = [
        f"{key} = {before.get(key, 'not set')} there, {now.get(key, 'not set')} here"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    differences += [f"{file} holds something else" for file in data if done.data.get(file, data[file]) != data[file]]
    if set(data) != set(done.data):
        differences.append(f"train = {', '.join(done.data)} there, {', '.join(data)} here")
    if done.started_from != started_from:
        differences.append("it began with other weights")
    if differences:
        raise UserError(f"stage {name!r} is finished and the plan has changed: {'; '.join(differences)}; {_WAY_OUT}")


_WAY_OUT = "set it back, or train from this stage on anew with redo_from=STAGE"


def hash_of(path: str) -> str:
    """Of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()[:16]


def model_hash(model: str) -> str:
    """Of a model folder's weights; a hub id stands for itself."""
    return (weights_fingerprint(Path(model)) if Path(model).is_dir() else None) or model
