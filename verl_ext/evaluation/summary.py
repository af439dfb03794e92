"""From verdicts to numbers: `summary.json`, one part for each grader that has been at work in the folder.

{"run": what was asked, "graders": {GRADER: {"benchmarks": {NAME: {...}}, "average": {...}, "complete": true}}}
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from verl_ext.data.reading import iterate_rows, require_files
from verl_ext.errors import DataError, UserError
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.evaluation.grading import policy_for
from verl_ext.evaluation.judging import judge_config
from verl_ext.evaluation.run_identity import Run
from verl_ext.evaluation.store import Lines, graded_file, read_json, samples_file, write_json
from verl_ext.evaluation.voting import answer_groups
from verl_ext.reward.accuracy import (
    avg_at_k,
    best_at_k,
    maj_at_k,
    pass_at_k,
    powers_up_to,
    standard_error,
)
from verl_ext.reward.metrics import GRADER_FAILURES
from verl_ext.reward.pool import GraderPool
from verl_ext.reward.sources import rule_for

SUMMARY_FILE = "summary.json"
Scores = Mapping[tuple[str, int, int], float]
"""(benchmark, problem, sample) -> score of a reward model"""


@dataclass(frozen=True)
class Estimate:
    """A metric and its standard error, both as shares from 0 to 1."""

    value: float
    standard_error: float | None
    """Bootstrap over problems; None for a single problem."""

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        """Of values of each problem, shape (problems,)."""
        error = standard_error(values)
        return cls(float(values.mean()), None if math.isnan(error) else error)


@dataclass(frozen=True)
class Evaluated:
    """One folder's numbers by one grader."""

    name: str
    folder: Path
    run: Run
    grader: str
    summary: Mapping[str, Any]

    @property
    def benchmarks(self) -> Mapping[str, Mapping[str, Any]]:
        """Those of which there are samples."""
        return {name: numbers for name, numbers in self.summary["benchmarks"].items() if numbers["samples"]}


def summarise(config: EvaluationConfig, run: Run, pool: GraderPool) -> dict[str, Any]:
    """The numbers of one grader.

    Raises:
        UserError: there is no sample, or `rm_scores` does not fit.
    """
    scores = read_scores(config.rm_scores) if config.rm_scores else None
    benchmarks = {name: _of_benchmark(name, config, run, pool, scores) for name in run.benchmarks}
    present = {name: numbers for name, numbers in benchmarks.items() if numbers["samples"]}
    if not present:
        generated = any(
            next(Lines(samples_file(Path(config.output_dir), name)).read(), None) for name in run.benchmarks
        )
        lacking = "has a verdict yet" if generated else "has been generated"
        raise UserError(f"{config.output_dir}: no sample {lacking}")
    return {
        "benchmarks": benchmarks,
        "average": _average(list(present.values())),
        "complete": all(numbers["samples"] == numbers["samples_asked"] for numbers in benchmarks.values()),
        "after_think": config.after_think,
        "timeout_s": config.grader_timeout_s,
    }


def write_summary(output_dir: Path, grader: str, summary: Mapping[str, Any]) -> None:
    """Put the numbers of one grader into `summary.json`; those of others stay, if they are of the same run."""
    path = output_dir / SUMMARY_FILE
    run = asdict(Run.read(output_dir))
    before = read_json(path) if path.exists() else {}
    graders = before.get("graders", {}) if before.get("run") == run else {}
    write_json(path, {"run": run, "graders": {**graders, grader: summary}})


def read_scores(path: str) -> Scores:
    """Scores of a reward model: rows with benchmark, problem, sample and score.

    Raises:
        DataError: names the row that is not of that form.
    """
    require_files("rm_scores", [path])
    scores = {}
    for index, row in enumerate(iterate_rows(path)):
        try:
            key = (str(row["benchmark"]), int(row["problem"]), int(row["sample"]))
            scores[key] = float(row["score"])
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{path}: row {index}: expected benchmark, problem, sample and score") from error
        if not math.isfinite(scores[key]):
            raise DataError(f"{path}: row {index}: the score is not finite")
    return scores


def read_graded(output_dir: Path, grader: str, name: str, run: Run) -> list[list[dict[str, Any]]]:
    """Verdicts by problem and sample, without texts: those that the run asks for, problems without any left out."""
    asked = run.benchmarks[name]
    problems: dict[int, dict[int, dict[str, Any]]] = {}
    for record in Lines(graded_file(output_dir, grader, name)).read():
        if record["problem"] < asked["problems"] and record["sample"] < asked["n_samples"]:
            for long in ("question", "prompt", "response"):
                del record[long]
            problems.setdefault(record["problem"], {})[record["sample"]] = record
    return [[samples[i] for i in sorted(samples)] for _, samples in sorted(problems.items())]


