"""The plan of a curriculum: a YAML file, read and checked before anything starts.

model: FOLDER                       # a Hugging Face folder or hub id
set: {objective: acereason}         # keys of every stage of training online
stages:
  - name: math-8k
    train: data/math/train.parquet
    keep: "extra_info.tokens < 4000"
    set: {data.max_response_length: 8192}
    until: {steps: 400}
  - name: math-24k
    train: data/math/train.parquet
    keep: "pass_rate <= 6/16"       # as often as the stage before solved it
    set: {data.max_response_length: 24576}
    until: {plateau: val/aime24/avg@8, patience: 5, at_most: 800}
  - name: code
    train: data/code/train.parquet
    keep: "pass_rate < 1"
    epochs:                         # an inner stage each, filtered by the one before
      - {actor_rollout_ref.rollout.temperature: 0.6}
      - {actor_rollout_ref.rollout.temperature: 1.0}
  - name: measure
    trainer: evaluation
    set: {benchmarks: aime24, n_samples: 8}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from verl_ext.data.by_pass_rate import PASS_RATE
from verl_ext.data.row_filter import RowFilter, parse_filter
from verl_ext.errors import ConfigError, UserError, nearest

ONLINE, OFFLINE, SUPERVISED, EVALUATION = "online", "nft_offline", ("dft", "sft"), "evaluation"
TRAINERS = (ONLINE, OFFLINE, *SUPERVISED, EVALUATION)
_PLAN_KEYS = ("model", "set", "stages", "retries")
_STAGE_KEYS = ("name", "trainer", "train", "keep", "unseen", "rates", "set", "until", "epochs", "processes")
_UNTIL_KEYS = ("steps", "plateau", "patience", "at_most", "better")
OWNED = {
    ONLINE: (
        "actor_rollout_ref.model.path",
        "data.train_files",
        "trainer.default_local_dir",
        "trainer.total_training_steps",
        "trainer.resume_mode",
    ),
    OFFLINE: (
        "model.path",
        "data.rollouts",
        "trainer.default_local_dir",
        "trainer.total_training_steps",
        "trainer.resume_mode",
    ),
    EVALUATION: ("model", "output_dir"),
    **dict.fromkeys(
        SUPERVISED,
        (
            *("model.path", "data.train_files", "trainer.default_local_dir", "trainer.total_training_steps"),
            *("trainer.resume_mode", "objective.name"),
        ),
    ),
}
"""Keys that the runner sets itself, by trainer."""


@dataclass(frozen=True)
class Until:
    """When a stage ends."""

    steps: int | None = None
    """After so many steps; with `plateau`, after so many at most."""
    plateau: str | None = None
    """When this metric has no new best value."""
    patience: int = 5
    """For so many values in a row."""
    better: str = "higher"
    """`higher` or `lower` values are better."""


@dataclass(frozen=True)
class Stage:
    """One run."""

    name: str
    trainer: str = ONLINE
    train: tuple[str, ...] = ()
    keep: RowFilter | None = None
    unseen: str = "keep"
    """`keep` or `drop` rows of which the journal says nothing."""
    rates: str = ""
    """The stage whose journal gives `pass_rate`; empty where `keep` does not ask for it."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    until: Until = Until()
    processes: int = 1
    """Ranks that torchrun starts, for a trainer that is not online."""


@dataclass(frozen=True)
class Plan:
    """All stages, those of epochs one by one."""

    model: str
    stages: Sequence[Stage]
    retries: int = 2
    """How often a stage that lost a worker (exit code 4) is started again without coming further."""


def read_plan(path: Path, overrides: Mapping[str, str] | None = None) -> Plan:
    """Read a plan.

    Args:
        path: the YAML file; files that it names are relative to the current folder, as on a command line.
        overrides: `STAGE.KEY` or `KEY` (of all stages) -> value, over those of `set`.

    Raises:
        UserError: names the file and what in it cannot work.
    """
    try:
        given = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML ({' '.join(str(error).split())[:300]})") from error
    if not isinstance(given, Mapping):
        raise UserError(f"{path}: expected keys ({', '.join(_PLAN_KEYS)})")
    _require_known(path, given, _PLAN_KEYS, "")
    model = given.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong(path, "model", model, "a Hugging Face folder or hub id")
    retries = given.get("retries", Plan.retries)
    if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
        raise _wrong(path, "retries", retries, "0 or more")
    stages = given.get("stages")
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
        raise _wrong(path, "stages", stages, "a list of stages")
    common = _settings(path, given.get("set"), "set")
    for key in common:
        if key in OWNED[ONLINE]:
            raise _wrong(path, f"set.{key}", common[key], "not here: the runner sets it for each stage")
    read: list[Stage] = []
    for number, stage in enumerate(stages):
        read += _read_stage(path, number, stage, common, read)
    return Plan(model, _overridden(path, read, overrides or {}), retries)


