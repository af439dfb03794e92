"""Rightness of the grader beside math-verify, on answers made by rule from public gold answers.

    python benchmarks/grader_suites.py --data FOLDER --kinds decimals names --limit 900 --seed 0
    python benchmarks/grader_suites.py --data FOLDER --random-pairs 6000

The rules (benchmarks/rewritings) spell a gold answer in another way, or make another answer of it, and know which they
did. Both graders see the same responses. math-verify is used as its page says: the gold parsed from a box, LaTeX before
plain numbers, letters of a choice where the source is one, its own defaults otherwise.

With `--random-pairs` the answers are golds of other problems of the same set: all that are accepted are listed, and
those that only one direction accepts.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from harness import Report
from rewritings import KINDS, Gold, Rewriting, rewritings_of

from verl_ext.cli import user_errors_exit
from verl_ext.data.benchmarks import BENCHMARKS
from verl_ext.errors import ConfigError, DataError, nearest
from verl_ext.evaluation.benchmarks import load_problems
from verl_ext.reward.grading import Undecided, gold_answer, prepare
from verl_ext.reward.pool import GraderPool
from verl_ext.reward.sources import rule_for

SETS = ("aime24", "aime25", "amc23", "gsm8k", "math500", "mawps", "minerva_math", "olympiadbench")
Verdicts = list[bool]
_DOLLAR = re.compile(r"(?<!\\)\$")


def golds_of(folder: Path) -> list[Gold]:
    """The gold answers of all sets that are in the folder.

    Raises:
        DataError: none is.
    """
    found = []
    for name in SETS:
        if (folder / f"{name}.jsonl").is_file():
            known = name in BENCHMARKS
            where = name if known else f"{name}:{folder / name}.jsonl"
            for problem in load_problems(where, data_dir=str(folder), data_source=None if known else name):
                text = gold_answer(problem.gold, rule_for(problem.data_source))
                bare = _DOLLAR.sub("", text).strip(". ")
                found.append(Gold(bare, name, problem.data_source))
    if not found:
        raise DataError(f"{folder}: none of {', '.join(f'{name}.jsonl' for name in SETS)} is in it")
    return found


def graded_by_us(made: list[Rewriting], workers: int) -> tuple[Verdicts, list[str]]:
    """Verdicts and statuses of this package's pool."""
    with GraderPool(workers=workers, timeout_s=10.0) as pool:
        grades = pool.grade_many([(item.response, item.gold, item.data_source) for item in made])
    return [grade.correct for grade in grades], [grade.status for grade in grades]


