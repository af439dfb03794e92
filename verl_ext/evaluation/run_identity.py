"""Which run a folder holds: a run goes on only as what it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from verl_ext.errors import UserError
from verl_ext.evaluation.config import IDENTITY, EvaluationConfig
from verl_ext.evaluation.store import read_json, write_json
from verl_ext.model_folder import weights_fingerprint

RUN_FILE = "run.json"


@dataclass(frozen=True)
class Run:
    """What `run.json` holds."""

    identity: Mapping[str, Any]
    """The keys `config.IDENTITY`, and `weights`: a fingerprint of a local model."""
    benchmarks: Mapping[str, Mapping[str, Any]]
    """For each one that was ever asked for: `source` (as given), `problems` and `n_samples` (how many), and `fingerprint`
    (of the questions and golds)."""
    settings: Mapping[str, Any]
    """Keys that do not change what a sample is; those of the last start."""

    @property
    def samples(self) -> int:
        """How many were asked for."""
        return sum(benchmark["problems"] * benchmark["n_samples"] for benchmark in self.benchmarks.values())

    @classmethod
    def read(cls, output_dir: Path) -> Run:
        """Raises:
        UserError: the folder holds no run.
        """
        return cls(**read_json(output_dir / RUN_FILE))

    def write(self, output_dir: Path) -> None:
        """Write it; benchmarks that the folder holds and this start does not ask for stay in it."""
        before = Run.read(output_dir).benchmarks if (output_dir / RUN_FILE).exists() else {}
        write_json(output_dir / RUN_FILE, {**asdict(self), "benchmarks": {**before, **self.benchmarks}})

    def digest(self) -> str:
        """A hash of what makes its samples what they are."""
        return hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()[:16]


def run_of(config: EvaluationConfig, model_path: str, benchmarks: Mapping[str, Mapping[str, Any]]) -> Run:
    """The run that a configuration asks for.

    Args:
        model_path: where the weights are, which `config.model` need not be (a checkpoint).
        benchmarks: as in `Run`.
    """
    values = asdict(config)
    identity = {name: values[name] for name in IDENTITY}
    identity["weights"] = weights_fingerprint(Path(model_path)) if config.engine != "openai" else None
    settings = {name: value for name, value in values.items() if name not in identity}
    return Run(identity, benchmarks, settings)


def require_same_run(asked: Run, output_dir: Path) -> None:
    """Refuse to go on with the samples of another run.

    More samples, problems or benchmarks are no other run: each sample depends on nothing but what is compared here.

    Raises:
        UserError: names every difference.
    """
    if not (output_dir / RUN_FILE).exists():
        return
    found = Run.read(output_dir)
    differences = [
        f"{name} is {found.identity.get(name)!r} there and {value!r} here"
        for name, value in asked.identity.items()
        if found.identity.get(name, _default(name)) != value and not _moved(name, asked, found)
    ]
    for name, benchmark in asked.benchmarks.items():
        before = found.benchmarks.get(name)
        if before and before["fingerprint"] != benchmark["fingerprint"]:
            differences.append(
                f"the problems of {name} are others ({before['source']} there, {benchmark['source']} here)"
            )
    if differences:
        raise UserError(f"output_dir: {output_dir} holds another run: {'; '.join(differences)}; choose another folder")


def _default(name: str) -> Any:
    """Of a key that the folder does not know, because it was made before the key was."""
    return next((each.default for each in fields(EvaluationConfig) if each.name == name), None)


def _moved(name: str, asked: Run, found: Run) -> bool:
    """The same weights under another path are the same model."""
    return (
        name == "model"
        and asked.identity["weights"] is not None
        and (asked.identity["weights"] == found.identity.get("weights"))
    )
