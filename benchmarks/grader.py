"""Answers per second: GraderPool against verl 0.9.1's `math_verify.compute_score`, on the same answers and workers.

    python benchmarks/grader.py --data FOLDER --answers 800 --workers 2

The answers are what a model writes: a solution of about 1,500 characters with its result in a box, half of them wrong.
Their golds are those of MATH-500 and OlympiadBench where the data is there, else a small list in this file.
Prints one row per grader, then the time of exact matches and the agreement of both.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from verl_ext.reward.grader import gold_answer, prepare
from verl_ext.reward.pool import GraderPool
from verl_ext.reward.sources import rule_for

FALLBACK = ["12", "\\frac{3}{4}", "2\\sqrt{5}", "(3, \\frac{\\pi}{2})", "x^2+2x+1", "[1,3]", "\\text{east}", "1,-2"]
REASONING = (
    "First we simplify the expression $\\frac{{{a}x + {b}}}{{{c}}}$ and set $y = x^2 - {a}$. Substituting gives "
    "$$y^2 - {b} y + {c} = 0,$$ so that $y = \\frac{{{b} \\pm \\sqrt{{{b}^2 - 4 \\cdot {c}}}}}{{2}}$. Since the number "
    "{a} divides {b}, we may write \\[ \\sum_{{k=1}}^{{n}} k = \\frac{{n(n+1)}}{{2}} = {c}. \\] "
)


def golds(folder: Path) -> list[str]:
    """Gold answers of the public sets, without dollar signs."""
    found = []
    for name, field in (("math500", "answer"), ("olympiadbench", "final_answer")):
        path = folder / f"{name}.jsonl"
        if path.is_file():
            rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            found += [gold_answer(row[field], rule_for(name)).replace("$", "") for row in rows]
    return found or FALLBACK


def rewritten(gold: str, generator: random.Random) -> str:
    """The same answer as a model would write it: sometimes with other spelling."""
    changes = (("\\frac", "\\dfrac"), (",", ", "), ("+", " + "), ("\\left", ""), ("^{\\circ}", "^\\circ"))
    old, new = generator.choice(changes)
    return gold if old == "\\left" and "\\right" in gold else gold.replace(old, new)


def wrong_answer(gold: str, others: list[str], generator: random.Random) -> str:
    """A wrong answer of the kind that models give: another number in the same place, or another problem's answer."""
    digits = [position for position, character in enumerate(gold) if character in "123456789"]
    if digits and generator.random() < 0.7:
        position = generator.choice(digits)
        return gold[:position] + str((int(gold[position]) % 9) + 1) + gold[position + 1 :]
    return generator.choice(others)


def answers(count: int, folder: Path, seed: int) -> list[tuple[str, str, bool]]:
    """(response, gold, meant to be right), half of them wrong."""
    generator = random.Random(seed)
    pool = golds(folder)
    made = []
    for number in range(count):
        gold = generator.choice(pool)
        right = number % 2 == 0
        final = rewritten(gold, generator) if right else wrong_answer(gold, pool, generator)
        text = ""
        while len(text) < 1450:
            text += REASONING.format(a=generator.randint(2, 9), b=generator.randint(10, 99), c=generator.randint(2, 99))
        made.append((f"{text}\nTherefore the final answer is $\\boxed{{{final}}}$.", gold, right and final != ""))
    return made


def run_ours(items: list[tuple[str, str, bool]], workers: int) -> tuple[float, list[bool], list[str]]:
    with GraderPool(workers=workers, timeout_s=10.0) as pool:
        pool.grade_many([("\\boxed{\\sqrt{20}}", "2\\sqrt{5}", "math")] * workers * 4)
        started = time.perf_counter()
        grades = pool.grade_many([(response, gold, "math500") for response, gold, _ in items])
        seconds = time.perf_counter() - started
    return seconds, [grade.correct for grade in grades], [grade.status for grade in grades]


def run_verl(items: list[tuple[str, str, bool]], workers: int) -> tuple[float, list[bool]]:
    """verl's own function; only its pool is replaced by one of the same kind with as many workers as ours."""
    from verl.utils.reward_score import math_verify

    math_verify._pool = ProcessPoolExecutor(max_workers=workers, mp_context=get_context("spawn"))
    with ThreadPoolExecutor(workers) as threads:
        list(threads.map(lambda _: math_verify.compute_score("\\boxed{\\sqrt{20}}", "2\\sqrt{5}"), range(workers * 4)))
        started = time.perf_counter()
        scores = list(threads.map(lambda item: math_verify.compute_score(item[0], item[1]), items))
        seconds = time.perf_counter() - started
    math_verify._pool.shutdown()
    return seconds, [score == 1.0 for score in scores]


def exact_match_ms(items: list[tuple[str, str, bool]]) -> float:
    """Median milliseconds of an answer that is its gold, letter for letter; a first look at each, no cache of ours."""
    times = []
    for response, gold, _ in items:
        exact = response[: response.rindex("\\boxed{")] + f"\\boxed{{{gold}}}$."
        started = time.perf_counter()
        assert prepare(exact, gold, "math500").correct
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("."), help="folder with math500.jsonl and olympiadbench.jsonl"
    )
    parser.add_argument("--answers", type=int, default=800)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    items = answers(options.answers, options.data, options.seed)
    length = statistics.mean(len(response) for response, _, _ in items)
    print(f"{len(items)} answers of {length:.0f} characters on average, {options.workers} workers")
    exact = exact_match_ms(items)
    our_seconds, ours, statuses = run_ours(items, options.workers)
    verl_seconds, theirs = run_verl(items, options.workers)
    print(f"{'grader':<28}{'seconds':>9}{'answers/s':>11}{'correct':>9}")
    for name, seconds, verdicts in (
        ("verl_ext GraderPool", our_seconds, ours),
        ("verl 0.9.1 math_verify", verl_seconds, theirs),
    ):
        print(f"{name:<28}{seconds:>9.2f}{len(items) / seconds:>11.1f}{sum(verdicts):>9}")
    print(
        f"speed-up {verl_seconds / our_seconds:.1f}; exact match {exact:.3f} ms; "
        f"not ok: {len(items) - statuses.count('ok')}"
    )
    for name, verdicts in (("verl_ext", ours), ("verl", theirs)):
        missed = sum(right and not verdict for (_, _, right), verdict in zip(items, verdicts, strict=True))
        false = sum(verdict and not right for (_, _, right), verdict in zip(items, verdicts, strict=True))
        print(f"{name}: {missed} right answers not accepted, {false} answers made wrong but accepted")


if __name__ == "__main__":
    main()
