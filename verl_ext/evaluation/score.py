"""The step that grades: every response that has no verdict yet, and the summary of all."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from verl_ext.errors import DataError
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.evaluation.grading import answer_of, grader_pool, submit_grade
from verl_ext.evaluation.progress import Progress
from verl_ext.evaluation.run_identity import Run
from verl_ext.evaluation.store import Lines, graded_file, key_of, read_json, samples_file, write_json
from verl_ext.evaluation.summary import summarise, write_summary
from verl_ext.reward.grading import Grade
from verl_ext.reward.metrics import FailureWatch
from verl_ext.reward.pool import GraderPool

WARN_SHARE = 0.02
UNDER_WAY_PER_WORKER = 64


def score(config: EvaluationConfig) -> dict[str, Any]:
    """Grade what `generate` has left in `config.output_dir`, and write and return its summary.

    Raises:
        UserError: the folder holds no run, or none of its samples.
    """
    output_dir = Path(config.output_dir)
    run = Run.read(output_dir)
    _start_over_if_other(config, run, output_dir)
    with grader_pool(config) as pool:
        for benchmark in run.benchmarks:
            _grade_missing(config, output_dir, benchmark, pool)
        summary = summarise(config, run, pool)
    write_summary(output_dir, config.grader, summary)
    return summary


def _start_over_if_other(config: EvaluationConfig, run: Run, output_dir: Path) -> None:
    """Verdicts under other options, or on samples of another run, do not count: they are removed, and that is said."""
    options = {"run": run.digest(), "after_think": config.after_think, "timeout_s": config.grader_timeout_s}
    if config.code_options != EvaluationConfig(output_dir=config.output_dir).code_options:
        options["code"] = asdict(replace(config.code_options, tests_dirs=()))
    path = graded_file(output_dir, config.grader, "").parent / "options.json"
    if path.exists() and read_json(path) != options:
        print(f"{path.parent}: graded with other options: grading anew", file=sys.stderr)
        for file in path.parent.glob("*.jsonl"):
            file.unlink()
    write_json(path, options)


def _grade_missing(config: EvaluationConfig, output_dir: Path, benchmark: str, pool: GraderPool) -> None:
    source = samples_file(output_dir, benchmark)
    if not source.exists():
        raise DataError(f"{source}: not found; `generate` has not come so far")
    graded = Lines(graded_file(output_dir, config.grader, benchmark))
    with graded:
        done = {key_of(record) for record in graded.read()}
        samples = Lines(source)
        total = sum(1 for _ in samples.read())
        with Progress(f"score {benchmark}", total, len(done)) as progress:
            watch = FailureWatch(WARN_SHARE)
            missing = (record for record in samples.read() if key_of(record) not in done)
            for record, grade in _in_order(missing, config, pool):
                graded.append({**record, **_verdict(grade)})
                watch.add([grade.status])
                progress.graded(grade.correct)
                progress.add()


def _in_order(
    records: Iterator[dict[str, Any]], config: EvaluationConfig, pool: GraderPool
) -> Iterator[tuple[dict[str, Any], Grade]]:
    """Records with their grades, so many at a time that the workers never wait and memory stays small."""
    under_way: deque[tuple[dict[str, Any], Future[Grade]]] = deque()
    for record in records:
        gold = record["gold"]
        future = submit_grade(
            pool,
            config,
            answer_of(record),
            gold if isinstance(gold, str) else tuple(gold),
            record["data_source"],
            tolerance=record["tolerance"],
        )
        under_way.append((record, future))
        if len(under_way) >= UNDER_WAY_PER_WORKER * config.workers:
            first, future = under_way.popleft()
            yield first, future.result()
    for record, future in under_way:
        yield record, future.result()


def _verdict(grade: Grade) -> dict[str, Any]:
    return {
        "prediction": grade.prediction,
        "correct": grade.correct,
        "status": grade.status,
        "detail": grade.detail,
        "grade_seconds": round(grade.seconds, 6),
    }
