"""The step that grades: every response that has no verdict yet, and the summary of all."""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from verl_ext.errors import DataError
from verl_ext.evaluation.config import EvaluationConfig
from verl_ext.evaluation.grading import answer_of, grader_pool, submit_grade
from verl_ext.evaluation.judging import JudgePool, is_judged, judge_config, judge_identity
from verl_ext.evaluation.progress import Progress
from verl_ext.evaluation.run_identity import Run
from verl_ext.evaluation.store import Lines, graded_file, key_of, read_json, samples_file, write_json
from verl_ext.evaluation.summary import summarise, write_summary
from verl_ext.reward.grading import Grade
from verl_ext.reward.metrics import GRADER_FAILURES, FailureWatch
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
    with grader_pool(config) as pool, JudgePool(config) as judges:
        for benchmark in run.benchmarks:
            _grade_missing(config, output_dir, benchmark, _Graders(config, pool, judges))
        summary = summarise(config, run, pool)
    write_summary(output_dir, config.grader, summary)
    return summary


def _start_over_if_other(config: EvaluationConfig, run: Run, output_dir: Path) -> None:
    """Verdicts under other options, or on samples of another run, do not count: they are removed, and that is said."""
    options = {"run": run.digest(), "after_think": config.after_think, "timeout_s": config.grader_timeout_s}
    if config.code_options != EvaluationConfig(output_dir=config.output_dir).code_options:
        options["code"] = asdict(replace(config.code_options, tests_dirs=()))
    sources = _judged_sources(run, output_dir)
    if sources:
        options["judge"] = {source: judge_identity(judge_config(config, source)) for source in sources}
    path = graded_file(output_dir, config.grader, "").parent / "options.json"
    if path.exists() and read_json(path) != options:
        print(f"{path.parent}: graded with other options: grading anew", file=sys.stderr)
        for file in path.parent.glob("*.jsonl"):
            file.unlink()
    write_json(path, options)


def _judged_sources(run: Run, output_dir: Path) -> list[str]:
    """The data sources that a judge grades, by the first sample of each benchmark."""
    firsts = (next(Lines(samples_file(output_dir, name)).read(), None) for name in run.benchmarks)
    return sorted({first["data_source"] for first in firsts if first and is_judged(first["data_source"])})


def _grade_missing(config: EvaluationConfig, output_dir: Path, benchmark: str, graders: _Graders) -> None:
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
            failed: Counter[str] = Counter()
            for record, grade in _in_order(missing, config, graders):
                if grade.is_judged and grade.status in GRADER_FAILURES:
                    failed[grade.detail] += 1  # not written, so that the next start asks again
                else:
                    graded.append({**record, **_verdict(grade)})
                watch.add([grade.status])
                progress.graded(grade.correct)
                progress.add()
    if failed:
        said = ", ".join(f"{count} x {detail}" for detail, count in failed.most_common(3))
        print(f"{benchmark}: {failed.total()} answers have no verdict ({said}); `score` asks again", file=sys.stderr)


@dataclass(frozen=True)
class _Graders:
    """Who grades a sample: a judge, or worker processes."""

    config: EvaluationConfig
    pool: GraderPool
    judges: JudgePool

    def submit(self, record: dict[str, Any]) -> Future[Grade]:
        if is_judged(record["data_source"]):
            return self.judges.submit(record)
        gold = record["gold"]
        return submit_grade(
            self.pool,
            self.config,
            answer_of(record),
            gold if isinstance(gold, str) else tuple(gold),
            record["data_source"],
            tolerance=record["tolerance"],
        )


def _in_order(
    records: Iterator[dict[str, Any]], config: EvaluationConfig, graders: _Graders
) -> Iterator[tuple[dict[str, Any], Grade]]:
    """Records with their grades, so many at a time that the workers never wait and memory stays small."""
    under_way: deque[tuple[dict[str, Any], Future[Grade]]] = deque()
    for record in records:
        under_way.append((record, graders.submit(record)))
        if len(under_way) >= UNDER_WAY_PER_WORKER * config.workers:
            first, future = under_way.popleft()
            yield first, future.result()
    for record, future in under_way:
        yield record, future.result()


def _verdict(grade: Grade) -> dict[str, Any]:
    return {
        **({"share": grade.share} if grade.is_judged else {}),
        "prediction": grade.prediction,
        "correct": grade.correct,
        "status": grade.status,
        "detail": grade.detail,
        "grade_seconds": round(grade.seconds, 6),
    }
