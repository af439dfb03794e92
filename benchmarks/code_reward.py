"""CPU time of a program's test and tests per second: our sandbox against verl's `prime_code`, on the same programs.

    python benchmarks/code_reward.py --answers 40 --tests 12 --workers 2

Every answer reads a number and prints another; half of them are wrong, on their last test alone. Both get the same
programs and tests and take turns. prime_code has no isolation and runs all tests of an answer in one process; ours starts
a confined process for each test. CPU is that of this process and of all that it started. Slots are started before the
clock runs; their own start is measured apart.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import Measures, Report, alternate, medians

from verl_ext.reward.code.grade import CodeGrader
from verl_ext.sandbox.slot import Slot

Items = list[tuple[str, str, bool]]
"""(program, tests as JSON, whether it is right)"""


def answers(count: int, tests: int) -> Items:
    """Programs, every second of them wrong on the last test alone."""
    made = []
    for number in range(count):
        gold = {"inputs": [f"{n}\n" for n in range(tests)], "outputs": [f"{n * 2 + number}\n" for n in range(tests)]}
        right = number % 2 == 0
        code = f"n = int(input())\nprint(n * 2 + {number}" + (")" if right else f" + (n == {tests - 1}))")
        made.append((code, json.dumps(gold), right))
    return made


def cpu_seconds(pids: set[int]) -> float:
    """CPU time of processes and of those that they have waited for; one that is gone counts in its parent."""
    total = 0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def descendants() -> set[int]:
    """This process and all below it."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except OSError:
                continue
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def ours(workers: int) -> Callable[[Items], list[bool]]:
    grader = CodeGrader(workers)

    def run(items: Items) -> list[bool]:
        futures = [grader.submit(f"```python\n{code}\n```", gold) for code, gold, _ in items]
        return [future.result().correct for future in futures]

    run(answers(2 * workers, 1))
    return run


def primes(workers: int) -> Callable[[Items], list[bool]]:
    """verl's scorer, as its reward managers call it: `continuous=True`."""
    from verl.utils.reward_score import prime_code

    threads = ThreadPoolExecutor(workers)

    def grade(item: tuple[str, str, bool]) -> bool:
        score, _ = prime_code.compute_score(f"```python\n{item[0]}\n```", item[1], continuous=True)
        return score == 1.0

    def run(items: Items) -> list[bool]:
        return list(threads.map(grade, items))

    run(answers(2, 1))
    return run


def slot_start_ms(rounds: int) -> float:
    """Median milliseconds from nothing to a slot that takes jobs."""
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        slot = Slot()
        times.append(time.perf_counter() - started)
        slot.close()
    return 1000 * statistics.median(times)


GRADERS = {"verl_ext": ours, "prime_code": primes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--answers", type=int, default=40, help="(default: 40)")
    parser.add_argument("--tests", type=int, default=12, help="of each (default: 12)")
    parser.add_argument("--workers", type=int, default=2, help="answers at a time (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each grader (default: 3)")
    parser.add_argument("--out", type=Path, help="JSON file (default: benchmarks/results/code_reward.json)")
    options = parser.parse_args()
    start_ms = slot_start_ms(10)
    items = answers(options.answers, options.tests)
    graders = {name: make(options.workers) for name, make in GRADERS.items()}
    verdicts: dict[str, list[bool]] = {}

    def contender(name: str) -> Callable[[], Measures]:
        def run() -> Measures:
            before, started = cpu_seconds(descendants()), time.perf_counter()
            verdicts[name] = graders[name](items)
            return {"seconds": time.perf_counter() - started, "cpu": cpu_seconds(descendants()) - before}

        return run

    runs = alternate({name: contender(name) for name in graders}, rounds=options.rounds, warmup=0)
    report = Report(
        name="code_reward",
        title=f"{len(items)} programs with {options.tests} tests each, {options.workers} at a time",
        options=vars(options),
        packages=(),
    )
    tests = len(items) * options.tests
    for name, of_grader in runs.items():
        middle = medians(of_grader)
        found = list(zip(items, verdicts[name], strict=True))
        report.add(
            {
                "grader": name,
                "CPU ms per test": 1000 * middle["cpu"] / tests,
                "tests per second": tests / middle["seconds"],
                "right, not accepted": sum(right and not verdict for (_, _, right), verdict in found),
                "wrong, accepted": sum(verdict and not right for (_, _, right), verdict in found),
            },
            of_grader,
        )
    report.notes.append(f"Start of a slot: {start_ms:.0f} ms (target: 50). Targets: 4 ms of CPU, 200 tests per second.")
    print(f"kept in {report.publish(options.out)}")


if __name__ == "__main__":
    main()