def _read_stage(path: Path, number: int, given: Any, common: Mapping[str, Any], before: Sequence[Stage]) -> list[Stage]:
    where = f"stages[{number}]"
    if not isinstance(given, Mapping):
        raise _wrong(path, where, given, f"keys ({', '.join(_STAGE_KEYS)})")
    _require_known(path, given, _STAGE_KEYS, f"{where}.")
    name = given.get("name")
    if not isinstance(name, str) or not name or not all(c.isalnum() or c in "-_" for c in name):
        raise _wrong(path, f"{where}.name", name, "letters, digits, - and _")
    names = [stage.name.partition(".")[0] for stage in before]
    if name in names:
        raise _wrong(path, f"{where}.name", name, "another name: an earlier stage has it")
    trainer = given.get("trainer", ONLINE)
    if trainer not in TRAINERS:
        raise _wrong(path, f"{name}.trainer", trainer, f"one of {', '.join(TRAINERS)}")
    settings = _settings(path, given.get("set"), f"{name}.set")
    for key in settings:
        if key in OWNED[trainer]:
            raise _wrong(path, f"{name}.set.{key}", settings[key], "not here: the runner sets it")
    epochs = given.get("epochs")
    if epochs is not None and (not isinstance(epochs, Sequence) or isinstance(epochs, str) or not epochs):
        raise _wrong(path, f"{name}.epochs", epochs, "a list of keys for each epoch")
    if epochs is not None and trainer != ONLINE:
        raise _wrong(
            path, f"{name}.epochs", "given", f"nothing with trainer={trainer}: they are filtered by pass rates"
        )
    keep = parse_filter(str(given["keep"]), key=f"{path}: {name}.keep") if given.get("keep") is not None else None
    train = _files(path, given.get("train"), f"{name}.train")
    if trainer == EVALUATION:
        for key in ("train", "keep", "until"):
            if given.get(key) is not None:
                raise _wrong(path, f"{name}.{key}", given[key], "nothing in an evaluation")
    elif not train:
        raise _wrong(path, f"{name}.train", given.get("train"), "training files")
    stage = Stage(
        name,
        trainer,
        train,
        keep,
        _choice(path, f"{name}.unseen", given.get("unseen", "keep"), ("keep", "drop")),
        _journal(path, name, given, keep, before),
        {**(common if trainer == ONLINE else {}), **settings},
        _until(path, name, given.get("until"), trainer),
        _count(path, f"{name}.processes", given.get("processes", 1)),
    )
    if epochs is None:
        return [stage]
    return _inner_stages(path, stage, epochs)


def _inner_stages(path: Path, stage: Stage, epochs: Sequence[Any]) -> list[Stage]:
    """One for each epoch; from the second on, pass rates are those of the epoch before."""
    found = []
    for number, more in enumerate(epochs, start=1):
        settings = {**stage.settings, **_settings(path, more, f"{stage.name}.epochs[{number - 1}]")}
        asks = stage.keep is not None and PASS_RATE in stage.keep.columns
        keep, rates = stage.keep, stage.rates
        if asks and number == 1 and rates == stage.name:
            rest = [one for one in stage.keep.comparisons if one.column != PASS_RATE]
            keep, rates = (RowFilter(stage.keep.text, rest) if rest else None), ""
        elif asks and number > 1:
            rates = f"{stage.name}.{number - 1}"
        found.append(
            Stage(
                f"{stage.name}.{number}",
                stage.trainer,
                stage.train,
                keep,
                stage.unseen,
                rates,
                settings,
                stage.until,
                stage.processes,
            )
        )
    return found


