"""Hostile and fuzzed responses through a small pool: no crash, no hang, no growth; and answers behind hanging ones.

python benchmarks/grader_hostile.py --count 10000 --workers 2 --timeout-s 3
"""

from __future__ import annotations

import argparse
import random
import resource
import time
from collections import Counter

from verl_ext.reward.pool import GraderPool

MEGABYTE = 10**6
HANGING = "\\boxed{\\dfrac{5^{5^{5^{5^5}}-4}-5}{16}}"
RIGHT = ("\\boxed{\\sqrt{20}}", "2\\sqrt{5}", "math")
PIECES = [
    "\\",
    "{",
    "}",
    "(",
    ")",
    "[",
    "]",
    "$",
    "^",
    "_",
    "&",
    ",",
    "=",
    "<",
    "+",
    "-",
    "!",
    "|",
    " ",
    "\0",
    "\ud800",
    "1",
    "9",
    "x",
    "e",
    "i",
    "\\frac{1}{x}",
    "\\frac",
    "\\sqrt",
    "\\text{a}",
    "\\boxed{",
    "\\left(",
    "\\le ",
    "\\pm ",
    "\\cup ",
    "\\sin",
    "\\log",
    "\\sum",
    "\\int",
    "\\infty",
    "\\begin{pmatrix}",
    "\\end{pmatrix}",
    "99",
    "!",
    "^{99}",
]
MONSTERS = [
    "\\boxed{1}" * 100_000,
    "\\boxed{" * (MEGABYTE // 7),
    "\\boxed{" + "9" * MEGABYTE + "}",
    "\\boxed{" + "{" * 200_000 + "}" * 200_000 + "}",
    "answer is " + "$\\" * (MEGABYTE // 2),
    "Answer:" + " " * MEGABYTE,
    "\0" * MEGABYTE,
    "\\boxed{" + "(" * 900 + "1" + ")" * 900 + "}",
    "\\boxed{" + "\\frac{1}{" * 200 + "2" + "}" * 200 + "}",
    "\\boxed{(10^{9})!+\\sqrt{2}}",
    "\\boxed{99!!!+\\sqrt{2}}",
    "\\boxed{9^{9^{9^{9}}}+x}",
    "\\boxed{\\sum_{i=1}^{10^{9}}\\frac{1}{i}}",
    "\\boxed{\\binom{10^9}{10^8}+x}",
    "\\boxed{" + "(x+1)" * 150 + "}",
    "\\boxed{" + ",".join(["\\sqrt{2}"] * 200) + "}",
]
GOLDS = ["2\\sqrt{5}", "x+1", "(1,\\sqrt{2})", "5", "\\begin{pmatrix}1\\\\x\\end{pmatrix}", "y=2x+3"]


def hostile(count: int, seed: int) -> list[tuple[str, str, str]]:
    """A few hang, one in fifty is a monster, the rest is soup in a box."""
    generator = random.Random(seed)
    items = []
    for number in range(count):
        if number % 500 == 0:
            text = HANGING
        elif number % 50 == 0:
            text = generator.choice(MONSTERS)
        else:
            text = "\\boxed{" + "".join(generator.choices(PIECES, k=generator.randint(1, 12))) + "}"
        items.append((text, generator.choice(GOLDS), "math"))
    return items


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--timeout-s", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    items = hostile(options.count, options.seed)
    with GraderPool(options.workers, options.timeout_s) as pool:
        half = len(items) // 2
        started = time.perf_counter()
        grades = pool.grade_many(items[:half])
        before = memory_mb()
        grades += pool.grade_many(items[half:])
        print(
            f"{len(grades)} hostile answers in {time.perf_counter() - started:.1f} s; "
            f"memory {before:.0f} -> {memory_mb():.0f} MB"
        )
        print(Counter((grade.status, grade.correct) for grade in grades))
        print(Counter(grade.detail for grade in grades if grade.status == "error"))
        started = time.perf_counter()
        grades = pool.grade_many([(HANGING, "2\\sqrt{5}", "math")] * 20 + [RIGHT] * 100)
        correct = sum(grade.correct for grade in grades[20:])
        print(
            f"{correct} of 100 right answers behind 20 hanging ones correct, in {time.perf_counter() - started:.1f} s"
        )


if __name__ == "__main__":
    main()
