"""Answers per second: GraderPool against verl's `math_verify.compute_score` and math-verify alone.

    python benchmarks/grader.py --data FOLDER --answers 800 --workers 2

The answers are what a model writes: a solution of about 1,500 characters with its result in a box, half of them wrong.
Their golds are those of MATH-500 and OlympiadBench where the data is there, else a small list in this file.
All graders get the same answers and as many worker processes, which have graded before the clock runs; they take turns.
"math-verify alone" is its `parse` and `verify` in processes of a plain pool, without verl.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from pathlib import Path

from harness import Measures, Report, alternate, medians

from verl_ext.reward.grading import gold_answer, prepare
from verl_ext.reward.pool import GraderPool
from verl_ext.reward.sources import rule_for

Items = list[tuple[str, str, bool]]
"""(response, gold, meant to be right)"""
Grader = Callable[[Items], list[bool]]

WARM_UP = ("\\boxed{\\sqrt{20}}", "2\\sqrt{5}")
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
    while (other := generator.choice(others)) == gold:
        pass
    return other


def answers(count: int, folder: Path, seed: int) -> Items:
    """Answers, half of them wrong."""
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


def ours(workers: int, stack: ExitStack) -> Grader:
    """This package's pool."""
    pool = stack.enter_context(GraderPool(workers=workers, timeout_s=10.0))
    pool.grade_many([(*WARM_UP, "math")] * workers * 4)
    return lambda items: [
        grade.correct for grade in pool.grade_many([(response, gold, "math500") for response, gold, _ in items])
    ]


def verls(workers: int, stack: ExitStack) -> Grader:
    """verl's own function; only its pool is replaced by one of the same kind with as many workers."""
    from verl.utils.reward_score import math_verify

    math_verify._pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
    threads = stack.enter_context(ThreadPoolExecutor(workers))
    list(threads.map(lambda _: math_verify.compute_score(*WARM_UP), range(workers * 4)))
    return lambda items: list(threads.map(lambda item: math_verify.compute_score(item[0], item[1]) == 1.0, items))


def math_verify_alone(workers: int, stack: ExitStack) -> Grader:
    """math-verify in a plain pool of processes."""
    pool = stack.enter_context(ProcessPoolExecutor(workers, mp_context=get_context("spawn")))
    list(pool.map(verify, [WARM_UP[0]] * workers * 4, [WARM_UP[1]] * workers * 4))
    return lambda items: list(pool.map(verify, [item[0] for item in items], [item[1] for item in items], chunksize=4))


def verify(response: str, gold: str) -> bool:
    """One answer, by math-verify with its defaults; the gold is an expression as it stands."""
    from math_verify import parse, verify

    return verify(parse(f"${gold}$"), parse(response))


GRADERS = {"verl_ext": ours, "verl": verls, "math-verify alone": math_verify_alone}


def exact_match_ms(items: Items) -> float:
    """Median milliseconds of an answer that is its gold, letter for letter; a first look at each, no cache of ours."""
    times = []
    for response, gold, _ in items:
        exact = response[: response.rindex("\\boxed{")] + f"\\boxed{{{gold}}}$."
        started = time.perf_counter()
        assert prepare(exact, gold, "math500").correct
        times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--data", type=Path, default=Path("."), help="folder with math500.jsonl and olympiadbench.jsonl (default: .)"
    )
    parser.add_argument("--answers", type=int, default=800, help="(default: 800)")
    parser.add_argument("--workers", type=int, default=2, help="processes of each grader (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each grader (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the answers (default: 0)")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/grader.json)")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    items = answers(options.answers, options.data, options.seed)
    length = statistics.mean(len(response) for response, _, _ in items)
    exact = exact_match_ms(items)
    verdicts: dict[str, list[bool]] = {}
    with ExitStack() as stack:
        graders = {name: start(options.workers, stack) for name, start in GRADERS.items()}

        def contender(name: str) -> Callable[[], Measures]:
            def run() -> Measures:
                started = time.perf_counter()
                verdicts[name] = graders[name](items)
                return {"seconds": time.perf_counter() - started}

            return run

        runs = alternate({name: contender(name) for name in graders}, rounds=options.rounds, warmup=0)
    report = Report(
        name="grader",
        title=f"Grading {len(items)} answers of {length:.0f} characters, {options.workers} workers",
        options=vars(options),
        packages=("math-verify", "sympy", "pebble"),
    )
    seconds = {name: medians(of_grader)["seconds"] for name, of_grader in runs.items()}
    for name, found in verdicts.items():
        pairs = list(zip(items, found, strict=True))
        report.add(
            {
                "grader": name,
                "answers per second": len(items) / seconds[name],
                "verl_ext is faster by": seconds[name] / seconds["verl_ext"],
                "accepted": sum(found),
                "right, not accepted": sum(right and not verdict for (_, _, right), verdict in pairs),
                "made wrong, accepted": sum(verdict and not right for (_, _, right), verdict in pairs),
            },
            runs[name],
        )
    report.notes.append(f"An answer that is its gold, letter for letter: {exact:.3f} ms.")
    report.notes.append(f"Against verl: {seconds['verl'] / seconds['verl_ext']:.1f} (target: 5)")
    print(f"kept in {report.publish(options.out)}")


if __name__ == "__main__":
    main()