def _of_benchmark(
    name: str, config: EvaluationConfig, run: Run, pool: GraderPool, scores: Scores | None
) -> dict[str, Any]:
    problems = read_graded(Path(config.output_dir), config.grader, name, run)
    records = [record for samples in problems for record in samples]
    asked = run.benchmarks[name]["problems"] * run.benchmarks[name]["n_samples"]
    numbers: dict[str, Any] = {"problems": len(problems), "samples": len(records), "samples_asked": asked}
    if not records:
        return numbers
    correct = [[record["correct"] for record in samples] for samples in problems]
    fewest = min(map(len, correct))
    extraction = rule_for(records[0]["data_source"]).extraction
    is_code, is_judged = extraction == "code", extraction == "judge"
    votes = not (is_code or is_judged)
    groups = [  # no vote among programs and proofs: two that do the same are not the same text
        [None] * len(samples)
        if not votes
        else answer_groups(
            [record["prediction"] for record in samples],
            [record["correct"] for record in samples],
            pool,
            policy_for(config, samples[0]["data_source"], samples[0]["tolerance"]),
        )
        for samples in problems
    ]
    lengths = np.array([record["tokens"] for record in records], dtype=np.float64)
    statuses = Counter(record["status"] for record in records)
    numbers.update(
        k=fewest,
        avg=asdict(Estimate.of(avg_at_k(correct))),
        **{"pass": {str(k): asdict(Estimate.of(pass_at_k(correct, k))) for k in powers_up_to(fewest)}},
        maj={}
        if not votes
        else {str(k): asdict(Estimate.of(maj_at_k(correct, groups, k))) for k in powers_up_to(fewest)},
        mean_tokens=float(lengths.mean()),
        mean_tokens_right=_mean(lengths, records, True),
        mean_tokens_wrong=_mean(lengths, records, False),
        truncated=sum(record["finish_reason"] == "length" for record in records) / len(records),
        no_answer=statuses["no_answer"] / len(records),
        without_verdict=sum(statuses[status] for status in GRADER_FAILURES) / len(records),
    )
    if is_judged:
        shares = np.array([np.mean([record["share"] for record in samples]) for samples in problems])
        numbers["mean_score"] = asdict(Estimate.of(shares))
        numbers["judge"] = judge_config(config, records[0]["data_source"]).model
    if is_code:
        wrong = Counter(record["detail"] for record in records if record["status"] == "ok" and not record["correct"])
        numbers["details"] = {detail: count / len(records) for detail, count in sorted(wrong.items())}
        numbers["by"] = _by_tags(problems, correct)
    if scores is not None:
        numbers["rm"] = _reward_model(name, problems, correct, groups, fewest, scores)
    return numbers


def _by_tags(
    problems: Sequence[Sequence[Mapping[str, Any]]], correct: Sequence[Sequence[bool]]
) -> dict[str, dict[str, dict[str, Any]]]:
    """{tag: {its value: {problems, avg}}}"""
    groups: dict[str, dict[str, list[Sequence[bool]]]] = {}
    for samples, right in zip(problems, correct, strict=True):
        for tag, value in (samples[0].get("tags") or {}).items():
            groups.setdefault(tag, {}).setdefault(value, []).append(right)
    return {
        tag: {
            value: {"problems": len(rights), "avg": asdict(Estimate.of(avg_at_k(rights)))}
            for value, rights in sorted(values.items())
        }
        for tag, values in sorted(groups.items())
    }


def _reward_model(
    name: str,
    problems: Sequence[Sequence[Mapping[str, Any]]],
    correct: Sequence[Sequence[bool]],
    groups: Sequence[Sequence[int | None]],
    fewest: int,
    scores: Scores,
) -> dict[str, Any]:
    """rm@k: the best of k, and the vote in which each answer counts its score."""
    keys = [[(name, record["problem"], record["sample"]) for record in samples] for samples in problems]
    missing = next((key for samples in keys for key in samples if key not in scores), None)
    if missing is not None:
        raise DataError(f"rm_scores: no score for {missing[0]} problem {missing[1]} sample {missing[2]}")
    values = [[scores[key] for key in samples] for samples in keys]
    # Votes must not be negative, or more votes for an answer would count against it: the lowest score of all is 0.
    lowest = min(scores.values())
    weights = [[value - lowest if lowest < 0 else value for value in samples] for samples in values]
    return {
        "best": {str(k): asdict(Estimate.of(best_at_k(correct, values, k))) for k in powers_up_to(fewest)},
        "weighted_majority": {}
        if all(group is None for samples in groups for group in samples)
        else {str(k): asdict(Estimate.of(maj_at_k(correct, groups, k, weights=weights))) for k in powers_up_to(fewest)},
    }


def _average(benchmarks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the benchmarks' avg@k, each with the same weight as in the papers' tables."""
    values = [numbers["avg"]["value"] for numbers in benchmarks]
    errors = [numbers["avg"]["standard_error"] for numbers in benchmarks]
    known = None not in errors
    error = math.sqrt(sum(error**2 for error in errors)) / len(errors) if known else None
    return asdict(Estimate(sum(values) / len(values), error))


def _mean(lengths: np.ndarray, records: Sequence[Mapping[str, Any]], correct: bool) -> float | None:
    chosen = lengths[np.array([record["correct"] is correct for record in records])]
    return float(chosen.mean()) if len(chosen) else None


def read_summary(folder: Path) -> dict[str, Any]:
    """Raises:
    UserError: the folder has none yet.
    """
    try:
        return json.loads((folder / SUMMARY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {SUMMARY_FILE}; run the step `score` first") from None