def _journal(path: Path, name: str, given: Mapping[str, Any], keep: RowFilter | None, before: Sequence[Stage]) -> str:
    """The stage whose journal `keep` asks for: the one that `rates` names, else the online stage before."""
    asks = keep is not None and PASS_RATE in keep.columns
    named = given.get("rates")
    if named is not None and not asks:
        raise _wrong(path, f"{name}.rates", named, f"nothing without {PASS_RATE} in keep")
    if not asks:
        return ""
    online = [stage.name for stage in before if stage.trainer == ONLINE]
    if named is None:
        if given.get("epochs") is not None:
            return name
        if not online:
            raise _wrong(
                path, f"{name}.keep", keep.text, f"no {PASS_RATE} in the first online stage: nothing was measured yet"
            )
        return online[-1]
    if named not in online:
        raise _wrong(
            path, f"{name}.rates", named, f"an online stage before this one ({', '.join(online) or 'there is none'})"
        )
    return named


def _until(path: Path, name: str, given: Any, trainer: str) -> Until:
    if given is None:
        return Until()
    if not isinstance(given, Mapping):
        raise _wrong(path, f"{name}.until", given, f"keys ({', '.join(_UNTIL_KEYS)})")
    _require_known(path, given, _UNTIL_KEYS, f"{name}.until.")
    plateau = given.get("plateau")
    if plateau is None:
        for key in ("patience", "at_most", "better"):
            if key in given:
                raise _wrong(path, f"{name}.until.{key}", given[key], "nothing without plateau")
        return Until(_count(path, f"{name}.until.steps", given.get("steps")))
    if trainer != ONLINE:
        raise _wrong(path, f"{name}.until.plateau", plateau, "nothing with this trainer; it is for online stages")
    if "steps" in given:
        raise _wrong(path, f"{name}.until.steps", given["steps"], "at_most, beside plateau")
    if not isinstance(plateau, str) or not plateau:
        raise _wrong(path, f"{name}.until.plateau", plateau, "a metric, such as val/aime24/avg@8")
    return Until(
        _count(path, f"{name}.until.at_most", given.get("at_most")),
        plateau,
        _count(path, f"{name}.until.patience", given.get("patience", Until.patience)),
        _choice(path, f"{name}.until.better", given.get("better", "higher"), ("higher", "lower")),
    )


def _overridden(path: Path, stages: Sequence[Stage], overrides: Mapping[str, str]) -> list[Stage]:
    """The stages with what the command line says."""
    # A stage with epochs is known by its own name, and each epoch by its number behind that.
    names = {name for stage in stages for name in (stage.name, stage.name.partition(".")[0])}
    changed = list(stages)
    for key, value in overrides.items():
        owner = max((name for name in names if key.startswith(f"{name}.")), key=len, default="")
        inner = key[len(owner) + 1 :] if owner else key
        for position, stage in enumerate(changed):
            if owner in (stage.name, stage.name.partition(".")[0]) or (not owner and stage.trainer == ONLINE):
                if inner in OWNED[stage.trainer]:
                    raise _wrong(path, key, value, "not here: the runner sets it")
                changed[position] = replace(stage, settings={**stage.settings, inner: value})
    return changed


def _settings(path: Path, given: Any, where: str) -> dict[str, Any]:
    """Keys of a trainer, nested ones by their dotted path."""
    if given is None:
        return {}
    if not isinstance(given, Mapping):
        raise _wrong(path, where, given, "keys of the trainer")
    found: dict[str, Any] = {}
    for key, value in given.items():
        if not isinstance(key, str):
            raise _wrong(path, f"{where}.{key}", value, "a name as key")
        if isinstance(value, Mapping):
            found |= {f"{key}.{inner}": each for inner, each in _settings(path, value, f"{where}.{key}").items()}
        else:
            found[key] = value
    return found


def _files(path: Path, given: Any, where: str) -> tuple[str, ...]:
    files = [given] if isinstance(given, str) else given or []
    if not isinstance(files, Sequence) or not all(isinstance(file, str) for file in files):
        raise _wrong(path, where, given, "a file, or a list of files")
    return tuple(files)


def _count(path: Path, where: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _wrong(path, where, value, "a positive whole number")
    return value


def _choice(path: Path, where: str, value: Any, choices: Sequence[str]) -> str:
    if value not in choices:
        raise _wrong(path, where, value, " or ".join(choices))
    return value


def _require_known(path: Path, given: Mapping[Any, Any], known: Sequence[str], prefix: str) -> None:
    for key in given:
        if key not in known:
            close = nearest(str(key), known)
            hint = f"did you mean {prefix}{close}?" if close else f"there are {', '.join(known)}"
            raise UserError(f"{path}: unknown key {prefix}{key}; {hint}")


def _wrong(path: Path, key: str, given: Any, expected: str) -> ConfigError:
    return ConfigError(f"{path}: {key}", given=given, expected=expected)