def graded_by_math_verify(made: list[Rewriting], workers: int) -> Verdicts:
    """Verdicts of math-verify alone, in a plain pool of processes."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(verified, [(item.gold, item.response, item.data_source) for item in made], chunksize=16))


def verified(item: tuple[str, str, str]) -> bool:
    """One answer by math-verify."""
    from math_verify import (
        ExprExtractionConfig,
        LatexExtractionConfig,
        StringExtractionConfig,
        parse,
        verify,
    )

    gold, response, data_source = item
    if data_source == "multiple_choice":
        letters = [StringExtractionConfig(strings=("A", "B", "C", "D", "E"), lowercase=True)]
        return verify(parse(gold, letters), parse(response, letters))
    readings = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
    return verify(parse(f"\\boxed{{{gold}}}", readings), parse(response, readings))


def needs_worker(item: Rewriting) -> bool:
    """Whether text and numbers alone leave it undecided."""
    return isinstance(prepare(item.response, item.gold, item.data_source), Undecided)


def report_rewritings(options: argparse.Namespace, golds: list[Gold]) -> None:
    made = rewritings_of(golds, options.kinds, options.limit, options.seed)
    ours, statuses = graded_by_us(made, options.workers)
    theirs = graded_by_math_verify(made, options.workers) if not options.ours_only else None
    report = Report(
        name="grader_suites",
        title=f"{len(made):,} rewritings of {len(set(golds)):,} gold answers",
        options=vars(options),
        packages=("math-verify", "sympy", "latex2sympy2-extended"),
    )
    rows = {name: [index for index, item in enumerate(made) if item.kind == name] for name in options.kinds}
    for name, indices in {**rows, "all": range(len(made))}.items():
        report.add(_row(name, indices, made, ours, theirs))
    without = Counter(status for status in statuses if status != "ok")
    report.notes.append(f"Without a verdict: {dict(without) or 'none'}.")
    share = sum(map(needs_worker, made)) / max(len(made), 1)
    report.notes.append(f"Share that needed a worker: {share:.1%}.")
    failures = [
        {"kind": item.kind, "rule": item.rule, "gold": item.gold, "answer": item.answer, "response": item.response,
         "equal": item.equal, "source": item.data_source, "status": status}
        for item, verdict, status in zip(made, ours, statuses, strict=True) if verdict != item.equal
    ]  # fmt: skip
    for (kind, rule, equal), count in sorted(Counter((f["kind"], f["rule"], f["equal"]) for f in failures).items()):
        example = next(f for f in failures if (f["kind"], f["rule"], f["equal"]) == (kind, rule, equal))
        fault = "called wrong" if equal else "accepted"
        print(f"{count:4} {fault:12} {kind}: {rule}: {example['response']!r} for {example['gold']!r}", file=sys.stderr)
    if options.failures:
        with options.failures.open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(failure, ensure_ascii=False) + "\n" for failure in failures)
    print(f"kept in {report.publish(options.out)}")


def _row(
    name: str, indices: Iterable[int], made: list[Rewriting], ours: Verdicts, theirs: Verdicts | None
) -> dict[str, object]:
    indices = list(indices)
    equal = [index for index in indices if made[index].equal]
    other = [index for index in indices if not made[index].equal]

    def right(verdicts: Verdicts) -> float:
        return 100 * sum(verdicts[i] == made[i].equal for i in indices) / max(len(indices), 1)

    row: dict[str, object] = {
        "kind": name,
        "same": len(equal),
        "other": len(other),
        "ours right, %": f"{right(ours):.2f}",
        "same, called wrong": sum(not ours[i] for i in equal),
        "other, accepted": sum(ours[i] for i in other),
    }
    if theirs is not None:
        row["math-verify right, %"] = f"{right(theirs):.2f}"
        row["its same, called wrong"] = sum(not theirs[i] for i in equal)
        row["its other, accepted"] = sum(theirs[i] for i in other)
    return row


def pairs_of(golds: list[Gold], count: int, seed: int) -> list[tuple[Gold, Gold]]:
    """Pairs of golds of one set whose texts differ, drawn without repetition, evenly over the sets."""
    generator = random.Random(seed)
    by_set = defaultdict(list)
    for gold in sorted(set(golds), key=lambda gold: (gold.benchmark, gold.text)):
        by_set[gold.benchmark].append(gold)
    wanted, pairs = count, set()
    possible = sum(len(found) * (len(found) - 1) // 2 for found in by_set.values())
    while len(pairs) < min(wanted, possible):
        one, other = generator.sample(by_set[generator.choice(sorted(by_set))], 2)
        pairs.add((one, other) if one.text < other.text else (other, one))
    return sorted(pairs, key=lambda pair: (pair[0].benchmark, pair[0].text, pair[1].text))


def report_pairs(options: argparse.Namespace, golds: list[Gold]) -> None:
    pairs = pairs_of(golds, options.random_pairs, options.seed)
    directed = [pair for one, other in pairs for pair in ((one, other), (other, one))]
    items = [(f"$\\boxed{{{answer.text}}}$", gold.text, gold.data_source) for gold, answer in directed]
    with GraderPool(workers=options.workers, timeout_s=10.0) as pool:
        grades = pool.grade_many(items)
    report = Report(
        name="grader_pairs",
        title=f"{len(pairs):,} pairs of different golds of one set, in both directions",
        options=vars(options),
        packages=("math-verify", "sympy", "latex2sympy2-extended"),
    )
    for (gold, answer), there, back in zip(pairs, grades[::2], grades[1::2], strict=True):
        if there.correct or back.correct:
            accepted = "both" if there.correct and back.correct else "one"
            report.add({"set": gold.benchmark, "gold": gold.text, "answer": answer.text, "accepted": accepted})
    report.notes.append(f"Accepted: {len(report.rows) or 'none'}.")
    report.notes.append(f"Accepted in one direction only: {sum(row['accepted'] == 'one' for row in report.rows)}.")
    report.notes.append(f"Without a verdict: {dict(Counter(g.status for g in grades if g.status != 'ok')) or 'none'}.")
    print(f"kept in {report.publish(options.out)}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("."), help="folder with the sets as NAME.jsonl (default: .)")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), help=f"of {', '.join(KINDS)} (default: all)")
    parser.add_argument("--limit", type=int, default=900, help="most rewritings of one kind (default: 900)")
    parser.add_argument("--random-pairs", type=int, default=0, help="this many pairs of golds instead of rewritings")
    parser.add_argument("--workers", type=int, default=2, help="processes of each grader (default: 2)")
    parser.add_argument("--ours-only", action="store_true", help="leave math-verify out")
    parser.add_argument("--seed", type=int, default=0, help="of the rewritings or the pairs (default: 0)")
    parser.add_argument("--failures", type=Path, help="file for every answer that we decide wrongly, as JSON lines")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/grader_suites.json)")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    with user_errors_exit():
        for name in options.kinds:
            if name not in KINDS:
                hint = f"did you mean {close}? " if (close := nearest(name, KINDS)) else ""
                raise ConfigError("--kinds", given=name, expected=f"{hint}any of {', '.join(KINDS)}")
        golds = golds_of(options.data)
    if options.random_pairs:
        report_pairs(options, golds)
    else:
        report_rewritings(options, golds)


if __name__ == "__main__":
    main()
